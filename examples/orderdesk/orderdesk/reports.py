"""What the shop wants to know at the end of a month."""

from collections import Counter

from orderdesk.figures import average, median, spread
from orderdesk.money import format_cents


def best_sellers(orders, count=3):
    """The articles of which most pieces were sold, as (article, pieces), most first."""
    pieces = Counter()
    for order in orders:
        for line in order.lines:
            pieces[line.article] += line.pieces
    return pieces.most_common(count)


def monthly_report(orders):
    """The month in five lines of text."""
    totals = [order.total for order in orders]
    smallest, largest = spread(totals)
    favourites = ", ".join(f"{article} ({pieces})" for article, pieces in best_sellers(orders))
    return "\n".join(
        [
            f"orders:        {len(orders)}",
            f"average order: {format_cents(average(totals))}",
            f"typical order: {format_cents(median(totals))}",
            f"from/to:       {format_cents(smallest)} / {format_cents(largest)}",
            f"best sellers:  {favourites or 'none'}",
        ]
    )
