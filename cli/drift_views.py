"""What `shopstream drift` shows people: in words first, then tables."""

from typing import Any, Final

from rich.console import Console
from rich.table import Column, Table

from config.words import moment, p_value, percent, span

_COLOURS: Final = {"quiet": "green", "alarm": "red", "unjudged": "yellow"}
_VARIABLES_SHOWN: Final = 12


def print_status(console: Console, payload: dict[str, Any]) -> None:
    """Show how drift stands."""
    colour = "red" if payload["drifted"] else "yellow" if payload["in_row"] else "green"
    _say(console, payload["words"], colour if payload["reference"] else "yellow")
    if payload["reference"]:
        _print_reference(console, payload["reference"])
    if payload["windows"]:
        _print_windows(console, payload["windows"])
        _say(console, f"in a row: {payload['in_row']} of {payload['windows_in_row']}")
    flying = payload["in_flight"]
    if flying:
        _say(console, f"under way: retraining {flying['request_id']} is {flying['step']} ({flying['detail']})")
    else:
        _say(console, "under way: no retraining")
    if payload["silenced_until_ms"]:
        _say(console, f"silenced until {moment(payload['silenced_until_ms'])}", "yellow")
    if payload["cooldown_until_ms"]:
        _say(console, f"cooldown until event time {moment(payload['cooldown_until_ms'])}", "yellow")


def print_report(console: Console, payload: dict[str, Any]) -> None:
    """Show what a report says, and where its page is."""
    for line in payload["words"]:
        _say(console, line)
    moved = [each for each in payload["variables"] if each["now"]]
    if moved:
        table = Table(
            Column("variable", no_wrap=True), *(Column(name, justify="right") for name in ("PSI", "KS", "JS", "p"))
        )
        for each in moved[:_VARIABLES_SHOWN]:
            now = each["now"]
            name = f"[red]{each['name']}[/red]" if now["drifted"] else each["name"]
            ks = "" if now["ks"] is None else f"{now['ks']:.3f}"
            table.add_row(name, f"{now['psi']:.3f}", ks, f"{now['js']:.4f}", p_value(now["log_p"]))
        console.print(table)
    if payload["page"]:
        _say(console, f"page: {payload['page']}")


def print_calibration(console: Console, payload: dict[str, Any]) -> None:
    """Show the thresholds, and what they would have done to history."""
    _print_reference(console, payload)
    table = Table(
        Column("variable", no_wrap=True),
        *(Column(name, justify="right") for name in ("rows alike (phi)", "between windows (tau)", "df", "windows")),
    )
    for name, noise in payload["noise"].items():
        table.add_row(name, f"{noise['phi']:.2f}", f"{noise['tau']:.2g}", f"{noise['df']:.1f}", f"{noise['windows']:,}")
    console.print(table)
    _say(console, calibration_words(payload))


def print_check(console: Console, payload: dict[str, Any]) -> None:
    """Show what windows were judged."""
    if payload["reference_id"] is None:
        _say(console, "There is no reference, so nothing is judged: run `shopstream drift calibrate`.", "yellow")
    elif not payload["windows"]:
        _say(console, "No window has closed since the last look.")
    else:
        _print_windows(console, payload["windows"])
    for window in payload["windows"]:
        for answer in window["requests"]:
            print_answer(console, answer)


def print_answer(console: Console, answer: dict[str, Any]) -> None:
    """Show what came of a request for a retraining."""
    why = f": {answer['why']}" if answer.get("why") else ""
    colour = "yellow" if answer["outcome"] == "suppressed" else "green"
    _say(console, f"retraining {answer['request_id']} is {answer['outcome']}{why}", colour)


def calibration_words(payload: dict[str, Any]) -> str:
    """Say what a calibration found, in a sentence."""
    return (
        f"A window alarms when an adjusted p-value is at most {p_value(payload['log_threshold'])} and PSI at least "
        f"{payload['floor']:g}. Of {payload['windows']:,} windows of history {payload['alarms']:,} would have "
        f"alarmed; expected is {percent(payload['expected'])} of windows without a change, the budget is "
        f"{percent(payload['budget'])}."
    )


def _print_reference(console: Console, reference: dict[str, Any]) -> None:
    alike = {"hour_of_week": "the same hour of the week", "hour_of_day": "the same hour of the day"}
    model = f" of model {reference['model']}" if reference["model"] else ""
    _say(
        console,
        f"reference {reference['reference_id']}{model}: {moment(reference['from_ms'])} to "
        f"{moment(reference['to_ms'])}, windows of {span(reference['window_ms'])}, {reference['rows']:,} events, "
        f"{reference['judged_variables']} of {reference['variables']} variables judged; a window is compared with "
        f"{alike.get(reference['compared_by'], 'all windows')}",
    )


def _print_windows(console: Console, windows: list[dict[str, Any]]) -> None:
    table = Table(
        Column("window", no_wrap=True),
        Column("events", justify="right"),
        "outcome",
        Column("row", justify="right"),
        "what",
    )
    for window in windows:
        outcome = window["outcome"]
        table.add_row(
            moment(window["window_start_ms"]),
            f"{window['rows']:,}",
            f"[{_COLOURS[outcome]}]{outcome.upper()}[/]",
            str(window["in_row"] or ""),
            window["words"],
        )
    console.print(table)


def _say(console: Console, text: str, colour: str | None = None) -> None:
    console.print(text, style=colour or "", highlight=False, markup=False, soft_wrap=True)
