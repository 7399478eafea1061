"""Numbers as people read them."""

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
