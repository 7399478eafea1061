"""`shopstream stack`: the embedded Kafka, schema registry and Redis."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.context import ExitCode, JsonFlag, emit, invocation, progress_console
from stack.embedded import EmbeddedStack, Endpoints
from stack.ownership import stack_of
from stack.ports import Ports
from stack.status import StackStatus

app = typer.Typer(no_args_is_help=True, help="The embedded Kafka, schema registry and Redis.")

_STYLES = {"running": "green", "unhealthy": "red", "stopped": "yellow", "external": "cyan"}


def _stack(ctx: typer.Context) -> EmbeddedStack:
    given = invocation(ctx)
    return stack_of(given.settings(), given.overrides)


def _tell(line: str) -> None:
    progress_console().print(line, style="dim", highlight=False)


@app.command()
def up(
    ctx: typer.Context,
    kafka_port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of Kafka; 0 for a free one.")] = 0,
    registry_port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the registry; 0 for a free one.")] = 0,
    redis_port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of Redis; 0 for a free one.")] = 0,
    *,
    as_json: JsonFlag = False,
) -> None:
    """Start what does not run, mend what is half-dead. Harmless when all runs."""
    ports = Ports(kafka=kafka_port, registry=registry_port, redis=redis_port)
    endpoints = _stack(ctx).up(ports, _tell, then_exit=True)
    emit(asdict(endpoints), as_json=as_json, text=lambda console: _print_endpoints(console, endpoints))


def _print_endpoints(console: Console, endpoints: Endpoints) -> None:
    for name, address in asdict(endpoints).items():
        console.print(f"{name:<9} {address or 'yours'}", highlight=False, soft_wrap=True)


@app.command()
def down(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """Stop every process of the stack; its data stay."""
    _stack(ctx).down(_tell)
    emit({"stopped": True}, as_json=as_json, text=lambda console: console.print("Stopped; the data stay."))


@app.command()
def status(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """Show each service's process, port, memory and health. Exit code 3 unless all of them run and answer."""
    found = _stack(ctx).status()
    payload = {
        "running": found.running,
        "rss_mb": round(found.rss_bytes / 1e6, 1),
        "services": {
            service.name: {
                "state": service.state,
                "pid": service.pid,
                "port": service.port,
                "rss_mb": round(service.rss_bytes / 1e6, 1),
                "address": service.address,
                "detail": service.detail,
                "log": service.log,
            }
            for service in found.services
        },
    }
    emit(payload, as_json=as_json, text=lambda console: _print_status(console, found))
    if not found.running:
        raise typer.Exit(ExitCode.DIFFERENCE)


def _print_status(console: Console, found: StackStatus) -> None:
    table = Table("service", "state", "pid", "port", "memory", "address", box=None, pad_edge=False)
    for service in found.services:
        table.add_row(
            service.name,
            f"[{_STYLES[service.state]}]{service.state}[/]",
            str(service.pid or ""),
            str(service.port or ""),
            f"{service.rss_bytes / 1e6:.0f} MB" if service.rss_bytes else "",
            service.address,
        )
    console.print(table)
    console.print(f"memory of all together: {found.rss_bytes / 1e6:.0f} MB", highlight=False)
    for service in found.services:
        if service.detail:
            console.print(f"{service.name}: {service.detail}", highlight=False, soft_wrap=True)


@app.command()
def reset(
    ctx: typer.Context,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Stop the stack and delete its data: topics, schemas, online store. The lake stays."""
    stack = _stack(ctx)
    if not yes:
        if as_json:
            raise typer.BadParameter("reset asks before it deletes; with --json, say --yes.")
        question = f"Delete all topics, schemas and online states under {stack.folder}?"
        try:
            agreed = typer.confirm(question, err=True)
        except typer.Abort:  # no answer: the end of the input, or Ctrl-C
            agreed = False
        if not agreed:
            progress_console().print("\nNothing is deleted.")
            raise typer.Exit(ExitCode.FAILED)
    stack.reset(_tell)
    emit({"reset": True}, as_json=as_json, text=lambda console: console.print("Stopped and deleted."))
