"""What may be fetched, whatever is full or stopped."""

from schemas.event import CARTS_TOPIC, CLICKS_TOPIC
from streams.ports import TopicPartition
from streams.room import FetchRoom, NextFetch

A, B, C = TopicPartition(CLICKS_TOPIC, 0), TopicPartition(CLICKS_TOPIC, 1), TopicPartition(CARTS_TOPIC, 0)
ALL = frozenset({A, B, C})


def test_all_at_once_while_all_have_room() -> None:
    assert FetchRoom(2).next_fetch(ALL, ()) == NextFetch(None, is_patient=True)


def test_a_full_partition_is_left_out_and_not_waited_for() -> None:
    room = FetchRoom(2)
    room.taken([A, B])
    room.taken([A])
    assert room.next_fetch(ALL, ()) == NextFetch(frozenset({B, C}), is_patient=False)
    room.done(A)
    assert room.next_fetch(ALL, ()) == NextFetch(None, is_patient=True)


def test_a_stopped_partition_is_never_fetched_and_the_others_are_waited_for() -> None:
    room = FetchRoom(2)
    assert room.next_fetch(ALL, {A}) == NextFetch(frozenset({B, C}), is_patient=True)
    assert room.next_fetch(ALL, ALL) is None


def test_no_room_at_all_until_a_batch_is_done_or_a_seek_forgets_them() -> None:
    room = FetchRoom(1)
    room.taken(ALL)
    assert room.next_fetch(ALL, ()) is None
    room.done(C)
    room.done(C)
    assert room.next_fetch(ALL, ()) == NextFetch(frozenset({C}), is_patient=False)
    room.clear()
    assert room.next_fetch(ALL, ()) == NextFetch(None, is_patient=True)
