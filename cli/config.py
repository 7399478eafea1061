"""`shopstream config`: the effective settings."""

import typer
from rich.console import Console
from rich.table import Table

from cli.context import JsonFlag, emit, invocation
from config.settings import setting_origins

app = typer.Typer(no_args_is_help=True, help="The effective settings and where each comes from.")


@app.callback()
def group() -> None:
    """Keep `show` a command of the group while it is the only one."""


@app.command()
def show(ctx: typer.Context, *, json: JsonFlag = False) -> None:
    """Show every setting, its value (secrets masked) and its origin."""
    call = invocation(ctx)
    rows = setting_origins(call.settings(), call.overrides)
    payload = {row.key: {"value": row.value, "origin": row.origin} for row in rows}

    def text(console: Console) -> None:
        table = Table("setting", "value", "origin")
        for row in rows:
            table.add_row(row.key, row.value, row.origin)
        console.print(table)

    emit(payload, as_json=json, text=text)
