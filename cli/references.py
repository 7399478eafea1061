"""`shopstream lake reference`: the tables that say which products, categories and users exist."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.context import JsonFlag, emit, invocation
from config.words import moment
from schemas.privacy import Pseudonyms
from sinks.lake_root import lake_of

if TYPE_CHECKING:
    from sinks.reference_tables import ReferenceLoad

app = typer.Typer(no_args_is_help=True, help="Which products, categories and users exist: what gates ask.")


class Kind(StrEnum):
    """What a file lists."""

    PRODUCTS = "products"
    CATEGORIES = "categories"
    USERS = "users"


@app.callback()
def reference() -> None:
    """Which products, categories and users exist: what the gate `references` asks."""


@app.command()
def load(
    ctx: typer.Context,
    kind: Annotated[Kind, typer.Argument(help="What the file lists.", show_default=False)],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="CSV with a header, or Parquet (*.parquet).", show_default=False)
    ],
    *,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Empty the table if the file names no id: every id is then unknown.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Replace a reference table by what a file holds, in one commit.

    The file has a column product_id, category_id or user_id; a file of products may have category_id, too. Rows without
    an id and repeated ids are left out and counted. User ids are pseudonymised if privacy.pseudonymise is on, as
    everywhere. Workers see the table within 30 seconds.
    """
    settings = invocation(ctx).settings()
    from sinks.reference_tables import load_references

    report = load_references(
        lake_of(settings),
        kind.value,
        file,
        pseudonyms=Pseudonyms.in_use(settings.privacy),
        is_empty_allowed=allow_empty,
    )
    emit(asdict(report), as_json=as_json, text=lambda console: _print_load(console, report))


@app.command(name="list")
def list_loaded(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """Show which reference tables are loaded, and when. Where one is missing, the gate says UNKNOWN."""
    settings = invocation(ctx).settings()
    from sinks.reference_tables import loaded_references

    payload = {"tables": [asdict(standing) for standing in loaded_references(lake_of(settings))]}
    emit(payload, as_json=as_json, text=lambda console: _print_list(console, payload))


def _print_load(console: Console, report: "ReferenceLoad") -> None:
    kept = "as pseudonyms" if report.is_pseudonymised else "as they are"
    of_users = f", user ids {kept}" if report.name == Kind.USERS else ""
    lines = [f"{report.name}: {report.row_count:,} ids loaded in version {report.version}{of_users}."]
    if report.duplicate_count:
        lines.append(f"  {report.duplicate_count:,} rows left out, their id came before")
    if report.empty_count:
        more = ", and more" if report.empty_count > len(report.empty_lines) else ""
        where = ", ".join(f"{line:,}" for line in report.empty_lines)
        lines.append(f"  {report.empty_count:,} rows refused, they have no id: line {where}{more}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _print_list(console: Console, payload: dict[str, Any]) -> None:
    shown = Table(box=None, pad_edge=False)
    for heading in ("table", "ids", "loaded", "version"):
        shown.add_column(heading, justify="right" if heading in {"ids", "version"} else "left")
    for row in payload["tables"]:
        if row["row_count"] is None:
            shown.add_row(row["name"], "-", "not loaded", "-")
            continue
        loaded_ms = row["loaded_ms"]
        when = "-" if loaded_ms is None else moment(loaded_ms)
        shown.add_row(row["name"], f"{row['row_count']:,}", when, str(row["version"]))
    console.print(shown)
