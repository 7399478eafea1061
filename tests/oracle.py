"""The features by brute force: from per-topic logs alone, with no panes, no states and nothing of `features`.

Slow, small, and meant to be read next to DESIGN section 4: everything that computes features is compared with it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event

MINUTE = 60_000
DAY = 24 * 60 * MINUTE
LATENESS = 10 * MINUTE
GAP = 30 * MINUTE
DISTINCT_MAX = 256
WINDOWS = {
    "5m": (5 * MINUTE, 10_000),
    "30m": (30 * MINUTE, MINUTE),
    "1h": (60 * MINUTE, MINUTE),
    "24h": (DAY, 15 * MINUTE),
}
KINDS = {
    "page_view_count": "page_view",
    "click_count": "click",
    "search_count": "search",
    "cart_add_count": "add",
    "cart_remove_count": "remove",
    "purchase_count": "purchase",
}

Log = Sequence[tuple[int, Event]]


def accepted(log: Log) -> list[Event]:
    """Decide in log order what counts: neither delivered before, nor late, nor a duplicate."""
    counted: list[Event] = []
    time_of: dict[str, int] = {}
    next_offset = 0
    newest = 0
    for offset, event in log:
        if offset < next_offset:
            continue
        next_offset = offset + 1
        horizon = max(newest - LATENESS, 0)
        if event.event_time_ms >= horizon and time_of.get(event.event_id, -1) < horizon:
            counted.append(event)
            time_of[event.event_id] = event.event_time_ms
            newest = max(newest, event.event_time_ms)
    return counted


def corrected(log: Log) -> list[tuple[int, Event]]:
    """Return a log as it would be had every event come in the order in which it happened: nothing is late then."""
    in_time_order = sorted(log, key=lambda entry: (entry[1].event_time_ms, entry[0]))
    return [(place, event) for place, (_, event) in enumerate(in_time_order)]


def expected(logs: Mapping[str, Log], as_of_ms: int | None = None) -> dict[str, Any]:
    """Return every feature at `as_of_ms` (raised to the newest event), and what follows from events of the status."""
    by_topic = {topic: accepted(logs.get(topic, ())) for topic in (CLICKS_TOPIC, CARTS_TOPIC)}
    events = sorted((e for topic in by_topic.values() for e in topic), key=lambda e: e.event_time_ms)
    newest = events[-1].event_time_ms if events else None
    as_of = max(as_of_ms or 0, newest or 0)
    spans = {name: [e for e in events if _start(name, as_of) <= e.event_time_ms <= as_of] for name in WINDOWS}
    session = _open_session(events, as_of)
    first = session[0].event_time_ms if session else None
    length = session[-1].event_time_ms - session[0].event_time_ms if session else 0
    capped = length > DAY
    products, lost_product = _remembered(by_topic.values(), "product_id")
    categories, lost_category = _remembered(by_topic.values(), "category_id")
    reach = min([max(_start("24h", as_of), 0), *([first] if first is not None and not capped else [])])

    values: dict[str, Any] = {}
    for window, inside in spans.items():
        start = _start(window, as_of)
        counts = {name: sum(e.kind == kind for e in inside) for name, kind in KINDS.items()}
        views = counts["page_view_count"]
        values |= {f"{name}_{window}": count for name, count in counts.items()}
        if window != "5m":
            values[f"cart_value_minor_{window}"] = _money(inside, add=1, remove=-1)
        if window in {"30m", "24h"}:
            values[f"product_distinct_{window}"] = sum(time >= start for time in products.values())
            values[f"category_distinct_{window}"] = sum(time >= start for time in categories.values())
            values[f"click_through_rate_{window}"] = counts["click_count"] / views if views else None
            values[f"cart_rate_{window}"] = counts["cart_add_count"] / views if views else None
    recent = sorted(((time, product) for product, time in products.items() if time >= start), reverse=True)
    values["purchase_value_minor_24h"] = _money(spans["24h"], purchase=1)
    values["last_products_24h"] = [product for _, product in recent[:10]]
    values["seconds_since_last_event_24h"] = None if newest is None or as_of - newest > DAY else (as_of - newest) / 1000

    inside_session = {
        "start_ms": first,
        "duration_s": length / 1000,
        "event_count": len(session),
        **{name: sum(e.kind == kind for e in session) for name, kind in list(KINDS.items())[:4]},
        "cart_value_minor": _money(session, add=1, remove=-1),
        "product_distinct": sum(time >= first for time in products.values()) if first is not None else 0,
    }
    values |= {f"session_{name}": None if capped else value for name, value in inside_session.items()}
    return values | {
        "session_open": bool(session),
        "session_capped": capped,
        "as_of_ms": as_of_ms if newest is None else as_of,
        "clamped": as_of_ms is not None and newest is not None and as_of_ms < newest,
        "newest_event_ms": newest,
        "product_distinct_saturated": lost_product >= reach,
        "category_distinct_saturated": lost_category >= reach,
    }


def _start(window: str, as_of: int) -> int:
    length, hop = WINDOWS[window]
    return (as_of // hop + 1) * hop - length


def _open_session(events: list[Event], as_of: int) -> list[Event]:
    """Walk back from the instant until a gap is too long."""
    session: list[Event] = []
    for event in reversed(events):
        if (session[0].event_time_ms if session else as_of) - event.event_time_ms > GAP:
            break
        session.insert(0, event)
    return session


def _money(events: Iterable[Event], **signs: int) -> int:
    return sum(signs.get(e.kind, 0) * (e.quantity or 0) * (e.unit_price_minor or 0) for e in events)


def _remembered(topics: Iterable[list[Event]], field: str) -> tuple[dict[str, int], int]:
    """Return the newest time of each id, of 256 per topic, and the time of the newest id beyond those (-1 for none)."""
    newest: dict[str, int] = {}
    lost = -1
    for events in topics:
        times: dict[str, int] = {}
        for event in events:
            if (key := getattr(event, field)) is not None:
                times[key] = max(times.get(key, 0), event.event_time_ms)
        ranked = sorted(((time, key) for key, time in times.items()), reverse=True)
        lost = max([lost, *(time for time, _ in ranked[DISTINCT_MAX : DISTINCT_MAX + 1])])
        for time, key in ranked[:DISTINCT_MAX]:
            newest[key] = max(newest.get(key, 0), time)
    return newest, lost
