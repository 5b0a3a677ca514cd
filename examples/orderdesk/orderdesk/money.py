"""Money is whole cents; only what a person reads has a decimal point."""


def percent_of(cents, percent):
    """A share of an amount in whole cents, half a cent rounded up."""
    return (cents * percent + 50) // 100


def less_percent(cents, percent):
    """An amount with a discount taken off."""
    return cents - percent_of(cents, percent)


def format_cents(cents, symbol="EUR"):
    """1234567 -> '12,345.67 EUR'; shares of a cent are rounded."""
    sign = "-" if cents < 0 else ""
    whole, rest = divmod(round(abs(cents)), 100)
    return f"{sign}{whole:,}.{rest:02d} {symbol}"
