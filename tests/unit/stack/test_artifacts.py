"""The pinned files: verified once, mended when damaged, and never needed from the network twice."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stack.artifacts import KAFKA, REGISTRY, REGISTRY_JAR, Artifact, files_folder, install, pinned
from stack.errors import ArtifactUnavailableError, ChecksumMismatchError, StackError, StackInterruptedError


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        content = b"a jar"
        entry = tarfile.TarInfo(REGISTRY_JAR)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


CONTENTS = {"broker-1.jar": b"broker", "log-2.jar": b"log", "registry-3-all.tar.gz": archive()}


def artifact(part: str, coordinate: str) -> Artifact:
    bare = Artifact(part, coordinate, 0, "")
    content = CONTENTS[bare.file_name]
    return Artifact(part, coordinate, len(content), hashlib.sha256(content).hexdigest())


WANTED = (
    artifact(KAFKA, "g:broker:1::jar"),
    artifact(KAFKA, "g:log:2::jar"),
    artifact(REGISTRY, "g:registry:3:all:tar.gz"),
)


class Source:
    """A repository in memory that counts what is asked of it."""

    def __init__(self, contents: dict[str, bytes], failures: int = 0) -> None:
        self.contents = contents
        self.failures = failures
        self.asked: list[str] = []

    def __call__(self, artifact: Artifact, folder: Path, received: Callable[[int], None]) -> Path:
        self.asked.append(artifact.file_name)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("no route")
        folder.mkdir(parents=True)
        path = folder / artifact.file_name
        path.write_bytes(self.contents[artifact.file_name])
        received(len(self.contents[artifact.file_name]))
        return path


def nothing(*_: str) -> None:
    """Neither tell nor check."""


def test_first_call_downloads_verifies_and_unpacks(tmp_path: Path) -> None:
    source = Source(CONTENTS)
    told: list[str] = []
    installed = install(tmp_path, told.append, nothing, WANTED, source)
    assert sorted(source.asked) == sorted(CONTENTS)
    assert [path.read_bytes() for path in installed.kafka_classpath] == [b"broker", b"log"]
    assert (installed.registry_folder / REGISTRY_JAR).read_bytes() == b"a jar"
    assert told[0].startswith("Downloading 3 files")
    assert not list(files_folder(tmp_path).glob(".*"))


def test_second_call_asks_nobody(tmp_path: Path) -> None:
    first = install(tmp_path, nothing, nothing, WANTED, Source(CONTENTS))
    source = Source({})
    assert install(tmp_path, nothing, nothing, WANTED, source) == first
    assert source.asked == []


def test_later_calls_hash_only_what_changed_since(tmp_path: Path) -> None:
    installed = install(tmp_path, nothing, nothing, WANTED, Source(CONTENTS))
    jar = installed.kafka_classpath[0]
    os.utime(jar, ns=(1, 1))
    source = Source({})
    install(tmp_path, nothing, nothing, WANTED, source)
    noted = json.loads((files_folder(tmp_path) / "verified.json").read_text())
    assert noted[jar.name] == [6, 1, WANTED[0].sha256]
    assert source.asked == []


@pytest.mark.parametrize("damage", [b"BROKER", b"", b"broker and more"])
def test_damaged_file_is_downloaded_again(tmp_path: Path, damage: bytes) -> None:
    installed = install(tmp_path, nothing, nothing, WANTED, Source(CONTENTS))
    installed.kafka_classpath[0].write_bytes(damage)
    source = Source(CONTENTS)
    install(tmp_path, nothing, nothing, WANTED, source)
    assert source.asked == ["broker-1.jar"]
    assert installed.kafka_classpath[0].read_bytes() == b"broker"


def test_notes_of_another_version_do_not_count(tmp_path: Path) -> None:
    install(tmp_path, nothing, nothing, WANTED, Source(CONTENTS))
    other = Artifact(KAFKA, WANTED[0].coordinate, WANTED[0].size_bytes, hashlib.sha256(b"newer!").hexdigest())
    source = Source({**CONTENTS, "broker-1.jar": b"newer!"})
    install(tmp_path, nothing, nothing, (other, *WANTED[1:]), source)
    assert source.asked == ["broker-1.jar"]


def test_what_is_not_pinned_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ChecksumMismatchError, match=r"log-2.jar .* pinned"):
        install(tmp_path, nothing, nothing, WANTED, Source({**CONTENTS, "log-2.jar": b"bad"}))
    assert not (files_folder(tmp_path) / "log-2.jar").exists()


def test_a_short_outage_is_sat_out(tmp_path: Path) -> None:
    source = Source(CONTENTS, failures=2)
    install(tmp_path, nothing, nothing, WANTED, source)
    assert len(source.asked) == 5


def test_no_network_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ArtifactUnavailableError, match="needs the internet"):
        install(tmp_path, nothing, nothing, WANTED, Source(CONTENTS, failures=100))


def test_a_signal_ends_the_download(tmp_path: Path) -> None:
    def check() -> None:
        raise StackInterruptedError("Stopped by SIGINT")

    with pytest.raises(StackInterruptedError):
        install(tmp_path, nothing, check, WANTED, Source(CONTENTS))
    assert not list(files_folder(tmp_path).glob(".staging-*"))


def test_rests_of_a_killed_download_are_removed(tmp_path: Path) -> None:
    no_process = 2**22 + 1  # above the highest pid
    rest = files_folder(tmp_path) / f".staging-{no_process}-abc"
    rest.mkdir(parents=True)
    install(tmp_path, nothing, nothing, WANTED, Source(CONTENTS))
    assert not rest.exists()


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "stack").write_text("a file is in the way")
    with pytest.raises(StackError, match="cache_dir"):
        install(tmp_path, nothing, nothing, WANTED, Source(CONTENTS))


def test_the_lock_pins_every_file_once() -> None:
    artifacts = pinned()
    assert len({each.file_name for each in artifacts}) == len(artifacts)
    assert [each.part for each in artifacts].count(REGISTRY) == 1
    assert len([each for each in artifacts if each.part == KAFKA]) == 46
    assert all(len(each.sha256) == 64 and each.size_bytes > 0 for each in artifacts)
    names = {each.file_name for each in artifacts}
    assert {"kafka_2.13-4.3.1.jar", "apicurio-registry-app-3.3.3-all.tar.gz"} <= names
