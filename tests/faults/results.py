"""The rows of finished scenarios: kept in a file, so that a run can be resumed, and drawn as a table."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from tests.faults.scenario import Row

_CODE: Final = ("config", "feature_repo", "features", "replay", "schemas", "serving", "sinks", "stack", "streams")
_TESTS: Final = ("tests/faults", "tests/crash_points.py", "tests/oracle.py", "traffic", "cli/demo_check.py")
_KINDS: Final = {".py", ".lua", ".avsc", ".yaml"}


def code_fingerprint(root: Path) -> str:
    """Return a hash of what a row depends on: rows of other code are not results of this one."""
    digest = hashlib.sha256()
    for name in (*_CODE, *_TESTS):
        path = root / name
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            if file.suffix in _KINDS and file.is_file():
                digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


class Results:
    """Rows in a file, a JSON object per line, each with the fingerprint of the code that it was made with."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path = path
        self._fingerprint = fingerprint

    def add(self, row: Row) -> None:
        """Append a row."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps({"code": self._fingerprint, **asdict(row)}) + "\n")

    def rows(self) -> dict[str, Row]:
        """Return the newest row of each fault that was made with this code."""
        if not self._path.is_file():
            return {}
        found = [json.loads(line) for line in self._path.read_text().splitlines()]
        return {entry["fault"]: Row(**entry) for entry in found if entry.pop("code") == self._fingerprint}

    def clear(self) -> None:
        """Forget all rows."""
        self._path.unlink(missing_ok=True)


_COLUMNS: Final = ("injected", "records", "lost", "duplicated", "mismatched")


def header() -> str:
    """Return the titles of the columns."""
    return f"{'fault':37}" + "".join(f"{name:>11}" for name in _COLUMNS) + f"{'seconds':>9}  notes"


def line(row: Row) -> str:
    """Return one row of the table."""
    numbers = "".join(f"{getattr(row, name):>11,}" for name in _COLUMNS)
    return f"{row.fault:37}{numbers}{row.seconds:>9.1f}  {'FAILED: ' + row.failure if row.failure else row.notes}"


def totals(rows: Sequence[Row]) -> str:
    """Return the closing lines."""
    failed = [row.fault for row in rows if row.failure]
    sums = ", ".join(f"{name} {sum(getattr(row, name) for row in rows):,}" for name in _COLUMNS[2:])
    counts = (
        f"{len(rows)} faults, injected {sum(row.injected for row in rows):,} times, "
        f"kill -9: {sum(row.kills for row in rows):,}; {sum(row.records for row in rows):,} records; "
        f"{sum(row.seconds for row in rows):,.0f} s"
    )
    return f"{counts}\n{sums}" + (f"; FAILED: {', '.join(failed)}" if failed else "")
