"""An order, its lines and what they cost."""

from dataclasses import dataclass, field
from typing import List

from orderdesk.discounts import apply_voucher, quantity_discount
from orderdesk.money import less_percent

FREE_SHIPPING_FROM = 5000
SHIPPING = 495


@dataclass(frozen=True)
class Line:
    """Some pieces of one article at a price in cents."""

    article: str
    pieces: int
    price: int

    @property
    def discount(self):
        return quantity_discount(self.pieces)

    @property
    def total(self):
        return less_percent(self.pieces * self.price, self.discount)


@dataclass
class Order:
    """What a customer wants, and the voucher they typed."""

    customer: str
    lines: List[Line] = field(default_factory=list)
    voucher: str = ""

    def add(self, article, pieces, price):
        if pieces < 1:
            raise ValueError(f"{article}: an order line needs at least one piece")
        self.lines.append(Line(article, pieces, price))

    @property
    def goods(self):
        return apply_voucher(sum(line.total for line in self.lines), self.voucher)

    @property
    def shipping(self):
        return 0 if self.goods >= FREE_SHIPPING_FROM else SHIPPING

    @property
    def total(self):
        return self.goods + self.shipping
