"""Small files that a crash never leaves half-written."""

import os
from pathlib import Path

from stack.errors import StackError


def write_atomically(path: Path, text: str) -> None:
    """Replace the file as a whole: a reader sees the old text or the new one.

    Raises:
        StackError: the disk refuses (full, read-only, no permission).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StackError(
            f"{path} cannot be written: {error.strerror or error}.",
            hint="Free some disk space, or choose another folder with --home.",
        ) from error
