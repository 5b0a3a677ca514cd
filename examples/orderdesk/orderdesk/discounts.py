"""What a quantity or a voucher takes off a price."""

from collections import namedtuple

from orderdesk.money import less_percent

Tier = namedtuple("Tier", "pieces percent")

TIERS = (Tier(10, 5), Tier(50, 10), Tier(100, 15))

VOUCHERS = {"WELCOME": 10, "SORRY": 20}


def quantity_discount(pieces, tiers=TIERS):
    """Percent off for that many pieces of one article: the best tier that the quantity reaches."""
    for tier in reversed(tiers):
        if pieces >= tier.pieces:
            return tier.percent
    return 0


def voucher_discount(code):
    """Percent off for a voucher; unknown codes are refused."""
    try:
        return VOUCHERS[code.strip().upper()]
    except KeyError:
        raise ValueError(f"unknown voucher: {code}") from None


def apply_voucher(cents, code):
    """The amount that is left to pay with a voucher; no code, no discount."""
    if not code:
        return cents
    return less_percent(cents, voucher_discount(code))
