from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event
from schemas.producer import Delivery
from traffic.sent_log import Sent, SentLog
from traffic.timed import BrokenEvent, Defect, Mark, TimedEvent


def event(user: str, number: int) -> Event:
    return Event(event_id=f"{user}-{number}", kind="page_view", user_id=user, event_time_ms=number)


def noted(log: SentLog, topic: str, payload: Event | BrokenEvent, partition: int, offset: int) -> None:
    mark = Mark.BROKEN if isinstance(payload, BrokenEvent) else Mark.PLAIN
    log.note(TimedEvent(0, topic, payload, mark), Delivery(topic, partition, offset, 5_000 + offset, None))


def test_a_user_s_events_come_by_topic_in_log_order() -> None:
    log = SentLog()
    noted(log, CLICKS_TOPIC, event("a", 1), 0, 11)
    noted(log, CARTS_TOPIC, event("a", 2), 3, 4)
    noted(log, CLICKS_TOPIC, event("b", 3), 0, 12)
    noted(log, CLICKS_TOPIC, event("a", 4), 0, 14)
    noted(log, CLICKS_TOPIC, event("a", 5), 0, 13)
    users = log.by_user()
    assert users["a"] == [
        Sent(CARTS_TOPIC, 3, 4, 5_004, event("a", 2), None),
        Sent(CLICKS_TOPIC, 0, 11, 5_011, event("a", 1), None),
        Sent(CLICKS_TOPIC, 0, 13, 5_013, event("a", 5), None),
        Sent(CLICKS_TOPIC, 0, 14, 5_014, event("a", 4), None),
    ]
    assert [sent.offset for sent in users["b"]] == [12]


def test_a_broken_record_is_in_the_log_but_belongs_to_no_user() -> None:
    log = SentLog()
    noted(log, CLICKS_TOPIC, BrokenEvent(Defect.WRONG_KEY, event("a", 1)), 2, 7)
    assert list(log.records()) == [Sent(CLICKS_TOPIC, 2, 7, 5_007, None, Defect.WRONG_KEY)]
    assert log.by_user() == {}
    assert log.defect_counts == {Defect.WRONG_KEY: 1}
    assert log.mark_counts == {Mark.BROKEN: 1}
    assert not log.kind_counts


def test_what_was_not_stored_is_counted_with_its_reason() -> None:
    log = SentLog()
    log.note(TimedEvent(0, CLICKS_TOPIC, event("a", 1), Mark.PLAIN), Delivery(CLICKS_TOPIC, -1, -1, -1, "timed out"))
    assert (log.acknowledged_count, log.failed_count) == (0, 1)
    assert log.error_counts == {"timed out": 1}
    assert list(log.records()) == []


def test_counting_alone_keeps_nothing() -> None:
    log = SentLog(keep=False)
    noted(log, CLICKS_TOPIC, event("a", 1), 0, 1)
    assert log.acknowledged_count == 1
    assert log.kind_counts == {"page_view": 1}
    assert list(log.records()) == []
