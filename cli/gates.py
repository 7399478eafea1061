"""`shopstream gates`: whether the data of each topic is fit to be applied, why not, and what to do about it."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from cli.context import ExitCode, JsonFlag, emit, invocation
from cli.durations import duration_ms
from config.words import moment
from schemas.event import EVENT_TOPICS

app = typer.Typer(no_args_is_help=True, help="Gates: is the data fit to be applied; what halted a view, and resuming.")

_COLOURS = {"pass": "green", "fail": "red", "unknown": "yellow", "overridden": "magenta", "off": "dim"}
_NEXT = {
    "nulls": "Ask the producer of these events why the field is empty, and have it mended.",
    "freshness": "Find out why only old events arrive: a producer that replays, or one whose clock is slow.",
    "schema": "Run `shopstream schema diff`; if the schema is meant, add its fingerprint to gates.expected_schemas.",
    "references": "If the ids are real, load newer tables (`shopstream lake reference load`); else mend the producer.",
}

Topic = Annotated[str, typer.Argument(help="Topic, such as shop.clicks.v1; clicks and carts will do.")]


@app.command()
def status(ctx: typer.Context, *, json: JsonFlag = False) -> None:
    """Show how each gate of each topic stands; exit code 3 when one is red."""
    settings = invocation(ctx).settings()
    from streams.gate_report import standings

    found = standings(settings)
    payload = {"is_red": any(topic.is_red for topic in found), "topics": [topic.document() for topic in found]}
    emit(payload, as_json=json, text=lambda console: _print_status(console, payload))
    if payload["is_red"]:
        raise typer.Exit(ExitCode.DIFFERENCE)


@app.command()
def explain(ctx: typer.Context, topic: Topic, *, json: JsonFlag = False) -> None:
    """Show what was seen in a topic: which fields, ids and schemas, with examples and offsets, and what to do next."""
    settings = invocation(ctx).settings()
    from streams.gate_report import standings

    name = _topic(topic)
    found = next(standing for standing in standings(settings) if standing.topic == name)
    payload = {
        **found.document(),
        "accepted": found.notes.accepted and {
            "at_ms": found.notes.accepted.at_ms,
            "reason": found.notes.accepted.reason,
            "offsets": dict(found.notes.accepted.offsets),
        },
        "evidence": {worker: counts["evidence"] for worker, counts in found.notes.counts.items()},
        "next_steps": _next_steps(name, found.document()),
    }  # fmt: skip
    emit(payload, as_json=json, text=lambda console: _print_explanation(console, payload))


@app.command()
def resume(
    ctx: typer.Context,
    topic: Topic,
    *,
    reason: Annotated[str, typer.Option(help="Why what is there may be applied; kept in the lake.")] = "",
    json: JsonFlag = False,
) -> None:
    """Accept what is in the topic now as it is, and end its halt: the view catches up, nothing is left out."""
    settings = invocation(ctx).settings()
    from streams.gate_report import accept

    name = _topic(topic)
    offsets = accept(settings, name, reason)
    payload = {"topic": name, "accepted_offsets": offsets, "reason": reason}
    total = sum(offsets.values())
    said = f"{name} is resumed. Gates look at what comes after the {total:,} records that its log holds until now."
    emit(payload, as_json=json, text=lambda console: console.print(said, highlight=False))


@app.command()
def override(
    ctx: typer.Context,
    topic: Topic,
    gate: Annotated[str, typer.Argument(help="freshness, nulls, schema or references.")],
    *,
    reason: Annotated[str, typer.Option(help="Why it may not halt; kept in the lake.")],
    duration: Annotated[str, typer.Option("--for", metavar="DURATION", help="Such as 30m, 2h or 1d.")],
    json: JsonFlag = False,
) -> None:
    """Keep one gate of a topic from halting for a while. A view that is halted already stays so until `resume`."""
    for_ms = duration_ms("--for", duration)
    settings = invocation(ctx).settings()
    from quality.gates import Gate
    from streams import gate_report

    if gate not in set(Gate):
        raise typer.BadParameter(f"{gate!r} is no gate: {', '.join(Gate)}", param_hint="GATE")
    name = _topic(topic)
    until_ms = gate_report.override(settings, name, Gate(gate), reason, for_ms)
    payload = {"topic": name, "gate": gate, "until_ms": until_ms, "reason": reason}
    said = f"Gate {gate} of {name} does not halt for records appended before {moment(until_ms)}."
    emit(payload, as_json=json, text=lambda console: console.print(said, highlight=False))


def _topic(given: str) -> str:
    found = [topic for topic in EVENT_TOPICS if given in {topic, topic.split(".")[1]}]
    if not found:
        raise typer.BadParameter(f"{given!r} is no topic of events: {', '.join(EVENT_TOPICS)}", param_hint="TOPIC")
    return found[0]


def _next_steps(topic: str, document: dict[str, Any]) -> list[str]:
    red = {row["gate"] for row in document["gates"] if row["status"] == "fail"}
    if document["halt"]:
        red.add(document["halt"]["gate"])
    steps = [_NEXT[gate] for gate in sorted(red)]
    if document["halt"] or document["halted_partitions"]:
        steps.append(f"Then accept what is there, and go on: `shopstream gates resume {topic} --reason ...`.")
    return steps or ["Nothing: no gate is red."]


def _print_status(console: Console, payload: dict[str, Any]) -> None:
    table = Table(Column("topic", no_wrap=True), "gate", "policy", "status", "since", "what was seen")
    for topic in payload["topics"]:
        for row in topic["gates"]:
            shown = f"[{_COLOURS[row['status']]}]{row['status'].upper()}[/]"
            since = "-" if row["since_ms"] is None else moment(row["since_ms"])
            table.add_row(topic["topic"], row["gate"], row["policy"], shown, since, row["detail"])
    console.print(table)
    for topic in payload["topics"]:
        _print_halt(console, topic)


def _print_halt(console: Console, topic: dict[str, Any]) -> None:
    halt, name = topic["halt"], topic["topic"]
    if halt:
        since = moment(halt["since_ms"])
        console.print(
            f"[red]{name} is HALTED since {since} by gate {halt['gate']}: {halt['detail']}[/red]", highlight=False
        )
        console.print(f"`shopstream gates explain {name}` tells more", highlight=False)
    elif topic["halted_partitions"]:
        console.print(f"[red]{name} is HALTED; nothing is noted of why[/red]", highlight=False)


def _print_explanation(console: Console, payload: dict[str, Any]) -> None:
    _print_status(console, {"topics": [payload]})
    halt = payload["halt"]
    if halt:
        _print_evidence(console, f"halted by {halt['gate']}", halt["evidence"])
    for worker, evidence in payload["evidence"].items():
        for part, found in evidence.items():
            _print_evidence(console, f"{part}, seen by {worker}", found)
    if payload["accepted"]:
        accepted = payload["accepted"]
        console.print(
            f"last resumed {moment(accepted['at_ms'])}: {accepted['reason'] or 'no reason given'}", highlight=False
        )
    for step in payload["next_steps"]:
        console.print(f"next: {step}", highlight=False)


def _print_evidence(console: Console, title: str, evidence: dict[str, Any]) -> None:
    console.print(f"[bold]{title}[/bold]", highlight=False)
    for number, fingerprint in evidence.get("schemas", {}).items():
        console.print(f"  schema {number}: SHA-256 {fingerprint}", highlight=False)
    for partition, (first, last) in evidence.get("offsets", {}).items():
        console.print(f"  partition {partition}: offsets {first:,} to {last:,}", highlight=False)
    for example in evidence.get("examples", []):
        value = f", value {example['value']!r}" if "value" in example else ""
        place = f"partition {example['partition']} offset {example['offset']}"
        console.print(f"  for example {place}{value}", highlight=False, markup=False)
