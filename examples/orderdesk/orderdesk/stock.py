"""What lies in the warehouse, and how much of it is already promised."""


class OutOfStock(Exception):
    """There is not enough left of an article."""

    def __init__(self, article, wanted, left):
        super().__init__(f"{article}: {wanted} wanted, {left} left")
        self.article = article
        self.wanted = wanted
        self.left = left


class Warehouse:
    """Pieces by article; reserving promises them, shipping takes them off the shelf."""

    def __init__(self, pieces):
        self._pieces = dict(pieces)
        self._reserved = {}

    def left(self, article):
        """Pieces that can still be promised."""
        return self._pieces.get(article, 0) - self._reserved.get(article, 0)

    def reserve(self, order):
        """Promise every line of an order, or none of them."""
        wanted = {}
        for line in order.lines:
            wanted[line.article] = wanted.get(line.article, 0) + line.pieces
        for article, pieces in wanted.items():
            if pieces > self.left(article):
                raise OutOfStock(article, pieces, self.left(article))
        for article, pieces in wanted.items():
            self._reserved[article] = self._reserved.get(article, 0) + pieces

    def ship(self, order):
        """Take a reserved order off the shelf."""
        for line in order.lines:
            self._reserved[line.article] -= line.pieces
            self._pieces[line.article] -= line.pieces
