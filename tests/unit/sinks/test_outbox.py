"""What is put into the outbox is delivered, whoever dies; a receiver knows a second try by its id."""

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import BrokerUnavailableError
from sinks.errors import DeliveryRefusedError, NotDeliveredError, OutboxError
from sinks.outbox import KNOWN_FOR_S, LEFTOVER_AFTER_S, Delivery, FlushCounts, Outbox, Send
from sinks.outbox_sender import OutboxSender
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]

# flushes the outbox of its first argument in a process of its own; says what it was asked to send
FLUSH_AND_DIE = """
import os, signal, sys
from pathlib import Path
from sinks.outbox import Outbox

def send(given):
    print(given.id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)  # the answer has come, and nothing was moved yet

Outbox(Path(sys.argv[1]), {"webhook": send}).flush()
"""
FLUSH_SLOWLY = """
import sys
from pathlib import Path
from sinks.outbox import Outbox

def send(given):
    print(given.id, flush=True)
    sys.stdin.readline()

Outbox(Path(sys.argv[1]), {"webhook": send}).flush()
"""


def other_process(script: str, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def delivery(name: str = "a", kind: str = "webhook", *, created_ms: int = 1, **payload: Any) -> Delivery:
    return Delivery(name, kind, payload or {"n": 1}, created_ms)


class Receiver:
    """Takes deliveries, or answers as it is told."""

    def __init__(self, *answers: Exception | None) -> None:
        self.taken: list[str] = []
        self.asked: list[str] = []
        self._answers = list(answers)

    def __call__(self, given: Delivery) -> None:
        self.asked.append(given.id)
        answer = self._answers.pop(0) if self._answers else None
        if answer is not None:
            raise answer
        self.taken.append(given.id)


def outbox(folder: Path, senders: Mapping[str, Send], attempts: int = 3) -> Outbox:
    return Outbox(folder, senders, attempts=attempts, sleep=lambda _seconds: None)


def passing(count: int) -> list[Exception | None]:
    return [NotDeliveredError("The host is down.") for _ in range(count)]


def test_it_is_delivered_once_and_known_afterwards(tmp_path: Path) -> None:
    receiver = Receiver()
    box = outbox(tmp_path / "outbox", {"webhook": receiver})
    assert box.put(delivery()) is True
    assert box.put(delivery()) is False
    assert box.waiting() == [delivery()]
    assert box.flush() == FlushCounts(delivered=1)
    assert box.put(delivery()) is False
    assert box.flush() == FlushCounts()
    assert receiver.taken == ["a"]


def test_the_same_id_of_another_kind_is_another_delivery(tmp_path: Path) -> None:
    receiver = Receiver()
    box = outbox(tmp_path, {"webhook": receiver, "kafka": receiver})
    assert box.put(delivery("a", "webhook"))
    assert box.put(delivery("a", "kafka"))
    assert box.flush().delivered == 2


def test_any_text_may_be_an_id(tmp_path: Path) -> None:
    names = ["../a", "a/b", ".", "ü 👟", "x" * 5_000, "", "a:b"]
    receiver = Receiver()
    box = outbox(tmp_path / "outbox", {"webhook": receiver})
    for place, name in enumerate(names):
        assert box.put(delivery(name, created_ms=place))
        assert not box.put(delivery(name))
    assert box.flush().delivered == len(names)
    assert receiver.taken == names
    assert {path.name for path in tmp_path.iterdir()} == {"outbox"}


def test_it_is_tried_again_in_a_row_and_then_later(tmp_path: Path) -> None:
    receiver = Receiver(*passing(4))
    box = outbox(tmp_path, {"webhook": receiver}, attempts=3)
    box.put(delivery("old", created_ms=1))
    box.put(delivery("new", created_ms=2))
    assert box.flush() == FlushCounts(waiting=2)
    assert receiver.asked == ["old"] * 3  # and the other one is left for later
    (first, second) = box.waiting()
    assert (first.id, first.attempts, first.answer) == ("old", 3, "The host is down.")
    assert (second.attempts, second.answer) == (0, "")
    assert box.flush() == FlushCounts(delivered=2)
    assert receiver.taken == ["old", "new"]


def test_what_a_person_must_mend_is_not_tried_again_at_once(tmp_path: Path) -> None:
    receiver = Receiver(NotDeliveredError("The DAG is not there.", is_passing=False))
    box = outbox(tmp_path, {"webhook": receiver})
    box.put(delivery())
    assert box.flush() == FlushCounts(waiting=1)
    assert receiver.asked == ["a"]
    assert box.flush() == FlushCounts(delivered=1)


def test_any_error_of_ours_lets_it_wait(tmp_path: Path) -> None:
    receiver = Receiver(BrokerUnavailableError("Kafka does not answer."))
    box = outbox(tmp_path, {"webhook": receiver})
    box.put(delivery())
    assert box.flush() == FlushCounts(waiting=1)
    assert box.waiting()[0].answer.startswith("Kafka does not answer.")


def test_a_kind_that_fails_does_not_hold_up_another(tmp_path: Path) -> None:
    webhook, kafka = Receiver(*passing(9)), Receiver()
    box = outbox(tmp_path, {"webhook": webhook, "kafka": kafka})
    for place in range(3):
        box.put(delivery(f"w{place}", "webhook", created_ms=place))
        box.put(delivery(f"k{place}", "kafka", created_ms=place))
    assert box.flush() == FlushCounts(delivered=3, waiting=3)
    assert kafka.taken == ["k0", "k1", "k2"]


def test_a_sender_with_a_mistake_does_not_hold_up_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken, kafka = Receiver(KeyError("a mistake")), Receiver()
    box = outbox(tmp_path, {"webhook": broken, "kafka": kafka})
    box.put(delivery("w", "webhook", created_ms=1))
    box.put(delivery("k", "kafka", created_ms=2))
    assert box.flush() == FlushCounts(delivered=1, waiting=1)
    assert "a mistake" in caplog.text
    assert box.waiting()[0].answer == "KeyError"


def test_a_kind_without_a_sender_waits_for_one(tmp_path: Path) -> None:
    outbox(tmp_path, {}).put(delivery("a", "airflow"))
    assert outbox(tmp_path, {"webhook": Receiver()}).flush() == FlushCounts(waiting=1)
    assert outbox(tmp_path, {"airflow": Receiver()}).flush() == FlushCounts(delivered=1)


def test_what_is_refused_is_kept_with_the_answer_until_it_is_put_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = Receiver(DeliveryRefusedError("It answered 410.", hint="Mend it."))
    box = outbox(tmp_path, {"webhook": receiver})
    box.put(delivery("bad", created_ms=1))
    box.put(delivery("good", created_ms=2))
    with caplog.at_level(logging.ERROR):
        assert box.flush() == FlushCounts(delivered=1, refused=1)
    assert "webhook bad is refused" in caplog.text
    (refused,) = box.refused()
    assert (refused.id, refused.attempts) == ("bad", 1)
    assert "It answered 410." in refused.answer
    assert box.put(delivery("bad")) is False
    assert box.flush() == FlushCounts()
    assert box.put_back() == 1
    assert box.refused() == []
    assert box.flush() == FlushCounts(delivered=1)
    assert receiver.taken == ["good", "bad"]


def test_a_kill_between_the_answer_and_the_move_repeats_the_same_id(tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    outbox(folder, {}).put(delivery("a", n=7))
    with other_process(FLUSH_AND_DIE, folder) as process:
        assert process.communicate(timeout=60)[0] == "a\n"
    assert process.returncode == -signal.SIGKILL
    receiver = Receiver()
    again = outbox(folder, {"webhook": receiver})
    assert again.waiting() == [delivery("a", n=7)]
    assert again.flush() == FlushCounts(delivered=1)
    assert receiver.taken == ["a"]


def test_a_kill_while_a_refusal_is_kept_neither_loses_nor_repeats_it(tmp_path: Path) -> None:
    receiver = Receiver(DeliveryRefusedError("It answered 410."))
    box = outbox(tmp_path, {"webhook": receiver})
    box.put(delivery())
    name = delivery().file_name
    waiting = (tmp_path / name).read_bytes()
    box.flush()
    (tmp_path / name).write_bytes(waiting)  # as if we had died before it was removed here
    assert box.flush() == FlushCounts(refused=1)
    assert receiver.asked == ["a"]
    assert len(box.refused()) == 1


def test_one_that_is_put_again_at_the_moment_of_its_delivery_is_not_sent_again(tmp_path: Path) -> None:
    receiver = Receiver()
    box = outbox(tmp_path, {"webhook": receiver})
    box.put(delivery())
    name = delivery().file_name
    waiting = (tmp_path / name).read_bytes()
    box.flush()
    (tmp_path / name).write_bytes(waiting)
    assert box.flush() == FlushCounts(delivered=1)
    assert receiver.taken == ["a"]


def test_two_processes_that_flush_at_once_deliver_each_once(tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    for place in range(5):
        outbox(folder, {}).put(delivery(f"d{place}", created_ms=place))
    with other_process(FLUSH_SLOWLY, folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "d0\n"
        receiver = Receiver()
        counts = outbox(folder, {"webhook": receiver}).flush()  # the first one is being sent by the other
        assert counts == FlushCounts(delivered=4, waiting=1)
        assert process.communicate("\n", timeout=60)[0] == ""
    assert process.returncode == 0
    assert receiver.taken == ["d1", "d2", "d3", "d4"]
    assert outbox(folder, {}).waiting() == []


def test_threads_that_put_the_same_at_once_put_it_once(tmp_path: Path) -> None:
    box, start, new = outbox(tmp_path, {}), threading.Barrier(8), []

    def put() -> None:
        start.wait()
        new.append(box.put(delivery()))

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(new) == [False] * 7 + [True]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["webhook-a.json"]


def test_what_is_no_delivery_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    receiver = Receiver()
    box = outbox(tmp_path, {"webhook": receiver})
    box.put(delivery())
    for name, text in {"torn.json": '{"id": "x"', "list.json": "[1]", "other.json": '{"id": "x"}'}.items():
        (tmp_path / name).write_text(text)
    assert box.flush() == FlushCounts(delivered=1)
    assert "torn.json is not a delivery" in caplog.text
    assert (tmp_path / "torn.json").exists()


def test_nothing_half_written_is_ever_sent(tmp_path: Path) -> None:
    box = outbox(tmp_path, {"webhook": Receiver()})
    box.put(delivery())
    (tmp_path / ".unfinished-1").write_text(json.dumps({"id": "half"}))
    assert [given.id for given in box.waiting()] == ["a"]


def test_what_is_old_is_forgotten(tmp_path: Path) -> None:
    box = outbox(tmp_path, {"webhook": Receiver()})
    box.put(delivery("a"))
    box.put(delivery("b"))
    box.flush()
    leftover, fresh = tmp_path / ".unfinished-old", tmp_path / ".unfinished-new"
    for path in (leftover, fresh):
        path.write_text("")
    taken = tmp_path / "delivered" / delivery("a").file_name
    for path, age_s in ((taken, KNOWN_FOR_S + 60), (leftover, LEFTOVER_AFTER_S + 60)):
        at_s = path.stat().st_mtime - age_s
        os.utime(path, (at_s, at_s))
    box.flush()
    assert not taken.exists()
    assert (tmp_path / "delivered" / delivery("b").file_name).exists()
    assert (leftover.exists(), fresh.exists()) == (False, True)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    box = outbox(tmp_path / "file", {"webhook": Receiver()})  # as root, rights would not keep us out
    with pytest.raises(OutboxError, match=r"The outbox at .*file cannot be used") as failure:
        box.put(delivery())
    assert "disk has room" in failure.value.hint


def test_no_folder_is_an_empty_one(tmp_path: Path) -> None:
    box = outbox(tmp_path / "none", {"webhook": Receiver()})
    assert (box.waiting(), box.refused(), box.flush(), box.put_back()) == ([], [], FlushCounts(), 0)
    assert not (tmp_path / "none").exists()


def test_a_stop_ends_the_tries_and_loses_nothing(tmp_path: Path) -> None:
    stop = threading.Event()
    asked: list[str] = []

    def send(given: Delivery) -> None:
        asked.append(given.id)
        stop.set()
        raise NotDeliveredError("The host is down.")

    box = Outbox(tmp_path, {"webhook": send}, attempts=50)
    box.put(delivery("a", created_ms=1))
    box.put(delivery("b", created_ms=2))
    assert box.flush(stop) == FlushCounts(waiting=2)
    assert asked == ["a"]


class TestSender:
    def test_it_delivers_what_it_is_told_of_and_what_others_put(self, tmp_path: Path) -> None:
        receiver = Receiver()
        box = outbox(tmp_path, {"webhook": receiver})
        sender = OutboxSender(box, rest_s=0.01)
        box.put(delivery("a"))
        sender.wake()
        wait_until(lambda: receiver.taken == ["a"], 30, "it is not delivered")
        outbox(tmp_path, {}).put(delivery("b"))  # by another process, which wakes nobody here
        wait_until(lambda: receiver.taken == ["a", "b"], 30, "the other one is not delivered")
        sender.close()
        sender.close()

    def test_what_was_not_taken_is_tried_again(self, tmp_path: Path) -> None:
        receiver = Receiver(*passing(5))
        box = outbox(tmp_path, {"webhook": receiver}, attempts=1)
        sender = OutboxSender(box, rest_s=0.01)
        box.put(delivery())
        sender.wake()
        wait_until(lambda: receiver.taken == ["a"], 30, "it is not delivered")
        sender.close()
        assert receiver.asked == ["a"] * 6

    def test_no_thread_begins_before_there_is_something(self, tmp_path: Path) -> None:
        sender = OutboxSender(outbox(tmp_path, {}))
        assert "outbox" not in {thread.name for thread in threading.enumerate()}
        sender.close()
        sender.wake()
        assert "outbox" not in {thread.name for thread in threading.enumerate()}

    def test_a_folder_that_fails_for_a_while_does_not_end_it(self, tmp_path: Path) -> None:
        receiver = Receiver()
        box = outbox(tmp_path, {"webhook": receiver})
        failing = FailingOnce(box)
        sender = OutboxSender(failing, rest_s=0.01)
        sender.wake()
        wait_until(failing.failed.is_set, 30, "it was not flushed")
        box.put(delivery())
        wait_until(lambda: receiver.taken == ["a"], 30, "it is not delivered")
        sender.close()


class FailingOnce(Outbox):
    """An outbox whose first flush fails, as a full disk makes it."""

    def __init__(self, box: Outbox) -> None:
        self.failed = threading.Event()
        self._box = box

    def flush(self, stop: threading.Event | None = None) -> FlushCounts:
        if not self.failed.is_set():
            self.failed.set()
            raise OutboxError("The outbox cannot be used.")
        return self._box.flush(stop)


def test_attempts_are_counted_over_flushes(tmp_path: Path) -> None:
    seen: list[int] = []

    def send(given: Delivery) -> None:
        seen.append(given.attempts)
        raise NotDeliveredError("The host is down.")

    box = outbox(tmp_path, {"webhook": send}, attempts=2)
    box.put(delivery())
    box.flush()
    box.flush()
    assert seen == [1, 2, 3, 4]
    assert box.waiting() == [replace(delivery(), attempts=4, answer="The host is down.")]


def test_a_lock_of_a_file_that_was_written_anew_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = Receiver()
    box = outbox(tmp_path, {"webhook": receiver})
    box.put(delivery())
    path, lock = tmp_path / delivery().file_name, fcntl.flock

    def slow_lock(file: Any, how: int) -> None:
        monkeypatch.undo()
        (tmp_path / "anew").write_bytes(path.read_bytes())  # another process has tried, and notes its answer
        (tmp_path / "anew").replace(path)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", slow_lock)
    assert box.flush() == FlushCounts(waiting=1)
    assert receiver.asked == []
    assert box.flush() == FlushCounts(delivered=1)
