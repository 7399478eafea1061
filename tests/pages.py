"""Follows a how-to page word by word: its edits are made, and its commands run, in the order in which they stand there.

Edits are blocks of `diff`. Commands are blocks of `sh`, and run in one folder, each block in a shell of its own. A
command that ends in `&` runs on until the test is over; the next one waits until it is up.
"""

import os
import re
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND_DEADLINE_S = 180


class Block(NamedTuple):
    """A fenced block of a page."""

    kind: str
    text: str


class Edit(NamedTuple):
    """A change of one file: what is there, and what comes in its place; without the first, at the end of the file."""

    path: str
    before: str
    after: str


def blocks(page: Path) -> list[Block]:
    """Return the edits and commands of a page, in their order."""
    found = [Block(*match.groups()) for match in _FENCE.finditer(page.read_text())]
    return [block for block in found if block.kind in {"diff", "sh"}]


def edits(text: str) -> Iterator[Edit]:
    """Read a block of `diff`: `--- path`, then lines to find (space), to remove (minus) and to add (plus)."""
    path = ""
    hunk: list[str] = []
    for line in [*text.splitlines(), "--- "]:
        # where something is found or removed after something was added, another place begins
        if hunk and (line.startswith("--- ") or (hunk[-1][:1] == "+" and line[:1] != "+")):
            before = "\n".join(old[1:] for old in hunk if old[:1] != "+")
            yield Edit(path, before, "\n".join(new[1:] for new in hunk if new[:1] != "-"))
            hunk = []
        if line.startswith("--- "):
            path = line.removeprefix("--- ")
        else:
            hunk.append(line)


def apply(root: Path, edit: Edit) -> None:
    """Change a file below `root`; what the page shows must be there, once."""
    path = root / edit.path
    text = path.read_text()
    if not edit.before:
        path.write_text(text + edit.after + "\n")
        return
    assert text.count(edit.before) == 1, f"{edit.path} does not hold this once: {edit.before}"
    path.write_text(text.replace(edit.before, edit.after))


@dataclass
class Follower:
    """Follows a page in a folder.

    Args:
        skipped: commands that are not run; each must be on the page.
        wait_up: waits until a command that runs on is up; it gets the process and its log.
        before: is called with each command before it runs.
    """

    root: Path
    environment: Mapping[str, str]
    skipped: Collection[str]
    wait_up: Callable[["subprocess.Popen[bytes]", Path], None]
    before: Callable[[str], None] = lambda _: None
    running: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)

    def follow(self, page: Path) -> None:
        """Do everything that the page says."""
        left = set(self.skipped)
        for block in blocks(page):
            if block.kind == "diff":
                for edit in edits(block.text):
                    apply(self.root, edit)
                continue
            for command in block.text.splitlines():
                if command in self.skipped:
                    left.discard(command)
                    continue
                self.before(command)
                self._run(command)
        assert not left, f"not on the page: {left}"

    def _run(self, command: str) -> None:
        if command.endswith(" &"):
            log = self.root / f"background-{len(self.running)}.log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    ["bash", "-c", f"exec {command.removesuffix(' &')}"],
                    cwd=self.root, env=self._env(), stdout=output, stderr=output, start_new_session=True,
                )  # fmt: skip
            self.running.append(process)
            self.wait_up(process, log)
            return
        done = subprocess.run(
            ["bash", "-ec", command], cwd=self.root, env=self._env(), capture_output=True, text=True,
            timeout=COMMAND_DEADLINE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        self.outputs[command] = done.stdout

    def _env(self) -> dict[str, str]:
        # "." is the folder of whoever runs: a checkout's own .venv would import that checkout
        return {**os.environ, **self.environment, "PYTHONPATH": "."}


def copied_project(source: Path, target: Path, *, without: Sequence[str] = ()) -> Path:
    """Copy the tracked files of a project, with its environment; return where they are."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=source, capture_output=True, text=True, check=True).stdout
    for name in listed.split("\0"):
        if name and (source / name).is_file() and not name.startswith(tuple(without)):
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((source / name).read_bytes())
    (target / ".venv").symlink_to(source / ".venv")
    return target
