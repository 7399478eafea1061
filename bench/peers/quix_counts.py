"""The peer of `live` and `replay`: events per user, kind and minute, in Quix Streams. Runs in its own environment.

    .venv-bench/bin/python bench/peers/quix_counts.py --broker 127.0.0.1:9092 --registry http://127.0.0.1:8081/... \
        --topic shop.clicks.v1 --group peer-1 --state DIR --out FILE [--redis URL]

Tumbling windows of one minute are the least work from which the counts over 30 minutes can be read: thirty of them,
added up. A hopping window of 30 minutes would be updated thirty times per event.

Writes one JSON object: when the first and the last record were processed (monotonic seconds, comparable between
processes), how many, and `user -> minute -> [page views, clicks, searches]`.
"""

import argparse
import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

KINDS = {"page_view": 0, "click": 1, "search": 2}
IDLE_S = 5.0
GRACE = timedelta(days=2)  # nothing is late: the other side counts all that comes within 10 minutes


class Seen:
    """What was processed: when, and the newest value of each window."""

    def __init__(self, redis: Any) -> None:
        self.first_s = self.last_s = 0.0
        self.count = 0
        self.windows: dict[str, dict[int, list[int]]] = {}
        self._redis = redis

    def take(self, value: dict[str, Any], key: Any) -> None:
        """Note an updated window."""
        self.last_s = time.monotonic()
        self.first_s = self.first_s or self.last_s
        self.count += 1
        user = key.decode() if isinstance(key, bytes) else key
        self.windows.setdefault(user, {})[value["start"]] = value["value"]
        if self._redis is not None:
            self._redis.hset(f"peer:{user}", value["start"], json.dumps(value["value"]))


def counted(counts: list[int], value: dict[str, Any]) -> list[int]:
    """Add an event to the counts of its window."""
    counts[KINDS[value["kind"]]] += 1
    return counts


def connected(url: str | None) -> Any:
    """Return a client of Redis, or None without an address."""
    if url is None:
        return None
    from redis import Redis

    return Redis.from_url(url)


def job(options: argparse.Namespace, seen: Seen) -> Any:
    """Return the application, ready to run."""
    from quixstreams import Application
    from quixstreams.models.serializers.avro import AvroDeserializer
    from quixstreams.models.serializers.schema_registry import SchemaRegistryClientConfig

    application = Application(
        broker_address=options.broker,
        consumer_group=options.group,
        auto_offset_reset="earliest",
        state_dir=options.state,
        loglevel="WARNING",
        auto_create_topics=False,
        use_changelog_topics=False,  # a backfill starts from nothing
        consumer_extra_config={"fetch.queue.backoff.ms": 20, "queued.min.messages": 100_000},
    )
    registry = SchemaRegistryClientConfig(url=options.registry)
    topic = application.topic(
        options.topic,
        value_deserializer=AvroDeserializer(schema_registry_client_config=registry),
        key_deserializer="str",
        timestamp_extractor=lambda value, *_: int(value["event_time"].timestamp() * 1000),
    )
    first = [0, 0, 0]
    windows = application.dataframe(topic).tumbling_window(timedelta(minutes=1), grace_ms=GRACE)
    windows = windows.reduce(counted, lambda value: counted(list(first), value)).current()
    windows.update(lambda value, key, *_: seen.take(value, key), metadata=True)
    return application


def main() -> None:
    """Run until nothing has come for a while."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("broker", "registry", "topic", "group"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--redis")
    options = parser.parse_args()
    seen = Seen(connected(options.redis))
    job(options, seen).run(timeout=IDLE_S)
    options.out.write_text(
        json.dumps({"first_s": seen.first_s, "last_s": seen.last_s, "count": seen.count, "windows": seen.windows})
    )


if __name__ == "__main__":
    main()
