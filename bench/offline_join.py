"""How long the offline store takes to join labels with the log of pushed states, and how much memory.

    python -m bench.offline_join [--rows 5000000] [--labels 100000] [--folder FOLDER] [--json]

Makes a `feature_log` (two minutes for 5 million rows, about 1 GB) in a scratch folder, or once in a folder that is
named and kept: closed days as `shopstream lake maintain` leaves them, and today as flushes of a worker. Its states are
real ones, of 1 to 60 events. Then a process of its own asks Feast for the features of random users at random instants:
`get_historical_features`, the on-demand view included. Prints seconds, from the question to the answer as a data
frame, and the peak resident memory of that process; some answers are compared with a search by brute force.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.results import say
from config.settings import load_settings
from feature_repo.layout import STATE
from features.apply import fold
from features.catalog import VIEWS
from schemas.event import CARTS_TOPIC, CLICKS_TOPIC, Event

DAYS = 5
FIRST_MS = int(datetime(2026, 11, 18, tzinfo=UTC).timestamp() * 1000)
DAY_MS = 86_400_000
USERS = 200_000
PARTITIONS = 8
CLOSED_FILE_ROWS = 180_000
FLUSH_ROWS = 2_000
CHECKED = 300
STATES = 20_000  # far more than the compression looks back, so that they compress as states of different users do


def user_names() -> Any:
    """Return every user's id, the number in it being its place."""
    return pa.array([f"user-{number:07d}" for number in range(USERS)])


def states(topic: str, count: int, seed: int) -> Any:
    """Return bytes of states, each a fold of the events of some visits."""
    chosen = random.Random(seed)  # noqa: S311 - no secret
    kinds = (
        ("page_view", "page_view", "click", "search") if topic == CLICKS_TOPIC else ("add", "add", "remove", "purchase")
    )
    made = []
    for number in range(count):
        at_ms, log = FIRST_MS, []
        for place in range(1 + int(chosen.expovariate(1 / 18)) % 60):
            at_ms += chosen.randrange(1_000, 20 * 60_000)
            fields: dict[str, Any] = {
                "product_id": f"product-{chosen.randrange(100_000)}",
                "category_id": f"c{chosen.randrange(300)}",
            }
            if topic == CARTS_TOPIC:
                fields |= {"quantity": 1, "unit_price_minor": chosen.randrange(100, 90_000), "currency": "EUR"}
            event_id = f"{number}-{place}-{chosen.random()}"
            log.append(
                (place, Event(event_id=event_id, kind=chosen.choice(kinds), user_id="u", event_time_ms=at_ms, **fields))
            )
        made.append(fold(None, log).state)
    return pa.array(made, pa.binary())


def make_lake(lake: Path, rows: int) -> None:
    """Write the log: most of it in the files of closed days, the last tenth in flushes of the last day."""
    from deltalake import write_deltalake

    from sinks.delta import open_or_create, writer_properties
    from sinks.maintenance import GROUP_ROWS
    from sinks.tables import FEATURE_LOG

    handle = open_or_create(lake / FEATURE_LOG.name, FEATURE_LOG)
    pool = {topic: states(topic, STATES, seed) for seed, topic in enumerate((CLICKS_TOPIC, CARTS_TOPIC))}
    names, rng = user_names(), np.random.default_rng(0)
    open_rows, written = rows // 10, 0
    day_rows = (rows - open_rows) // (DAYS - 1) + 1
    properties = writer_properties(FEATURE_LOG, max_row_group_size=GROUP_ROWS)
    while written < rows:
        if written < rows - open_rows:
            count = min(CLOSED_FILE_ROWS, day_rows - written % day_rows, rows - open_rows - written)
        else:
            count = min(FLUSH_ROWS, rows - written)
        servable = servable_ms(range(written, written + count), rows - open_rows, open_rows)
        table = some_rows(names, pool, rng, written, servable)
        write_deltalake(handle, table, mode="append", writer_properties=properties)
        written += count
    say(f"made {rows:,} rows in {len(handle.file_uris()):,} files")


def servable_ms(numbers: range, closed_rows: int, open_rows: int) -> Any:
    """Return when rows became readable: evenly over the closed days, then over the open one."""
    day_rows = closed_rows // (DAYS - 1) + 1
    rows = np.arange(numbers.start, numbers.stop)
    if numbers.start < closed_rows:
        return FIRST_MS + rows * DAY_MS // day_rows
    return FIRST_MS + (DAYS - 1) * DAY_MS + (rows - closed_rows) * DAY_MS // open_rows


