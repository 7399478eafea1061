"""The rules an event must keep, as documented in docs/reference/events.md; pure.

Order of the checks, the first that fails names the reason: missing fields, values in the order of the record's fields,
event time against the append time; key and partition are checked by the codec.
"""

from typing import Final, NamedTuple

from schemas.dead_letter import Reason
from schemas.event import CARTS_TOPIC, KINDS_BY_TOPIC, Event

EVENT_ID_BYTES_MAX: Final = 64
USER_ID_BYTES_MAX: Final = 256
PRODUCT_ID_BYTES_MAX: Final = 40
CATEGORY_ID_BYTES_MAX: Final = 64
EVENT_TIME_MS_MIN: Final = 946_684_800_000  # 2000-01-01T00:00:00Z
INT_MAX: Final = 2**31 - 1
QUANTITY_MAX: Final = 1_000_000
UNIT_PRICE_MINOR_MAX: Final = 10**12
# 9 million such lines of one user within a day still sum to less than 2**63
LINE_VALUE_MINOR_MAX: Final = 10**12


class Problem(NamedTuple):
    """A broken rule: the reason, and in words what is wrong with which field."""

    reason: Reason
    detail: str


def value_problem(topic: str, event: Event) -> Problem | None:
    """Check what an event says, without the record that carried it: required fields, then values."""
    user_id, event_id = event.user_id, event.event_id
    if not event_id or not event.kind or not user_id:
        return _empty("event_id" if not event_id else "kind" if not event.kind else "user_id")
    if topic == CARTS_TOPIC and (not event.product_id or not event.currency):
        return _empty("product_id" if not event.product_id else "currency")
    if _longer(event_id, EVENT_ID_BYTES_MAX):
        return _too_long("event_id", event_id, EVENT_ID_BYTES_MAX)
    kinds = KINDS_BY_TOPIC[topic]
    if event.kind not in kinds:
        return _invalid(f"kind is {_shown(event.kind)}; on {topic} it is one of {', '.join(kinds)}.")
    if _longer(user_id, USER_ID_BYTES_MAX):
        return _too_long("user_id", user_id, USER_ID_BYTES_MAX)
    if event.event_time_ms < EVENT_TIME_MS_MIN:
        return _invalid(f"event_time is {event.event_time_ms} ms, before the year 2000.")
    if event.product_id is not None and _longer(event.product_id, PRODUCT_ID_BYTES_MAX):
        return _too_long("product_id", event.product_id, PRODUCT_ID_BYTES_MAX)
    if event.category_id is not None and _longer(event.category_id, CATEGORY_ID_BYTES_MAX):
        return _too_long("category_id", event.category_id, CATEGORY_ID_BYTES_MAX)
    return _cart_problem(event) if topic == CARTS_TOPIC else _click_problem(event)


def time_problem(event: Event, append_time_ms: int, future_tolerance_ms: int) -> Problem | None:
    """Check the event time against the broker's clock."""
    ahead_ms = event.event_time_ms - append_time_ms
    if ahead_ms <= future_tolerance_ms:
        return None
    return Problem(
        Reason.FUTURE_EVENT,
        f"event_time {event.event_time_ms} is {ahead_ms} ms after the record's append time; "
        f"{future_tolerance_ms} ms are allowed.",
    )


def _click_problem(event: Event) -> Problem | None:
    if event.result_count is not None and not 0 <= event.result_count <= INT_MAX:
        return _outside("result_count", event.result_count, 0, INT_MAX)
    if event.position is not None and not 0 <= event.position <= INT_MAX:
        return _outside("position", event.position, 0, INT_MAX)
    return None


def _cart_problem(event: Event) -> Problem | None:
    quantity, price, currency = event.quantity, event.unit_price_minor, event.currency
    if quantity is None or price is None or currency is None:
        return _empty("quantity" if quantity is None else "unit_price_minor" if price is None else "currency")
    if not 1 <= quantity <= QUANTITY_MAX:
        return _outside("quantity", quantity, 1, QUANTITY_MAX)
    if not 0 <= price <= UNIT_PRICE_MINOR_MAX:
        return _outside("unit_price_minor", price, 0, UNIT_PRICE_MINOR_MAX)
    if quantity * price > LINE_VALUE_MINOR_MAX:
        return _invalid(
            f"quantity times unit_price_minor is {quantity * price}; at most {LINE_VALUE_MINOR_MAX} is allowed."
        )
    if not (len(currency) == 3 and currency.isascii() and currency.isalpha() and currency.isupper()):
        return _invalid(f"currency is {_shown(currency)}; it must be three capital letters, such as EUR.")
    return None


def _longer(text: str, bytes_max: int) -> bool:
    return len(text) > bytes_max or (not text.isascii() and len(text.encode()) > bytes_max)


def _empty(name: str) -> Problem:
    return Problem(Reason.MISSING_FIELD, f"{name} is empty; it is required.")


def _invalid(detail: str) -> Problem:
    return Problem(Reason.INVALID_VALUE, detail)


def _too_long(name: str, text: str, bytes_max: int) -> Problem:
    return _invalid(f"{name} has {len(text.encode())} bytes; at most {bytes_max} are allowed.")


def _outside(name: str, value: int, least: int, most: int) -> Problem:
    return _invalid(f"{name} is {value}; it must be from {least} to {most}.")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
