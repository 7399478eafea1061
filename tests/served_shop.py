"""A shop in miniature: events are appended, folded and pushed as live does, answers are kept, and all is in a lake."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from features.apply import fold
from features.catalog import DEFINITION_VERSION, FEATURES
from features.finalize import finalize
from features.state import TopicState, decode, read_trailer
from replay.skew import SkewOptions, audit
from replay.skew_report import SkewReport
from schemas.event import EVENT_TOPICS, Event, Record
from sinks.erasures import Tombstones
from sinks.lake import LakeSink
from sinks.rows import FeatureLogRow, PartitionFlush, RawRow
from sinks.served import ServedRow, ServedSink, ServedView, catalog_fingerprint
from tests.logs import topic_of

PUSH_MS = 50
ALLOWANCE_MS = 2_000

Finalize = Callable[[Mapping[str, TopicState | None], int | None], dict[str, Any]]


class ServedShop:
    """One partition per topic. Answers and events reach the lake with `audit`, or with `flush`.

    Attributes:
        stored: what the online store holds: (state, servable_ms) by topic and user. A test may change it.
        log_states: whether pushed states go to `feature_log`.
    """

    def __init__(self, lake: Path, epoch: str = "id:1", first_offset: int = 0) -> None:
        self.lake = lake
        self.epoch = epoch
        self.stored: dict[tuple[str, str], tuple[bytes, int]] = {}
        self.next_offset = dict.fromkeys(EVENT_TOPICS, first_offset)
        self.log_states = True
        self.is_pushing = True
        self._raw: dict[str, list[RawRow]] = {topic: [] for topic in EVENT_TOPICS}
        self._states: dict[str, list[FeatureLogRow]] = {topic: [] for topic in EVENT_TOPICS}
        self._served: list[ServedRow] = []
        self._sequence = 0

    def append(self, event: Event, append_ms: int | None = None, *, push_ms: int = PUSH_MS) -> int:
        """Append an event, 10 ms after it happened unless told otherwise, and push its user's state."""
        topic = topic_of(event)
        offset = self.next_offset[topic]
        self.next_offset[topic] += 1
        append_ms = event.event_time_ms + 10 if append_ms is None else append_ms
        record = Record(topic, 0, offset, append_ms, event.user_id.encode(), b"")
        self._raw[topic].append(RawRow(record, event, 1, append_ms + 5))
        if self.is_pushing:
            self.push(topic, event.user_id, [(offset, event)], append_ms + push_ms)
        return offset

    def push(self, topic: str, user_id: str, log: list[tuple[int, Event]], servable_ms: int) -> None:
        before, _ = self.stored.get((topic, user_id), (None, 0))
        self.store(topic, user_id, fold(before, log).state, servable_ms)

    def store(self, topic: str, user_id: str, state: bytes, servable_ms: int) -> None:
        self.stored[topic, user_id] = (state, servable_ms)
        if self.log_states:
            # the log has the clock after the push, the store that before it
            row = FeatureLogRow(user_id, read_trailer(state).version, state, servable_ms + 1)
            self._states[topic].append(row)

    def read(
        self,
        user_id: str,
        at_ms: int,
        *,
        as_of_ms: int | None = None,
        by: Finalize = finalize,
        **changed: Any,
    ) -> ServedRow:
        """Answer as a reader does, from what is stored, and keep the answer."""
        states: dict[str, TopicState | None] = {}
        views = {}
        for topic in EVENT_TOPICS:
            blob, servable_ms = self.stored.get((topic, user_id), (None, None))
            states[topic] = None if blob is None else decode(blob)
            version = None if blob is None else read_trailer(blob).version
            views[topic] = ServedView(self.epoch, 0, version, servable_ms, "FRESH" if blob else "MISSING")
        values = by(states, at_ms if as_of_ms is None else as_of_ms)
        row = ServedRow(
            reader_id="reader",
            sequence=self._sequence,
            served_ms=at_ms,
            user_id=user_id,
            as_of_ms=values["as_of_ms"],
            definition_version=DEFINITION_VERSION,
            catalog=catalog_fingerprint(),
            model=None,
            values=json.dumps({feature.name: values[feature.name] for feature in FEATURES}),
            views=views,
        )
        self._sequence += 1
        self._served.append(row._replace(**changed))
        return row

    def flush(self) -> None:
        """Write what has gathered to the lake."""
        for topic in EVENT_TOPICS:
            raw = self._raw[topic]
            if raw:
                first, last = raw[0].record.offset, raw[-1].record.offset
                flush = PartitionFlush(
                    topic, self.epoch.partition(":")[0], self.epoch, 0, first, last, raw, self._states[topic]
                )
                LakeSink(self.lake).write([flush])
            self._raw[topic], self._states[topic] = [], []
        if self._served:
            ServedSink(self.lake, "reader").append(self._served)
            self._served = []

    def audit(self, tombstones: Tombstones | None = None, **options: Any) -> SkewReport:
        """Flush, and audit all that was served."""
        self.flush()
        chosen = {"first_ms": 0, "end_ms": 2**62, "allowance_ms": ALLOWANCE_MS} | options
        return audit(self.lake, SkewOptions(**chosen), tombstones or Tombstones())