def some_rows(names: Any, pool: Any, rng: Any, first: int, servable: Any) -> Any:
    """Return rows of one file: pushed one after the other, four of clicks for one of carts."""
    from sinks.tables import FEATURE_LOG, arrow_schema

    count = len(servable)
    users = np.minimum(rng.zipf(1.2, count) - 1, USERS - 1)
    users = np.where(rng.random(count) < 0.5, rng.integers(0, USERS, count), users % USERS)
    is_cart = rng.random(count) < 0.2
    chosen = rng.integers(0, STATES, count)
    topics = np.where(is_cart, CARTS_TOPIC, CLICKS_TOPIC)
    both = pa.concat_arrays([pool[CLICKS_TOPIC], pool[CARTS_TOPIC]])
    columns = {
        "log_epoch": pa.array(np.where(is_cart, f"cartsid:{PARTITIONS}", f"clicksid:{PARTITIONS}")),
        "topic": pa.array(topics),
        "partition": pa.array((users % PARTITIONS).astype(np.int32)),
        "user_id": names.take(pa.array(users)),
        "version": pa.array(np.arange(first, first + count) + 1),
        "state": both.take(pa.array(chosen + is_cart * STATES)),
        "servable_ms": pa.array(servable),
        "event_timestamp": pa.array(servable).cast(pa.timestamp("ms", "UTC")),
        "servable_date": pa.array(servable).cast(pa.timestamp("ms")).cast(pa.date32()),
    }
    return pa.table(columns).cast(arrow_schema(FEATURE_LOG))


def measure(home: Path, count: int) -> dict[str, Any]:
    """Ask for the features of random labels; return seconds and memory."""
    import pandas as pd

    from tests.registries import store_without_redis

    settings = load_settings({"home": home, "redis": {"url": "redis://localhost:1/0"}})
    store = store_without_redis(settings)
    rng = np.random.default_rng(1)
    instants = FIRST_MS + rng.integers(0, DAYS * DAY_MS, count)
    frame = pd.DataFrame(
        {
            "user_id": user_names().take(pa.array(rng.integers(0, USERS, count))).to_pandas(),
            "event_timestamp": pd.to_datetime(instants, unit="ms", utc=True),
            "as_of": instants,
        }
    )
    before_mb = peak_mb()
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    from feature_repo.opening import feature_service

    job = store.get_historical_features(frame, features=feature_service(store), full_feature_names=True)
    answer = job.to_df()
    seconds, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
    result = {
        "labels": count,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_s, 1),
        "peak_rss_mb": peak_mb(),
        "rss_before_mb": before_mb,
    }
    check(home / "lake", frame, answer)
    return result


def check(lake: Path, frame: Any, answer: Any) -> None:
    """Compare the states of the first labels with the newest that a search by brute force finds."""
    from deltalake import DeltaTable
    from pyarrow import compute as pc

    from sinks.tables import FEATURE_LOG

    assert (answer["user_id"].to_numpy() == frame["user_id"].to_numpy()).all()
    asked = frame.head(CHECKED)
    log = DeltaTable(str(lake / FEATURE_LOG.name)).to_pyarrow_dataset()
    is_asked = pc.field("user_id").isin(pa.array(asked["user_id"]))
    rows = log.to_table(columns=["topic", "user_id", "version", "servable_ms", "state"], filter=is_asked).to_pylist()
    matched = 0
    for topic, view in VIEWS.items():
        states = answer[f"{view.view}__{STATE}"].head(CHECKED)
        for user, instant_ms, found in zip(asked["user_id"], asked["as_of"], states, strict=True):
            seen = [r for r in rows if (r["topic"], r["user_id"]) == (topic, user) and r["servable_ms"] <= instant_ms]
            right = max(seen, key=lambda row: (row["servable_ms"], row["version"]), default=None)
            assert found == (right and right["state"]), (topic, user, instant_ms)
            matched += right is not None
    assert matched


def peak_mb() -> int:
    """Return the peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    """Make the log and measure, each in a process of its own; print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--labels", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="keep the log here, and use it again")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--step", choices=("make", "measure"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step == "make":
        make_lake(given.folder / "lake", given.rows)
    elif given.step == "measure":
        sys.stdout.write(json.dumps(measure(given.folder, given.labels)) + "\n")
    else:
        with tempfile.TemporaryDirectory(prefix="shopstream-offline-join-") as scratch:
            result = both_steps((given.folder or Path(scratch)).absolute() / str(given.rows), given.rows, given.labels)
        text = (
            f"{result['labels']:,} labels against {result['rows']:,} rows: {result['seconds']} s "
            f"({result['cpu_seconds']} s of CPU), peak RSS {result['peak_rss_mb']:,} MB"
        )
        sys.stdout.write((json.dumps(result) if given.json else text) + "\n")


def both_steps(home: Path, rows: int, labels: int) -> dict[str, Any]:
    """Make the log, if it is not there, and measure.

    This process stays small: Linux counts the memory of whoever started a process towards the peak of that process.
    """
    command = [sys.executable, "-m", "bench.offline_join", "--rows", str(rows), "--labels", str(labels)]
    command += ["--folder", str(home), "--step"]
    root = Path(__file__).parents[1]
    if not (home / "made").exists():
        if subprocess.run([*command, "make"], check=False, cwd=root).returncode:
            sys.exit("The log was not made.")
        (home / "made").touch()
    done = subprocess.run([*command, "measure"], stdout=subprocess.PIPE, text=True, check=False, cwd=root)
    if done.returncode:
        sys.exit("The join was not measured.")
    return {"rows": rows, **json.loads(done.stdout.splitlines()[-1])}


if __name__ == "__main__":
    main()
