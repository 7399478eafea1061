"""The report: words first, pictures of what moved, nothing from elsewhere, and what events say is escaped."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings
from sinks.retraining import Retraining
from tests.drift_shop import PLAN, QUIET, settings_of
from tests.quality.world import HOUR_MS
from training.drift_page import page
from training.drift_reference import HaltedSpan
from training.drift_report import BINS_MAX, DriftReport, Share, drift_report, halted_stretches
from training.drift_status import DriftStatus, write_metrics
from training.drift_windows import Cause, check

EVIL = "<script>alert('c1')</script>"
EXPECTED = {
    'windows{outcome="alarm"}': 5,
    'windows{outcome="quiet"}': 8,
    "in_row": 3,
    "is_due": 1,
    "outbox": 4,
    "silenced_until_seconds": 0,
    'part_failing{part="gates"}': 1,
    'part_failing{part="windows"}': 0,
    'requests{step="requested"}': 1,
    'requests{step="suppressed"}': 2,
}


class Balanced(HTMLParser):
    """Sees that all tags are closed, and keeps what a reader of the page could be led to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def judged(settings: Settings) -> Settings:
    """Judge all windows; requests are real ones."""
    retraining = Retraining.from_settings(settings)

    def request(cause: Cause) -> Mapping[str, Any]:
        return retraining.request(
            cause=cause.cause,
            window_start_ms=cause.window_start_ms,
            window_end_ms=cause.window_end_ms,
            detail=cause.detail,
            evidence=cause.evidence,
        )

    check(settings, red=[], request=request)
    return settings


@pytest.fixture
def report(drifting: Settings) -> DriftReport:
    return drift_report(judged(drifting))


def test_a_shift_is_said_first_and_shown(report: DriftReport) -> None:
    assert report.words[0].startswith("Drifted: 3 of 3 windows in a row: label_category_id: ")
    assert report.words[1] == "13 windows: 8 quiet, 5 that alarmed, 0 not judged."
    assert [window.verdict.start_ms for window in report.focus] == [
        PLAN.shifted_ms[0] + n * HOUR_MS for n in range(PLAN.shifted)
    ]
    first = report.moved[0]
    assert first.name == "label_category_id"
    assert first.alarms == 5
    assert len(first.bins) == BINS_MAX
    for shares in ([share.expected for share in first.bins], [share.found for share in first.bins]):
        assert sum(shares) == pytest.approx(1.0)
    [request] = [request for request in report.status.requests if request.step == "requested"]
    assert request.request_id in " ".join(report.words)
    assert sum(request.step == "suppressed" for request in report.status.requests) == 2
    assert sum("suppressed" in line for line in report.words) == 1
    assert report.words[-1].startswith("2 requests were suppressed, the newest of them: ")


def test_the_page_is_whole_and_needs_nothing_else(report: DriftReport) -> None:
    text = page(report)
    found = Balanced(text)
    assert found.open == []
    assert "script" not in found.tags
    assert found.addresses == []
    assert re.findall(r"https?://|url\((?!#)|@import", text) == []
    pictures = re.findall(r"<svg[^>]*role=\"img\".*?</svg>", text, re.DOTALL)
    assert len(pictures) == 1 + 2 * len(report.moved)
    for picture in pictures:
        title, desc = re.search(r'aria-labelledby="(\S+) (\S+)"', picture).groups()  # type: ignore[union-attr]
        assert f'<title id="{title}">' in picture
        assert f'<desc id="{desc}">' in picture
    assert "prefers-color-scheme: dark" in text
    assert "NaN" not in text
    assert "nan" not in re.findall(r'[xy]="([^"]*)"', text)


def test_what_events_say_is_escaped(report: DriftReport) -> None:
    first = replace(report.moved[0], bins=[Share(EVIL, 0.5, 0.1), Share("c2", 0.5, 0.9)], name=EVIL)
    told = replace(report, words=[EVIL, EVIL], variables=[replace(first, name=report.moved[0].name)])
    text = page(told)
    assert EVIL not in text
    assert "&lt;script&gt;" in text
    assert "script" not in Balanced(text).tags


