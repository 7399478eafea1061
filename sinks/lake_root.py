"""Where a lake is."""

from pathlib import Path

Lake = Path
