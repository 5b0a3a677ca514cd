"""What the shop wants to know of its orders at the end of a month."""

from collections import Counter


def average(amounts):
    """The mean of some amounts in whole cents; 0 where there are none."""
    return sum(amounts) // len(amounts) if amounts else 0


def median(amounts):
    """The amount in the middle: half of the orders cost less, half cost more; 0 where there are none."""
    if not amounts:
        return 0
    ordered = sorted(amounts)
    return ordered[len(ordered) // 2]


def best_sellers(orders, count=3):
    """The articles of which most pieces were sold, as (article, pieces), most first."""
    pieces = Counter()
    for order in orders:
        for line in order.lines:
            pieces[line.article] += line.pieces
    return pieces.most_common(count)
