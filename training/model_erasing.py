"""Erases users from models: the factors of a user go; those of products, and counts over many, name nobody.

A model is written anew into a folder of its own; then the registry is told its new SHA-256, which is one value and says
where the files are, too; then the former folder goes. Whatever is killed in between leaves a model that can be loaded,
and the next erasure finishes: it deletes the folders that nobody answers for.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from config.settings import Settings
from replay.erase import EraseModels, ModelErasure
from sinks.erasures import Tombstones
from training.artefacts import MANIFEST, checked_files, seal
from training.models import Models
from training.recommending import USERS_FILE, parsed_users, write_users
from training.registering import Pending, alone, queue, queued

Tell = Callable[[str], None]

_ERASURES: Final = "erasures"


def model_eraser(settings: Settings, tell: Tell) -> EraseModels:
    """Return what erases from the models of the settings; see `erase_from_models`."""
    return lambda tombstones: erase_from_models(Models.from_settings(settings), tombstones, tell)


def erase_from_models(models: Models, tombstones: Tombstones, tell: Tell) -> Sequence[ModelErasure]:
    """Erase from every model, registered or queued, the users whose erasure is younger than its data; blocking.

    A run that is killed may be repeated.

    Raises:
        ModelRegistryError: the registry does not answer.
        ArtefactError: a model's files are not those that were registered.
    """
    if not models.artefacts.is_dir():
        return ()
    found: list[ModelErasure] = []
    with alone(models.artefacts):
        waiting = {pending.key: pending for pending in queued(models.artefacts)}
        answered: set[Path] = set()
        for version in models.versions():
            erased, sha256 = _erase(models, version.key, version.manifest_sha256, version.version, tombstones)
            if sha256 != version.manifest_sha256:
                models.replace_files(version.version, sha256)
            if waiting.pop(version.key, None) is not None:  # registered, and killed before it left the queue
                queue(models.artefacts, Pending(version.key, sha256))
            found.append(erased)
            answered.add(models.folder(version.key, sha256))
        for pending in waiting.values():
            erased, sha256 = _erase(models, *pending, f"queued {pending.key}", tombstones)
            queue(models.artefacts, Pending(pending.key, sha256))
            found.append(erased)
            answered.add(models.folder(pending.key, sha256))
        _delete_leftovers(models.artefacts, answered)
    for each in found:
        if each.users:
            tell(f"model {each.model}: factors of {each.users:,} users erased")
    return found


def _erase(
    models: Models, key: str, manifest_sha256: str, name: str, tombstones: Tombstones
) -> tuple[ModelErasure, str]:
    """Write a model anew where it has to be; return what came of it, and the SHA-256 that answers for it now."""
    folder = models.folder(key, manifest_sha256)
    if not folder.is_dir():
        return ModelErasure(name, 0, "gone"), manifest_sha256
    manifest, files = checked_files(folder, manifest_sha256)
    users, factors = parsed_users(files[USERS_FILE])
    read_ms = manifest["about"]["read_ms"]
    kept = np.array([tombstones.until_ms(user) < read_ms for user in users.ids()], bool)
    count = int(len(users) - kept.sum())
    if not count:
        return ModelErasure(name, 0, "clean"), manifest_sha256
    partial = models.artefacts / f".{key}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for file, content in files.items():
        (partial / file).write_bytes(content)
    write_users(partial, users.kept(kept), factors[kept])
    noted = {"erased_ms": time.time_ns() // 1_000_000, "users": count}
    about = {"about": manifest["about"], _ERASURES: [*manifest.get(_ERASURES, []), noted]}
    sha256 = seal(partial, about)
    partial.rename(models.folder(key, sha256))
    return ModelErasure(name, count, "written anew"), sha256


def _delete_leftovers(artefacts: Path, answered: set[Path]) -> None:
    """Delete folders that nobody answers for: what a process left behind that was killed, and former files."""
    for folder in artefacts.iterdir():
        is_model = (folder / MANIFEST).is_file() or folder.name.endswith(".partial")
        if folder.is_dir() and is_model and folder not in answered:
            shutil.rmtree(folder)
