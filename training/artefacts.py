"""Seals a folder of model files with a manifest, and checks the seal before anybody parses a byte of them.

`manifest.json` has the SHA-256 and the size of every file; the manifest's own SHA-256 is kept elsewhere, with the
model's registration, so that who can change the folder cannot change what it is checked against.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from training.errors import TrainingError

MANIFEST: Final = "manifest.json"


class ArtefactError(TrainingError):
    """The files of a model are not those that were registered; nothing of them was parsed."""


def seal(folder: Path, about: Mapping[str, Any]) -> str:
    """Write the manifest of a folder that holds a model's files; return the manifest's SHA-256.

    Args:
        about: what else the manifest is to tell; JSON.
    """
    files = {path.name: _sealed(path.read_bytes()) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    text = json.dumps({**about, "files": files}, indent=1, sort_keys=True).encode()
    (folder / MANIFEST).write_bytes(text)
    return hashlib.sha256(text).hexdigest()


def checked_files(folder: Path, manifest_sha256: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the manifest and the bytes of each file; these are what was checked, so parse them and not the files.

    Raises:
        ArtefactError: a file is missing, was changed, or is not in the manifest; it names the file.
    """
    text = _read(folder / MANIFEST)
    if hashlib.sha256(text).hexdigest() != manifest_sha256:
        raise _refused(folder / MANIFEST, "is not the one that was registered: its SHA-256 differs")
    manifest: dict[str, Any] = json.loads(text)
    names = {path.name for path in folder.iterdir()} - {MANIFEST}
    for name in sorted(names - set(manifest["files"])):
        raise _refused(folder / name, "is not in the manifest")
    found: dict[str, bytes] = {}
    for name, expected in manifest["files"].items():
        found[name] = _read(folder / name)
        if _sealed(found[name]) != expected:
            raise _refused(folder / name, "was changed after it was registered: its SHA-256 or size differs")
    return manifest, found


def _sealed(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error


def _refused(path: Path, what: str) -> ArtefactError:
    return ArtefactError(
        f"The model file {path} {what}.",
        hint="Restore the folder from a copy, or train again and promote the new version.",
    )
