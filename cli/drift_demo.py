"""`shopstream demo --drift`: from a quiet shop over a broken feed to a real shift, and to a model that has learned it.

Event time lies in the past and runs faster: hours are sent in seconds. Everything else is as in daily life: the worker
halts the view, compares windows and has a model trained; the demo sends traffic, looks, and plays the people: it loads
reference tables, trains the first model, resumes the view, and clicks on recommendations.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cli.demo_run import START_TIMEOUT_S
from cli.demo_waiting import Waiting
from cli.drift_story import Happening, Narrator, StoryStep
from cli.drift_traffic import HOUR_MS, Hours, Traffic, Visitors
from cli.worker_process import worker_process
from config.settings import Settings
from config.words import percent
from feature_repo import load_feast
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from sinks.lake_root import lake_of
from sinks.noting import noted
from sinks.quality_tables import DRIFT_REFERENCES, DRIFT_WINDOWS, GATE_LOG, RETRAINING
from streams.observing import GroupLags, read_workers
from traffic.changes import NullBug
from traffic.sending import open_sender
from traffic.sent_log import SentLog

NULL_SHARE: Final = 0.05
CANARY_ANSWERS_MAX: Final = 8_000
REPORT_FILE: Final = "drift-report.html"


@dataclass(frozen=True, slots=True)
class DriftStory:
    """What happened.

    Attributes:
        report: the page about drift.
    """

    steps: Sequence[StoryStep]
    seconds: float
    report: Path

    @property
    def is_as_told(self) -> bool:
        """Whether all went as it should."""
        return all(step.is_as_told for step in self.steps)

    def payload(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {
            "as_told": self.is_as_told,
            "seconds": round(self.seconds, 1),
            "report": str(self.report),
            "steps": [step.payload() for step in self.steps],
        }


def story_settings(settings: Settings) -> Settings:
    """Return settings of a shop whose days pass in seconds, with few visitors: windows and budgets are smaller."""
    sections: Mapping[str, Mapping[str, Any]] = {
        "worker": {"flush_interval_ms": 500},
        "gates": {"freshness_policy": "off", "window_ms": HOUR_MS // 2, "min_count": 100},
        "drift": {"min_rows": 100, "check_interval_s": 1.0, "nice": 0},
        "training": {
            "mode": "as_corrected",
            "runner": "local",
            "history_ms": 48 * HOUR_MS,
            "queries_max": 8_000,
            "slice_loss_max": 0.1,
        },
        "rollout": {
            "canary_share": 0.5,
            "min_impressions": 500,
            "click_through_loss_max": 0.3,
            "attribution_ms": 60_000,
            "reload_interval_ms": 500,
            "flush_interval_ms": 300,
        },
    }
    changed = {
        name: type(section)(**{**section.model_dump(), **sections[name]})
        for name in sections
        if (section := getattr(settings, name))
    }
    return settings.model_copy(update=changed)


class DriftDemo:
    """Tells the story on a stack that is up.

    Args:
        settings: of `story_settings`.
        tell: shows a line.
    """

    def __init__(self, settings: Settings, tell: Callable[[str], None], seed: int) -> None:
        self._settings = settings
        self._lake = lake_of(settings)
        self._narrator = Narrator(tell)
        self._seed = seed
        self._hours = Hours()
        self._log = SentLog(keep=False)

    def run(self) -> DriftStory:
        """Tell it from beginning to end.

        Raises:
            ShopstreamError: it could not be told to its end.
        """
        now_ms = time.time_ns() // 1_000_000
        start_ms = now_ms // HOUR_MS * HOUR_MS - (self._hours.all + 2) * HOUR_MS
        log_path = self._settings.home / "worker.log"
        with ExitStack() as opened:
            sender = opened.enter_context(open_sender(self._settings, self._log, broken=False))
            traffic = Traffic(sender, self._hours, self._seed, start_ms)
            with self._narrator.step("shop", "loading reference tables, starting a worker") as happening:
                self._load_references(traffic, happening)
                process = opened.enter_context(worker_process(self._settings, log_path))
                waiting = Waiting(process, log_path)
                load_feast()
                waiting.until(
                    lambda: bool(read_workers(self._settings).read), "the worker had no partitions", START_TIMEOUT_S
                )
            self._history(traffic, waiting)
            self._first_model(traffic)
            self._stable(traffic, waiting)
            self._null_bug(traffic, waiting)
            self._resume(traffic, waiting)
            request_id = self._shift(traffic, waiting)
            if request_id and self._retraining(waiting, request_id):
                self._canary(traffic, waiting, request_id)
                self._promotion(waiting)
            report = self._report()
        return DriftStory(self._narrator.steps, self._narrator.seconds, report)

    # -- the acts --------------------------------------------------------------------------------------------------

    def _load_references(self, traffic: Traffic, happening: Happening) -> None:
        from sinks.reference_tables import load_references
        from traffic.reference_files import write_reference_files

        files = write_reference_files(traffic.config, self._settings.home / "reference")
        counts = {name: load_references(self._lake, name, path).row_count for name, path in files.items()}
        happening.figures["reference_rows"] = counts
        happening.outcome = ", ".join(f"{count:,} {name}" for name, count in counts.items()) + " are known"

    def _history(self, traffic: Traffic, waiting: Waiting) -> None:
        hours = self._hours.history
        with self._narrator.step("history", f"sending {hours} hours of traffic") as happening:
            count = traffic.send(hours)
            self._wait_committed(waiting)
            happening.figures["events"] = count
            happening.outcome = f"{count:,} events are applied and in the lake"

    def _first_model(self, traffic: Traffic) -> None:
        from serving.rollout import guard
        from training.run import train

        with self._narrator.step("first model", "training on the history, with its last part held out") as happening:
            report = train(
                self._settings, from_ms=traffic.config.start_ms, to_ms=traffic.now_ms, tell=self._narrator.tell
            )
            payload = report.payload()
            happening.outcome = _verdict_words(payload)
            happening.figures |= _figures(payload)
            happening.expect(report.outcome == "accepted", "the first model was rejected")
        with self._narrator.step(
            "baseline", "it serves, and what it was trained on is the reference of drift"
        ) as happening:
            steps = guard(self._settings)
            references = noted(self._lake, DRIFT_REFERENCES, ["reference_id", "model"])
            happening.expect(bool(steps) and steps[-1].step.value == "promoted", "the model does not serve")
            happening.expect(len(references) == 1, "no reference was taken")
            happening.figures["reference_id"] = references[-1]["reference_id"] if references else None
            happening.outcome = "; ".join(f"model {step.model} is {step.step.value}" for step in steps)

    def _stable(self, traffic: Traffic, waiting: Waiting) -> None:
        hours = self._hours.stable
        with self._narrator.step("stable", f"{hours} hours in which nothing changes") as happening:
            traffic.send(hours)
            # the last hour is closed by events of the next
            last_ms = traffic.now_ms - 2 * HOUR_MS
            waiting.until(lambda: self._is_judged(last_ms), "the windows were not judged")
            windows = noted(self._lake, DRIFT_WINDOWS, ["outcome"])
            alarms = [row for row in windows if row["outcome"] == "alarm"]
            happening.figures |= {"windows": len(windows), "alarms": len(alarms), "requests": len(self._requests())}
            happening.outcome = f"{len(windows)} windows judged, {len(alarms)} alarms, no retraining"
            happening.expect(len(alarms) <= 1, "a quiet shop alarms")
            happening.expect(not self._requests(), "a retraining was asked for")

    def _null_bug(self, traffic: Traffic, waiting: Waiting) -> None:
        begins = f"a producer forgets the category in {percent(NULL_SHARE)} of its events"
        with self._narrator.step("null bug", begins) as happening:
            bug_ms = traffic.now_ms
            traffic.send(self._hours.bug, change=NullBug(NULL_SHARE, seed=self._seed))
            waiting.until(lambda: bool(self._halts()), "the view was not halted")
            halt = self._halts()[0]
            waiting.until(lambda: self._lag(CARTS_TOPIC) == 0, "the carts did not go on")
            late_ms = halt["evidence"]["event_time_ms"] - bug_ms
            happening.outcome = (
                f"{halt['topic']} is HALTED, {late_ms / 60_000:.0f} min of event time after it began: {halt['detail']}"
            )
            happening.figures |= {
                "halted": halt["topic"],
                "gate": halt["gate"],
                "event_time_to_halt_ms": late_ms,
                "clicks_waiting": self._lag(CLICKS_TOPIC),
                "carts_waiting": self._lag(CARTS_TOPIC),
                "requests": len(self._requests()),
            }
            happening.expect((halt["topic"], halt["gate"]) == (CLICKS_TOPIC, "nulls"), "another gate halted")
            happening.expect(late_ms <= self._settings.gates.window_ms, "it took more than one window")
            happening.expect(not self._requests(), "a retraining was asked for")

    def _resume(self, traffic: Traffic, waiting: Waiting) -> None:
        from cli.demo_check import compare_states
        from streams.gate_report import accept

        with self._narrator.step("resume", "the field is back, the gap is accepted, the view catches up") as happening:
            traffic.send(self._hours.healed)
            accept(self._settings, CLICKS_TOPIC, "the producer sends the category again, the gap is known")
            self._wait_committed(waiting)
            agreement = compare_states(self._settings)
            happening.figures |= {"states": agreement.state_count, "states_differing": agreement.differing}
            happening.outcome = (
                f"{agreement.state_count:,} states are what the log folds to without a halt: "
                f"{agreement.differing} differences"
            )
            happening.expect(not agreement.differing, "states differ")

    def _shift(self, traffic: Traffic, waiting: Waiting) -> str:
        hours, most = self._hours.shift, self._settings.drift.windows_in_row + 1
        with self._narrator.step("shift", f"{hours} hours in which visitors turn to other categories") as happening:
            shift_ms = traffic.now_ms
            with self._unwatched(waiting):
                traffic.send(hours)
                self._wait_committed(waiting)
            last_ms = shift_ms + (most - 1) * HOUR_MS
            waiting.until(lambda: bool(self._requests()) or self._is_judged(last_ms), "the windows were not judged")
            requests = self._requests()
            if not requests:
                happening.fail(f"no retraining was asked for within {most} windows")
                return ""
            request = requests[0]
            after = (request["window_end_ms"] - shift_ms) // HOUR_MS
            happening.figures |= {"windows_to_request": after, "cause": request["cause"], "detail": request["detail"]}
            happening.outcome = f"one retraining is asked for after window {after}: {request['detail']}"
            happening.expect(request["cause"] == "drift", f"the cause is {request['cause']}")
            happening.expect(after <= most, f"that took more than {most} windows")
        return str(request["request_id"])

    def _retraining(self, waiting: Waiting, request_id: str) -> bool:
        with self._narrator.step("retraining", "a challenger is trained and must beat the champion") as happening:
            ended = {"validated", "rejected", "failed"}
            waiting.until(lambda: bool(ended & self._steps_of(request_id)), "the training did not end")
            row = next(row for row in self._rows_of(request_id) if row["step"] in ended)
            happening.outcome = f"{row['step']}: {row['detail']}"
            happening.figures |= {"request_id": request_id, "result": row["step"]}
            happening.expect(row["step"] == "validated", "the challenger did not prove itself")
        return bool(row["step"] == "validated")

    def _canary(self, traffic: Traffic, waiting: Waiting, request_id: str) -> None:
        from serving.recommender import Recommender

        share, over = percent(self._settings.rollout.canary_share), {"promoted", "rolled_back"}
        with self._narrator.step("canary", f"the challenger answers to {share} of the visitors") as happening:
            waiting.until(lambda: "canary" in self._steps_of(request_id), "the challenger is no canary")
            with Recommender.from_settings(self._settings) as recommender:
                visitors = Visitors(traffic, recommender, traffic.config.tastes(), self._seed)
                visitors.come(CANARY_ANSWERS_MAX, is_over=lambda: bool(over & self._steps_of(request_id)))
            waiting.until(lambda: bool(over & self._steps_of(request_id)), "the canary was not decided upon")
            decided = next(row for row in self._rows_of(request_id) if row["step"] in over)
            happening.outcome = f"{decided['step'].replace('_', ' ')}: {decided['detail']}"
            happening.figures |= {
                "answers": visitors.shown_count,
                "clicked": visitors.clicked_count,
                "result": decided["step"],
            }
            happening.expect(decided["step"] == "promoted", "the canary was rolled back")

    def _promotion(self, waiting: Waiting) -> None:
        begins = "the reference of drift moves to what the new champion has learned"
        with self._narrator.step("promotion", begins) as happening:
            waiting.until(lambda: len(noted(self._lake, DRIFT_REFERENCES, ["model"])) > 1, "the reference did not move")
            row = noted(self._lake, DRIFT_REFERENCES, ["reference_id", "model"])[-1]
            requests = len(self._requests())
            happening.figures |= {"reference_id": row["reference_id"], "model": row["model"], "requests": requests}
            happening.outcome = (
                f"reference {row['reference_id']} for model {row['model']} is in force; "
                f"{requests} retraining was asked for in all"
            )
            happening.expect(requests == 1, f"{requests} retrainings were asked for")

    def _report(self) -> Path:
        from training.drift_page import page
        from training.drift_report import drift_report

        path = self._settings.home / REPORT_FILE
        with self._narrator.step("report", "writing the page about drift") as happening:
            path.write_text(page(drift_report(self._settings)), encoding="utf-8")
            happening.outcome = f"{path} ({path.stat().st_size / 1e3:,.0f} kB)"
        return path

    # -- what the lake and Kafka say -------------------------------------------------------------------------------

    def _wait_committed(self, waiting: Waiting) -> None:
        lags = GroupLags(self._settings)
        waiting.until(lambda: lags.total() == 0, "the worker had not committed all that was sent")

    @contextmanager
    def _unwatched(self, waiting: Waiting) -> Iterator[None]:
        """Keep windows from being judged: a day is sent in seconds, and a look could come at any hour of it."""
        from training.drift_reference import one_at_a_time
        from training.errors import DriftBusyError

        with ExitStack() as held:

            def holds() -> bool:
                try:
                    held.enter_context(one_at_a_time(self._settings))
                except DriftBusyError:
                    return False
                return True

            waiting.until(holds, "the watch had not ended a round")
            yield

    def _lag(self, topic: str) -> int:
        return sum(lag.lag_records for lag in GroupLags(self._settings).read() if lag.tp.topic == topic)

    def _is_judged(self, start_ms: int) -> bool:
        """Tell whether the window that begins then was judged."""
        return any(row["window_start_ms"] >= start_ms for row in noted(self._lake, DRIFT_WINDOWS, ["window_start_ms"]))

    def _halts(self) -> list[dict[str, Any]]:
        rows = [row for row in noted(self._lake, GATE_LOG) if row["step"] == "halted"]
        return [{**row, "evidence": json.loads(row["evidence"])} for row in rows]

    def _requests(self) -> list[dict[str, Any]]:
        return [row for row in noted(self._lake, RETRAINING) if row["step"] == "requested"]

    def _rows_of(self, request_id: str) -> list[dict[str, Any]]:
        return [row for row in noted(self._lake, RETRAINING) if row["request_id"] == request_id]

    def _steps_of(self, request_id: str) -> set[str]:
        return {row["step"] for row in self._rows_of(request_id)}


def _verdict_words(payload: Mapping[str, Any]) -> str:
    return f"model {payload['version']}: " + "; ".join(payload["reasons"])


def _figures(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": payload["version"], "figures": payload.get("figures")}
