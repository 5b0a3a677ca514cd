"""An order as text, for the parcel and the archive."""

from orderdesk.money import format_cents

WIDTH = 48


def render(order):
    """The invoice: one row for each line, then what is to pay."""
    rows = [f"Invoice for {order.customer}", "-" * WIDTH]
    for line in order.lines:
        label = f"{line.pieces} x {line.article}"
        if line.discount:
            label += f" (-{line.discount} %)"
        rows.append(_row(label, line.total))
    if order.voucher:
        rows.append(_row(f"with voucher {order.voucher}", order.goods))
    rows.append(_row("shipping", order.shipping))
    rows.append("-" * WIDTH)
    rows.append(_row("to pay", order.total))
    return "\n".join(rows)


def _row(label, cents):
    amount = format_cents(cents)
    return f"{label:<{WIDTH - len(amount) - 1}} {amount}"
