"""`shopstream alerts`: what waits to be delivered to webhook, topic and Airflow, what was refused, and once more."""

from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.context import ExitCode, JsonFlag, emit, invocation
from config.words import moment

if TYPE_CHECKING:
    from sinks.outbox import Delivery

app = typer.Typer(
    no_args_is_help=True,
    help="Alerts and requests for retrainings on their way: what waits, what was refused.",
)


@app.command()
def status(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """List what waits and what was refused, with the last answer. Exit code 3 if something was refused."""
    settings = invocation(ctx).settings()
    from sinks.delivering import outbox_of

    outbox = outbox_of(settings)
    waiting, refused = outbox.waiting(), outbox.refused()
    payload = {
        "outbox": str(outbox.folder),
        "receivers": list(outbox.kinds),
        "waiting": [_document(delivery) for delivery in waiting],
        "refused": [_document(delivery) for delivery in refused],
    }
    emit(payload, as_json=as_json, text=lambda console: _print(console, payload))
    if refused:
        raise typer.Exit(ExitCode.DIFFERENCE)


@app.command()
def retry(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """Put back what was refused, and try once to deliver all that waits. Exit code 3 if something is left."""
    settings = invocation(ctx).settings()
    from sinks.delivering import outbox_of

    outbox = outbox_of(settings, attempts=1)
    put_back = outbox.put_back()
    counts = outbox.flush()
    payload: dict[str, Any] = {
        "put_back": put_back,
        "delivered": counts.delivered,
        "refused": counts.refused,
        "waiting": [_document(delivery) for delivery in outbox.waiting()],
    }

    def text(console: Console) -> None:
        said = f"{counts.delivered} delivered, {counts.refused} refused, {counts.waiting} waiting"
        console.print(f"{said} ({put_back} were put back)", highlight=False)
        for row in payload["waiting"]:
            if row["answer"]:
                console.print(f"{row['kind']} {row['id']}: {row['answer']}", highlight=False, markup=False)

    emit(payload, as_json=as_json, text=text)
    if counts.refused or counts.waiting:
        raise typer.Exit(ExitCode.DIFFERENCE)


def _document(delivery: "Delivery") -> dict[str, Any]:
    return {
        "id": delivery.id,
        "kind": delivery.kind,
        "created_ms": delivery.created_ms,
        "attempts": delivery.attempts,
        "answer": delivery.answer,
    }


def _print(console: Console, payload: dict[str, Any]) -> None:
    rows = [(state, row) for state in ("waiting", "refused") for row in payload[state]]
    if not rows:
        console.print("Nothing waits, and nothing was refused.", highlight=False)
        return
    table = Table("receiver", "state", "since", "tries", "id", "last answer")
    for state, row in rows:
        shown = "[red]refused[/red]" if state == "refused" else state
        if state == "waiting" and row["kind"] not in payload["receivers"]:
            shown = "[yellow]waiting, no such receiver is set[/yellow]"
        table.add_row(
            row["kind"],
            shown,
            moment(row["created_ms"]),
            str(row["attempts"]),
            escape(row["id"]),
            escape(row["answer"]),
        )
    console.print(table)
    if payload["refused"]:
        console.print("once the cause is mended: `shopstream alerts retry`", highlight=False)
