"""Entry point of the `shopstream` command."""

import atexit
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import (
    alerts,
    config,
    demo,
    dlq,
    doctor,
    drift,
    events,
    features,
    gates,
    lake,
    models,
    parity,
    produce,
    recommend,
    replay,
    schema,
    skew,
    stack,
    status,
    train,
    worker,
)
from cli.context import ExitCode, Invocation
from config.errors import SettingsError, ShopstreamError

app = typer.Typer(
    name="shopstream",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Streaming session features for a shop: Kafka to Redis through Feast, every raw event in Delta Lake.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong use, 3 a check found a difference, 130 interrupted.",
)


@app.callback()
def main(
    ctx: typer.Context,
    home: Annotated[Path | None, typer.Option(help="Folder of data, logs and pids \\[default: .shopstream].")] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. worker.group_id=x.")
    ] = None,
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    """Collect the global flags."""
    overrides: dict[str, Any] = {}
    for pair in assign or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--set")
        *sections, name = key.split(".")
        target = overrides
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = value
    if home is not None:
        overrides["home"] = home
    ctx.obj = Invocation(debug=debug, overrides=overrides)


app.command()(demo.demo)
app.command()(doctor.doctor)
app.add_typer(stack.app, name="stack")
app.command()(produce.produce)
app.command()(worker.worker)
app.command()(status.status)
app.command()(replay.replay)
app.command()(parity.parity)
app.command()(skew.skew)
app.add_typer(schema.app, name="schema")
app.add_typer(features.app, name="features")
app.add_typer(events.app, name="events")
app.add_typer(dlq.app, name="dlq")
app.add_typer(gates.app, name="gates")
app.add_typer(alerts.app, name="alerts")
app.add_typer(drift.app, name="drift")
app.add_typer(lake.app, name="lake")
app.add_typer(train.app, name="train")
app.add_typer(models.app, name="models")
app.command()(recommend.recommend)
app.add_typer(config.app, name="config")


def run(arguments: list[str] | None = None) -> None:
    """Run the command and exit with its documented code; a traceback is shown only with `--debug`."""
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=arguments)
    except ShopstreamError as error:
        if debug:
            raise
        typer.echo(f"shopstream: {error}", err=True)
        sys.exit(ExitCode.WRONG_USE if isinstance(error, SettingsError) else ExitCode.FAILED)


def run_and_end(arguments: list[str] | None = None) -> None:
    """Run the command as all that this process does, and end the process in order, but for the interpreter itself.

    While that is taken apart, a thread of Arrow that frees one of its buffers ends the process with another exit code.
    """
    code = 0
    try:
        run(arguments)
    except SystemExit as ended:
        if not isinstance(ended.code, int):
            raise
        code = ended.code
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - waits for threads, as any end does
    atexit._run_exitfuncs()  # noqa: SLF001 - likewise
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # whoever reads may be gone
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    run_and_end()
