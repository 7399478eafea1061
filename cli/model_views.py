"""How `shopstream models` shows versions, their steps and how the canary stands."""

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Column, Table

from config.words import moment

_COLOURS: Final = {"promoted": "green", "canary": "yellow", "rejected": "red", "rolled_back": "red"}
_FIGURES: Final = ("ndcg_at_10", "hit_rate_at_10", "coverage", "calibration_error", "latency_p50_ms", "latency_p99_ms")
_LINEAGE: Final = (
    "request_id", "champion", "training_set", "mode", "definition_version", "drift_reference", "git_revision",
    "code_version",
)  # fmt: skip


def print_list(console: Console, payload: Mapping[str, Any]) -> None:
    """Print a table of versions."""
    if not payload["models"]:
        console.print("No model is registered. Train one: `shopstream train run`.", highlight=False)
        return
    table = Table("model", "role", Column("step", no_wrap=True), "since", "trained up to", "NDCG@10", "gain", box=None)
    for row in payload["models"]:
        step, gain = row["step"], row["gain"]
        table.add_row(
            row["version"],
            ", ".join(row["roles"]),
            "-" if step is None else _coloured(step["step"]),
            "-" if step is None else moment(step["noted_ms"]),
            moment(row["to_ms"]),
            f"{row['ndcg_at_10']:.4f}",
            f"{_interval(gain)} to {gain['rival']}",
        )
    console.print(table, highlight=False)
    print_standing(console, payload["canary"])


def print_details(console: Console, payload: Mapping[str, Any]) -> None:
    """Print all that is known of a version."""
    figures, verdict = payload["figures"], payload["verdict"]
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_row("model", payload["version"])
    facts.add_row("role", ", ".join(payload["roles"]) or "none")
    facts.add_row("trained on", f"{moment(payload['from_ms'])} to {moment(payload['to_ms'])}")
    facts.add_row("registered", moment(payload["created_ms"]))
    facts.add_row("files", payload["folder"])
    facts.add_row("manifest", f"SHA-256 {payload['manifest_sha256']}")
    facts.add_row("verdict", "accepted" if verdict["is_accepted"] else "rejected")
    for reason in verdict["reasons"]:
        facts.add_row("", reason)
    console.print(facts, highlight=False, soft_wrap=True, markup=False)
    _print_systems(console, figures)
    _print_slices(console, figures)
    _print_lineage(console, payload["lineage"])
    console.print("[bold]steps[/bold]")
    for step in payload["steps"]:
        _print_step(console, step)


def print_steps(console: Console, payload: Mapping[str, Any]) -> None:
    """Print steps that were taken, and how the canary stands."""
    for step in payload["steps"]:
        console.print(
            f"Model {step['model']} is {_words(step['step'])}: {step['reason']}", highlight=False, markup=False
        )
    if not payload["steps"] and payload["canary"] is None:
        console.print("Nothing is due, and no canary is out.", highlight=False)
    print_standing(console, payload["canary"])


def print_standing(console: Console, standing: Mapping[str, Any] | None) -> None:
    """Print how a canary stands, if there is one."""
    if standing is not None:
        console.print(
            f"Model {standing['model']} is the canary since {moment(standing['since_ms'])}: {standing['reason']}",
            highlight=False,
            markup=False,
        )


def _print_systems(console: Console, figures: Mapping[str, Any]) -> None:
    names = [name for name in _FIGURES if any(name in found for found in figures["systems"].values())]
    table = Table(f"hold-out of {figures['queries']:,} queries", *(name.replace("_", " ") for name in names), box=None)
    for system, found in figures["systems"].items():
        cells = (f"{found[name]:.4g}" if name in found else "-" for name in names)
        table.add_row("this model" if system == "challenger" else system.replace("_", " "), *cells)
    console.print(table, highlight=False)
    for rival, gain in figures["gains"].items():
        console.print(f"  NDCG@10 {_interval(gain)} to {rival.replace('_', ' ')}", highlight=False, markup=False)


def _print_slices(console: Console, figures: Mapping[str, Any]) -> None:
    table = Table("slice", "queries", "NDCG@10", f"gain to {figures['rival'].replace('_', ' ')}", box=None)
    for name, found in figures["slices"].items():
        table.add_row(name, f"{found['queries']:,}", f"{found['ndcg_at_10']:.4f}", f"{found['ndcg_gain']:+.4f}")
    if table.row_count:
        console.print(table, highlight=False)


def _print_lineage(console: Console, lineage: Mapping[str, Any]) -> None:
    console.print("[bold]lineage[/bold]")
    for name in _LINEAGE:
        if lineage.get(name) is not None:
            console.print(f"  {_words(name)}: {lineage[name]}", highlight=False, markup=False, soft_wrap=True)
    versions = ", ".join(f"{table} {version}" for table, version in lineage.get("lake_versions", {}).items())
    if versions:
        console.print(f"  lake versions: {versions}", highlight=False, markup=False, soft_wrap=True)


def _print_step(console: Console, step: Mapping[str, Any]) -> None:
    console.print(
        f"  {moment(step['noted_ms'])} {_words(step['step'])} by {step['by']}: {step['reason']}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _interval(gain: Mapping[str, Any]) -> str:
    return f"{gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"


def _coloured(step: str) -> str:
    colour = _COLOURS.get(step)
    return _words(step) if colour is None else f"[{colour}]{_words(step)}[/]"


def _words(name: str) -> str:
    return name.replace("_", " ")
