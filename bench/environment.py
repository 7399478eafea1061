"""Environments of programs whose packages and ours ask for different ones: made from a lock of their own."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def locked_python(name: str) -> Path:
    """Return the interpreter of `.venv-<name>`, made from `requirements/<name>.txt` when it is not there yet.

    Several processes may ask at once.

    Raises:
        subprocess.CalledProcessError: the packages cannot be had.
    """
    folder, lock = ROOT / f".venv-{name}", ROOT / "requirements" / f"{name}.txt"
    interpreter, stamp = folder / "bin" / "python", folder / ".locked"
    with lock.open() as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not stamp.is_file() or stamp.read_text() != lock.read_text():
            sys.stderr.write(f"installing {folder.name}\n")
            _install(folder, interpreter, lock)
            stamp.write_text(lock.read_text())
    return interpreter


def _install(folder: Path, interpreter: Path, lock: Path) -> None:
    uv = str(Path(sys.executable).with_name("uv"))
    variables = dict(os.environ)
    if "PIP_INDEX_URL" in variables:  # uv reads its own variables only
        variables["UV_DEFAULT_INDEX"] = variables["PIP_INDEX_URL"]
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        [
            uv,
            "pip",
            "sync",
            "--quiet",
            "--python",
            str(interpreter),
            "--only-binary",
            ":all:",
            "--require-hashes",
            str(lock),
        ],
    ):
        subprocess.run(command, check=True, env=variables, stdout=sys.stderr)
