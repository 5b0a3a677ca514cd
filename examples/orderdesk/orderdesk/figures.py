"""What a row of amounts says: the figures of the monthly report."""


def average(amounts):
    """The mean in whole cents; 0 where there are no amounts."""
    return sum(amounts) // len(amounts) if amounts else 0


def median(amounts):
    """The amount in the middle: half of them are smaller, half of them larger; 0 where there are no amounts."""
    if not amounts:
        return 0
    ordered = sorted(amounts)
    middle = len(ordered) // 2
    return ordered[middle]


def spread(amounts):
    """The smallest and the largest amount; (0, 0) where there are no amounts."""
    if not amounts:
        return 0, 0
    return min(amounts), max(amounts)
