"""`shopstream worker`: the Faust worker."""

from typing import Annotated

import typer

from cli.context import JsonFlag, emit, invocation


def worker(
    ctx: typer.Context,
    loglevel: Annotated[str, typer.Option("--loglevel", "-l", help="debug, info, warning or error.")] = "info",
    *,
    json: JsonFlag = False,
) -> None:
    """Keep features fresh and raw events stored, until SIGTERM or Ctrl-C.

    Start several to share the partitions. Logs go to stderr. It exits with 1 when it cannot go on: nothing that was
    not stored is committed, so the next start reads it again and counts nothing twice.
    """
    call = invocation(ctx)
    settings = call.settings()
    from streams.worker import run_worker

    result = run_worker(settings, loglevel=loglevel, debug=call.debug)
    emit(
        {"exit_code": result.exit_code, "reason": result.reason, "records": result.records},
        as_json=json,
        text=lambda console: console.print(result.sentence(), highlight=False, soft_wrap=True),
    )
    raise typer.Exit(result.exit_code)
