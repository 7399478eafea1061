"""Numbers as people read them."""

import math
from datetime import UTC, datetime

_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))


def percent(share: float) -> str:
    """Return a share in percent, with as many digits as matter: `5.1 %`."""
    return f"{100 * share:.3g} %"


def span(duration_ms: float) -> str:
    """Return a duration in its largest unit: `1.5 h`, `20 ms`."""
    for unit_ms, name in _UNITS:
        if duration_ms >= unit_ms:
            return f"{duration_ms / unit_ms:.3g} {name}"
    return f"{duration_ms:.0f} ms"


def moment(at_ms: int) -> str:
    """Return a point in time, given in integer milliseconds UTC: `2026-01-31 12:00:00 UTC`."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def p_value(log_p: float | None) -> str:
    """Return a p-value that is given by its natural logarithm: `0.031`, `2.1e-315`; a dash for none."""
    if log_p is None:
        return "-"
    exponent = log_p / math.log(10)
    if exponent > -4:
        return f"{math.exp(log_p):.2g}"
    whole = math.floor(exponent)  # exp would give 0
    return f"{10 ** (exponent - whole):.1f}e{whole:d}"
