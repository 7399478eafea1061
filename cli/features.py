"""`shopstream features`: what there is, and what it is for a user right now."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.context import ExitCode, JsonFlag, emit, invocation
from cli.definitions import compare, retire
from config.words import moment
from features.catalog import DEFINITION_VERSION, FEATURES, WINDOWS

if TYPE_CHECKING:
    from serving.reader import UserFeatures, ViewFreshness

app = typer.Typer(no_args_is_help=True, help="Features: the catalog, the values of users, definition versions.")
app.command("compare")(compare)
app.command("retire")(retire)


@app.command("list")
def list_(*, as_json: JsonFlag = False) -> None:
    """Show the catalog: every feature with its windows, type and meaning."""
    rows = [
        {
            "name": feature.name,
            "window": feature.window,
            "dtype": feature.dtype,
            "unit": feature.unit,
            "nullable": feature.nullable,
            "description": feature.description,
        }
        for feature in FEATURES
    ]

    def text(console: Console) -> None:
        table = Table(
            "feature", "type", "unit", "null", "description", title=f"Definition version {DEFINITION_VERSION}"
        )
        for feature in FEATURES:
            null = "yes" if feature.nullable else ""
            table.add_row(feature.name, feature.dtype, feature.unit, null, feature.description)
        console.print(table)

    emit({"definition_version": DEFINITION_VERSION, "features": rows}, as_json=as_json, text=text)


@app.command()
def get(
    ctx: typer.Context,
    users: Annotated[list[str], typer.Argument(metavar="USER…", show_default=False, help="User ids.")],
    as_of: Annotated[
        int | None, typer.Option(min=0, metavar="MS", help="Milliseconds UTC to answer for \\[default: now].")
    ] = None,
    *,
    as_json: JsonFlag = False,
) -> None:
    """Read the features of users, with their age and status, as a model would: through Feast, from Redis."""
    from serving.reader import FeatureReader

    reader = FeatureReader.from_settings(invocation(ctx).settings(), for_inspection=True)
    try:
        found = reader.read(users, as_of)
    finally:
        reader.close()
    payload = {"users": [asdict(user) | {"found": user.found} for user in found]}

    def text(console: Console) -> None:
        for user in found:
            _print(console, user)

    emit(payload, as_json=as_json, text=text)
    if not any(user.found for user in found):
        who = f"user {users[0]}" if len(users) == 1 else f"any of the {len(users)} users"
        typer.echo(
            f"shopstream: The online store holds nothing of {who}. Events are keyed by user_id; "
            "`shopstream status` tells whether they are being read.",
            err=True,
        )
        raise typer.Exit(ExitCode.FAILED)


def _print(console: Console, user: "UserFeatures") -> None:
    at = f" at {user.as_of_ms}" if user.as_of_ms is not None else ""
    console.print(f"\n[bold]{user.user_id}[/bold]{at}{' (raised to the newest event)' * user.clamped}", highlight=False)
    for view, freshness in user.views.items():
        console.print(f"  {view:<16} {_freshness(freshness)}", highlight=False)
    for flag in user.saturated:
        console.print(f"  {flag}: a cap was reached, see docs/how-to/read-features.md", highlight=False)
    if not user.found:
        return
    windowed = Table("feature", *WINDOWS)
    session = Table("session", "")
    values: dict[str, dict[str, Any]] = {}
    for feature in FEATURES:
        value = _shown(user.values[feature.name])
        if feature.window is None:
            session.add_row(feature.name, value)
        else:
            values.setdefault(feature.name.removesuffix(f"_{feature.window}"), {})[feature.window] = value
    for name, by_window in values.items():
        windowed.add_row(name, *(by_window.get(window, "") for window in WINDOWS))
    console.print(windowed, session)


def _freshness(view: "ViewFreshness") -> str:
    since = f" since {moment(view.halted_since_ms)}" if view.halted_since_ms else ""
    if view.age_ms is None:
        return f"{view.status}{since}"
    age = f"age {view.age_ms / 1_000:,.1f} s"
    return f"{view.status}{since}  {age}  newest event {view.newest_event_ms}  version {view.version}"


def _shown(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.4g}"
        case list():
            return ", ".join(value) or "none"
        case _:
            return f"{value:,}"