def test_the_document_holds_the_same(report: DriftReport) -> None:
    told = json.loads(json.dumps(report.document()))
    assert told["drifted"] is True
    assert told["words"] == list(report.words)
    assert len(told["windows"]) == 13
    assert told["variables"][0]["name"] == "label_category_id"
    assert told["variables"][0]["bins"][0].keys() == {"name", "expected", "found"}
    assert told["variables"][0]["now"]["drifted"] is True
    assert len(told["variables"]) == report.reference.summary()["variables"]  # type: ignore[union-attr]
    assert told["references"][0]["noise"]["label_category_id"]["phi"] >= 0
    assert {request["step"] for request in told["requests"]} == {"requested", "suppressed"}


def test_a_range_is_of_its_own_windows_and_says_how_it_stood_then(drifting: Settings) -> None:
    quiet = drift_report(judged(drifting), None, PLAN.shifted_ms[0])
    assert len(quiet.windows) == QUIET
    assert quiet.words[0].startswith("Until ")
    assert "not drifted: nothing moved" in quiet.words[0].lower()
    assert [window.verdict.start_ms for window in quiet.focus] == [PLAN.shifted_ms[0] - HOUR_MS]
    assert len(quiet.moved) == 4  # those that lie furthest, though nothing moved
    assert Balanced(page(quiet)).open == []
    some = drift_report(drifting, PLAN.shifted_ms[0] - HOUR_MS, PLAN.shifted_ms[0] + HOUR_MS)
    assert len(some.windows) == 2


def test_without_windows_or_reference_there_is_a_page_that_says_so(drifting: Settings, tmp_path: Path) -> None:
    fresh = drift_report(drifting)
    assert fresh.words[0].startswith("No window has been judged against the reference ref-")
    assert len(fresh.words) == 1
    assert "ref-" in page(fresh)
    empty = drift_report(settings_of(tmp_path / "elsewhere"))
    assert "shopstream drift calibrate" in page(empty)
    assert empty.document()["reference"] is None


def test_halted_windows_are_one_stretch(drifting: Settings) -> None:
    span = HaltedSpan("shop.clicks.v1", "nulls", PLAN.shifted_ms[0] + 1, PLAN.shifted_ms[0] + 2 * HOUR_MS - 1)
    check(drifting, red=[span], request=lambda _cause: {})
    report = drift_report(drifting)
    why = "shop.clicks.v1 was halted by its gate nulls"
    assert halted_stretches(report.windows) == [(PLAN.shifted_ms[0], PLAN.shifted_ms[0] + 2 * HOUR_MS, why)]
    assert any(line.endswith(f"{why}.") for line in report.words)
    assert page(report).count('class="halted"') == 3  # two windows, and the legend


def test_a_status_tells_what_is_under_way_and_what_waits(drifting: Settings) -> None:
    assert DriftStatus.read(drifting).words.startswith("No window has been judged against the reference ref-")
    status = DriftStatus.read(judged(drifting))
    assert status.is_drifted
    assert status.in_row == 3
    assert status.in_flight is not None
    assert status.in_flight.cause == "drift"
    asked_ms = PLAN.shifted_ms[0] + 3 * HOUR_MS
    assert status.cooldown_until_ms == asked_ms + drifting.drift.cooldown_ms
    assert status.silenced_until_ms is None
    told = status.payload(2)
    assert [window["outcome"] for window in told["windows"]] == ["alarm", "alarm"]
    assert "evidence" not in told["in_flight"]


def test_metrics_tell_the_same(drifting: Settings, tmp_path: Path) -> None:
    path = tmp_path / "metrics" / "drift.prom"
    write_metrics(DriftStatus.read(judged(drifting)), path, waiting=4, failing={"gates": True, "windows": False})
    told = dict(line.rsplit(" ", 1) for line in path.read_text().splitlines() if not line.startswith("#"))
    assert {name: float(told[f"shopstream_drift_{name}"]) for name in EXPECTED} == EXPECTED
    assert float(told["shopstream_drift_judged_until_seconds"]) == PLAN.shifted_ms[1] / 1000
    assert float(told['shopstream_drift_psi{variable="label_category_id"}']) > 0.5
