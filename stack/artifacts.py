"""The files that the stack runs: 46 jars and one archive, pinned by SHA-256 in `artifacts.lock.json`.

They are downloaded once into the cache directory, by jgo in pure Python; afterwards nothing here needs a network.
"""

import errno
import hashlib
import json
import os
import shutil
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from stack.errors import ArtifactUnavailableError, ChecksumMismatchError, StackError
from stack.files import write_atomically

LOCK_FILE = Path(__file__).with_name("artifacts.lock.json")
KAFKA = "kafka"
REGISTRY = "registry"
REGISTRY_JAR = "quarkus-run.jar"
Progress = Callable[[str], None]

_DOWNLOADS_AT_ONCE = 4
_ATTEMPTS = 3
_TIMEOUT_S = 30
_QUIET_S = 2.0


@dataclass(frozen=True)
class Artifact:
    """One pinned file of Maven Central.

    Attributes:
        part: which service needs it, `kafka` or `registry`.
        coordinate: group:artifact:version:classifier:packaging.
    """

    part: str
    coordinate: str
    size_bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Name of the file in the cache."""
        _, artifact, version, classifier, packaging = self.coordinate.split(":")
        return f"{artifact}-{version}{f'-{classifier}' if classifier else ''}.{packaging}"


@dataclass(frozen=True)
class Installed:
    """Where the verified files are.

    Attributes:
        kafka_classpath: every jar that the broker needs.
        registry_folder: the unpacked registry, with `quarkus-run.jar` in it.
    """

    kafka_classpath: tuple[Path, ...]
    registry_folder: Path


def pinned(lock_file: Path = LOCK_FILE) -> tuple[Artifact, ...]:
    """Read the lock file."""
    return tuple(Artifact(**entry) for entry in json.loads(lock_file.read_text())["artifacts"])


class Fetch(Protocol):
    """Brings one file into a folder."""

    def __call__(self, artifact: Artifact, folder: Path, received: Callable[[int], None]) -> Path:
        """Return where it is.

        Args:
            received: is told the bytes as they come, and raises to end the transfer.

        Raises:
            OSError: it cannot be had.
        """


def files_folder(cache_dir: Path) -> Path:
    """Return the folder in which the files are kept."""
    return cache_dir.expanduser().absolute() / "stack"


def install(
    cache_dir: Path,
    progress: Progress,
    check: Callable[[], None],
    artifacts: tuple[Artifact, ...] | None = None,
    fetch: Fetch | None = None,
) -> Installed:
    """Make sure that every pinned file is in the cache, verified, and the registry unpacked.

    Idempotent and safe for several processes at once: files appear under their name only when complete and verified.
    The content is hashed once; later calls compare size and modification time with what was noted then.

    Args:
        check: is called a few times a second during a download, and may raise to end it.
        artifacts: what is needed, instead of what the lock file pins.
        fetch: where it comes from, instead of Maven Central.

    Raises:
        ArtifactUnavailableError: a file is missing and cannot be downloaded.
        ChecksumMismatchError: what came is not what is pinned.
    """
    wanted = pinned() if artifacts is None else artifacts
    folder = files_folder(cache_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        stamps = _Stamps(folder / "verified.json")
        missing = [artifact for artifact in wanted if not stamps.vouch_for(folder, artifact)]
        if missing:
            _download(missing, folder, _Meter(missing, progress), check, fetch or from_maven_central)
            for artifact in missing:
                stamps.note(folder, artifact)
        stamps.save()
        jars = tuple(folder / artifact.file_name for artifact in wanted if artifact.part == KAFKA)
        archive = next(artifact for artifact in wanted if artifact.part == REGISTRY)
        return Installed(jars, _unpack(folder, archive, progress))
    except OSError as error:
        raise StackError(
            f"The files of the stack cannot be kept in {folder}: {error.strerror or error}.",
            hint="About 450 MB are needed: free some space, or set cache_dir to another folder.",
        ) from error


def _sweep(folder: Path) -> None:
    """Remove what downloads and unpackings that were killed have left behind."""
    for left in [*folder.glob(".staging-*"), *folder.glob(".unpack-*")]:
        if not psutil.pid_exists(int(left.name.split("-")[1])):
            shutil.rmtree(left, ignore_errors=True)


class _Stamps:
    """What is known of files that were hashed before: {name: [size, mtime_ns, sha256]}."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = False
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            found = {}
        self._known: dict[str, list[object]] = found if isinstance(found, dict) else {}

    def vouch_for(self, folder: Path, artifact: Artifact) -> bool:
        """Tell whether the cached file is the pinned one; a changed file is hashed again, a wrong one removed."""
        path = folder / artifact.file_name
        if not path.is_file():
            return False
        stat = path.stat()
        if self._known.get(artifact.file_name) == [stat.st_size, stat.st_mtime_ns, artifact.sha256]:
            return True
        if stat.st_size == artifact.size_bytes and sha256_of(path) == artifact.sha256:
            self.note(folder, artifact)
            return True
        path.unlink(missing_ok=True)
        return False

    def note(self, folder: Path, artifact: Artifact) -> None:
        """Remember that this file was verified as it is now."""
        stat = (folder / artifact.file_name).stat()
        self._known[artifact.file_name] = [stat.st_size, stat.st_mtime_ns, artifact.sha256]
        self._changed = True

    def save(self) -> None:
        """Write the notes if there are new ones."""
        if self._changed:
            write_atomically(self._path, json.dumps(self._known, indent=1) + "\n")


