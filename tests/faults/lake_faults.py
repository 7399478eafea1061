"""A lake that others write, too, and one that has no room."""

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from schemas.event import EVENT_TOPICS
from schemas.topics import describe_topics
from sinks.lake import LakeSink
from sinks.lake_reads import Stretch, read_raw
from sinks.maintenance import maintain_lake
from sinks.rows import PartitionFlush
from tests.faults.kills import pause
from tests.faults.load import simulated
from tests.faults.scenario import CRASHED, PARTITIONS, Arena, Outcome, Scenario, World
from tests.waiting import wait_until

RATE: Final = 300.0
UNDER_LOAD_S: Final = 3.0
UNDER_LOAD_FULL_S: Final = 20.0
BACKLOG: Final = 6_000
FILE_BYTES_MAX: Final = 60_000
DISK: Final = "2m"


def maintained(arena: Arena) -> Outcome:
    """Compaction and vacuum of every table, again and again, beside a worker that flushes five times a second."""
    with arena.world() as world:
        world.start_ready()
        world.send(simulated(200))
        world.wait_committed()

        def once() -> None:
            maintain_lake(world.settings.lake_path, retention_hours=1, open_day=True)

        with world.load(simulated(rate=RATE)), _again_and_again(once) as count:
            pause(UNDER_LOAD_FULL_S if arena.is_full else UNDER_LOAD_S)
        verdict = world.finish()
    return Outcome(count(), verdict)


def second_writer(arena: Arena) -> Outcome:
    """Another worker group writes the same partitions to the same tables; a zombie repeats what is there already."""
    with arena.world() as world:
        world.start_ready()
        world.send(simulated(200))
        world.wait_committed()
        other = _other_group(world)
        zombie = _Zombie(world)
        with world.load(simulated(rate=RATE)), _again_and_again(zombie.append) as count:
            pause(UNDER_LOAD_FULL_S if arena.is_full else UNDER_LOAD_S)
        world.wait_committed()
        other.wait_committed()
        assert other.workers[0].stop() == 0, other.workers[0].tail()
        verdict = world.finish()
        other_verdict = other.judge()
    assert other_verdict.is_exact, other_verdict
    return Outcome(count() + 1, verdict, notes=f"a zombie's {zombie.dropped_count:,} rows dropped, 0 written")


def _other_group(world: World) -> World:
    """Start a worker of another group and Feast project on the same topics and the same lake."""
    settings = world.settings
    changed = settings.model_copy(
        update={
            "home": settings.home / "other",
            "lake": settings.lake.model_copy(update={"path": settings.lake_path}),
            "feast": settings.feast.model_copy(update={"project": f"{settings.feast.project}_other"}),
            "worker": settings.worker.model_copy(update={"group_id": f"{settings.worker.group_id}-other"}),
        }
    )
    changed.home.mkdir()
    other = World(changed, world.host, log=world.log)
    world.workers.append(other.start_ready())  # so that it ends with the world
    return other


class _Zombie:
    """Repeats appends over a handle of its own, as a worker does that lost its partitions and does not know it."""

    def __init__(self, world: World) -> None:
        self._lake = world.settings.lake_path
        self._sink = LakeSink(self._lake)
        self._logs = {topic: info for topic, info in describe_topics(world.settings).items() if topic in EVENT_TOPICS}
        self.dropped_count = 0

    def append(self) -> None:
        """Write every raw row once more."""
        flushes = []
        for topic, info in self._logs.items():
            for partition in range(PARTITIONS):
                rows = list(read_raw(self._lake, Stretch(info.log_epoch, topic, partition)))
                if rows:
                    first, last = rows[0].record.offset, rows[-1].record.offset
                    flushes.append(
                        PartitionFlush(topic, info.topic_id, info.log_epoch, partition, first, last, raw=rows)
                    )
        counts = self._sink.write(flushes).tables["raw_events"]
        assert not counts.written, counts
        self.dropped_count += counts.dropped


def file_too_large(arena: Arena) -> Outcome:
    """A limit on the size of files, as of a full disk: the worker stops and says so; then it has room."""
    with arena.world() as world:
        world.start_ready()
        world.send(simulated(200))
        world.wait_committed()
        assert world.workers[0].stop() == 0, world.workers[0].tail()
        turns = 3 if arena.is_full else 1
        for _ in range(turns):
            world.send(simulated(BACKLOG))
            worker = world.start(
                file_bytes_max=FILE_BYTES_MAX, sink_attempts=2, flush_interval_ms=5_000, flush_rows=9_000
            )
            _assert_stopped_for_want_of_room(worker.ended(), worker.tail())
        world.start_ready()
        return Outcome(turns, world.finish(), notes=f"files of at most {FILE_BYTES_MAX:,} bytes")


def disk_full(arena: Arena) -> Outcome:
    """A small file system of its own for the lake, which fills up; then it is made larger."""
    with arena.world() as world, contextlib.ExitStack() as mounted:
        lake = world.settings.lake_path
        lake.mkdir(parents=True)
        if not _mount(lake):
            return file_too_large(arena)
        mounted.callback(_unmount, lake)
        with world.load(simulated(rate=5 * RATE)):
            worker = world.start(sink_attempts=2)
            _assert_stopped_for_want_of_room(worker.ended(deadline_s=240), worker.tail())
        subprocess.run(["mount", "-o", "remount,size=500m", str(lake)], check=True)
        world.start_ready()
        return Outcome(1, world.finish(), notes=f"a file system of {DISK}B")


def _assert_stopped_for_want_of_room(code: int, said: str) -> None:
    assert code == CRASHED, said
    last = said.strip().splitlines()[-1]
    assert "lake failed" in last, said
    assert "has room" in last, said
    assert "Traceback" not in said, said


def _mount(folder: Path) -> bool:
    """Mount a small file system; False where that is not allowed."""
    if os.geteuid() or shutil.which("mount") is None:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def _again_and_again(work: Callable[[], None]) -> Iterator[Callable[[], int]]:
    """Do something in a thread, over and over; with the block it ends, and what it raised is raised.

    Yields:
        How often it was done.
    """
    stop = threading.Event()
    failures: list[BaseException] = []
    count = 0

    def run() -> None:
        nonlocal count
        try:
            while not stop.is_set():
                work()
                count += 1
        except BaseException as error:  # noqa: BLE001 - it is raised again below, where somebody can see it
            failures.append(error)

    thread = threading.Thread(target=run, name="again and again", daemon=True)
    thread.start()
    try:
        yield lambda: count
    finally:
        stop.set()
        wait_until(lambda: not thread.is_alive(), 120, "the work in the thread does not end")
    if failures:
        raise failures[0]
    assert count, "it was not done once"


SCENARIOS: Final = (
    Scenario("lake.maintained", "lake maintain in a loop beside the worker", maintained),
    Scenario("lake.second-writer", "a second group and a zombie write the same tables", second_writer, is_short=True),
    Scenario("lake.file-limit", "files may not grow beyond 60 kB, then they may", file_too_large, is_short=True),
    Scenario("lake.disk-full", "the lake's file system of 2 MB is full, then larger", disk_full),
)
