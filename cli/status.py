"""`shopstream status`: what was produced, read, committed and stored, and how fresh it is."""

from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from cli.context import JsonFlag, emit, invocation
from config.words import moment


def status(ctx: typer.Context, *, json: JsonFlag = False) -> None:
    """Show each partition's position, the rows of the lake, and freshness."""
    settings = invocation(ctx).settings().require("kafka")
    from sinks.lake_reads import table_counts
    from sinks.lake_root import lake_of
    from streams.observing import GroupLags, read_workers
    from training.model_log import ModelLog, noted_roles

    lags = GroupLags(settings).read()
    workers = read_workers(settings)
    payload: dict[str, Any] = {
        "group": settings.worker.group_id,
        "workers": workers.worker_count,
        "partitions": [
            {
                "topic": lag.tp.topic,
                "partition": lag.tp.partition,
                "produced": lag.produced,
                "read": workers.read.get(lag.tp),
                "committed": lag.committed,
                "lag": lag.lag_records,
            }
            for lag in lags
        ],
        "lag": sum(lag.lag_records for lag in lags),
        "records": dict(workers.outcomes),
        "dead_letters": dict(workers.dead_letters),
        "lake_rows": table_counts(lake_of(settings)),
        "models": noted_roles(ModelLog(lake_of(settings)).steps()),
        "freshness_ms": {
            "p50": workers.freshness_quantile_ms(0.5),
            "p99": workers.freshness_quantile_ms(0.99),
        },
        "rebuilding_partitions": workers.rebuilding,
        "halted_partitions": [
            {"topic": tp.topic, "partition": tp.partition, "halted_since_ms": since_ms}
            for tp, since_ms in sorted(workers.halted.items())
        ],
        "braked_partitions": [
            {"topic": tp.topic, "partition": tp.partition, "reason": reason}
            for tp, reason in sorted(workers.braked.items())
        ],
        "conflicts": workers.conflicts,
        "rss_mb": round(workers.rss_bytes / 1e6, 1),
    }
    emit(payload, as_json=json, text=lambda console: _print(console, payload))


def _print(console: Console, payload: dict[str, Any]) -> None:
    table = Table("topic", "partition", "produced", "read", "committed", "lag")
    for row in payload["partitions"]:
        shown = ("-" if value is None else f"{value:,}" for value in list(row.values())[1:])
        table.add_row(row["topic"], *shown)
    console.print(table)
    workers, group, lag = (payload[name] for name in ("workers", "group", "lag"))
    console.print(f"{workers} worker(s) of group {group}, lag {lag:,}", highlight=False)
    if payload["records"]:
        console.print("records: " + ", ".join(f"{name} {count:,}" for name, count in payload["records"].items()))
    console.print("lake: " + ", ".join(f"{name} {count:,} rows" for name, count in payload["lake_rows"].items()))
    if payload["models"]:
        console.print("models: " + ", ".join(f"{role} {version}" for role, version in payload["models"].items()))
    if payload["freshness_ms"]["p50"] is not None:
        p50, p99 = payload["freshness_ms"].values()
        console.print(f"from append to readable: at most {p50:,.0f} ms (p50), {p99:,.0f} ms (p99)", highlight=False)
    if payload["rebuilding_partitions"]:
        count, command = payload["rebuilding_partitions"], "shopstream replay --into online"
        console.print(f"[yellow]{count} partitions are REBUILDING: {command}[/yellow]")
    since_ms: dict[str, int] = {}
    for halted in payload["halted_partitions"]:
        topic = halted["topic"]
        since_ms[topic] = min(halted["halted_since_ms"], since_ms.get(topic, halted["halted_since_ms"]))
    for topic, first_ms in since_ms.items():
        console.print(
            f"[red]{topic} is HALTED since {moment(first_ms)}: nothing is applied to it, raw events keep landing. "
            "`shopstream gates explain` tells why[/red]",
            highlight=False,
        )
    for braked in payload["braked_partitions"]:
        console.print(
            f"[red]{braked['topic']}-{braked['partition']} is stopped: too many of its records are dead letters "
            f"({braked['reason']}); the worker's log says more[/red]",
            highlight=False,
        )