def sha256_of(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _Meter:
    """Counts downloaded bytes over all threads, tells them every two seconds, and stops them on request."""

    def __init__(self, missing: list[Artifact], progress: Progress) -> None:
        self._total_bytes = sum(artifact.size_bytes for artifact in missing)
        self._progress = progress
        self._lock = threading.Lock()
        self._done_bytes = 0
        self._told_at = time.monotonic()
        self.stopped = threading.Event()
        files = "1 file" if len(missing) == 1 else f"{len(missing)} files"
        progress(f"Downloading {files} of the embedded stack ({self._total_bytes / 1e6:.0f} MB), once")

    def add(self, count: int) -> None:
        if self.stopped.is_set():
            raise ArtifactUnavailableError("The download was stopped.")
        with self._lock:
            self._done_bytes += count
            if time.monotonic() - self._told_at < _QUIET_S:
                return
            self._told_at = time.monotonic()
            done_mb, total_mb = self._done_bytes / 1e6, self._total_bytes / 1e6
        self._progress(f"Downloading Kafka and the schema registry: {done_mb:.0f} of {total_mb:.0f} MB")


def from_maven_central(artifact: Artifact, folder: Path, received: Callable[[int], None]) -> Path:
    """Let jgo download one file, in pure Python: never the mvn command."""
    from jgo.maven import MavenContext, PythonResolver

    @contextmanager
    def metered(_name: str, _size_bytes: int) -> Iterator[Callable[[int], None]]:
        yield received

    group, name, version, classifier, packaging = artifact.coordinate.split(":")
    context = MavenContext(resolver=PythonResolver(progress_callback=metered), repo_cache=folder, timeout=_TIMEOUT_S)
    try:
        return Path(context.project(group, name).at_version(version).artifact(classifier, packaging).resolve())
    except RuntimeError as error:  # what jgo makes of a 404
        raise FileNotFoundError(str(error)) from error


def _download(missing: list[Artifact], folder: Path, meter: _Meter, check: Callable[[], None], fetch: Fetch) -> None:
    largest_first = sorted(missing, key=lambda artifact: -artifact.size_bytes)
    executor = ThreadPoolExecutor(_DOWNLOADS_AT_ONCE, thread_name_prefix="download")
    try:
        running: set[Future[None]] = {executor.submit(_bring, each, folder, meter, fetch) for each in largest_first}
        while running:
            finished, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
            check()
    finally:
        meter.stopped.set()
        executor.shutdown(wait=True, cancel_futures=True)


def _bring(artifact: Artifact, folder: Path, meter: _Meter, fetch: Fetch) -> None:
    """Download one file beside its place, verify it, and only then give it its name."""
    staging = folder / f".staging-{os.getpid()}-{artifact.sha256[:16]}"
    try:
        path = _fetch_patiently(artifact, staging, meter, fetch)
        found = sha256_of(path)
        if found != artifact.sha256:
            raise ChecksumMismatchError(
                f"{artifact.file_name} was downloaded, but its SHA-256 is {found[:16]}... and "
                f"{artifact.sha256[:16]}... is pinned, so it is not used.",
                hint="Something between here and Maven Central changed it (a proxy?); try another network.",
            )
        path.replace(folder / artifact.file_name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _fetch_patiently(artifact: Artifact, staging: Path, meter: _Meter, fetch: Fetch) -> Path:
    attempt = 1
    while True:
        try:
            return fetch(artifact, staging, meter.add)
        except OSError as error:  # also the root of what requests raises
            shutil.rmtree(staging, ignore_errors=True)
            if error.errno in {errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT}:
                raise
            if attempt == _ATTEMPTS or meter.stopped.is_set():
                raise ArtifactUnavailableError(
                    f"{artifact.file_name} is not in the cache and cannot be downloaded ({type(error).__name__}).",
                    hint="The first start needs the internet (Maven Central, 204 MB); a proxy is taken from "
                    "HTTPS_PROXY. Later starts need no network.",
                ) from error
            attempt += 1


def _unpack(folder: Path, archive: Artifact, progress: Progress) -> Path:
    """Unpack the registry once; the folder appears under its name only when complete."""
    target = folder / f"registry-{archive.sha256[:16]}"
    if (target / REGISTRY_JAR).is_file():
        return target
    progress("Unpacking the schema registry, once")
    staging = folder / f".unpack-{os.getpid()}-{archive.sha256[:16]}"
    try:
        with tarfile.open(folder / archive.file_name) as tar:
            if hasattr(tarfile, "data_filter"):
                tar.extractall(staging, filter="data")
            else:  # Python 3.11 before 3.11.4; the archive's pinned SHA-256 has been checked
                tar.extractall(staging)  # noqa: S202
        try:
            staging.rename(target)
        except OSError:
            if not (target / REGISTRY_JAR).is_file():  # else another process was faster
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target
