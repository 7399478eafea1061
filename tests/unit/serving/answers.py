"""Answers and clicks in a lake of a test."""

from collections.abc import Iterable
from pathlib import Path

from schemas.event import Event
from serving.models_in_service import CHAMPION
from serving.recommendation_log import Answer, NumberedAnswer, RecommendationSink
from tests.recorded_lakes import RecordedLake

NOON_MS = 1_699_963_200_000  # 2023-11-14T12:00:00Z


def answer(
    id_: str,
    user_id: str,
    *,
    model: str = "1",
    role: str = CHAMPION,
    at_ms: int = NOON_MS,
    served_ms: int | None = None,
    seconds: float = 0.001,
    error: str | None = None,
) -> Answer:
    products = () if error else ("p1", "p2")
    return Answer(id_, user_id, model, role, products, at_ms, seconds, error, at_ms if served_ms is None else served_ms)


def click(id_: str | None, user_id: str, at_ms: int, event_id: str = "") -> Event:
    event_id = event_id or f"e-{id_}-{user_id}-{at_ms}"
    return Event(
        event_id=event_id,
        kind="click",
        user_id=user_id,
        event_time_ms=at_ms,
        product_id="p1",
        recommendation_id=id_,
    )


def write_answers(root: Path, answers: Iterable[Answer], writer_id: str = "w") -> None:
    RecommendationSink(root, writer_id).append([NumberedAnswer(n, each) for n, each in enumerate(answers)])


def write_clicks(lake: RecordedLake, clicks: Iterable[Event]) -> None:
    for event in clicks:
        lake.arrive(event, at_ms=event.event_time_ms)
    lake.write()
