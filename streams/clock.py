"""Real time; everything else in this package gets its time from an injected clock."""

import time


class SystemClock:
    """Implements `streams.ports.Clock`."""

    def now_ms(self) -> int:
        """Return wall-clock milliseconds UTC."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()
