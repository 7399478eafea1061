"""`shopstream models`: which models there are, what serves, and the steps of one to serving and back."""

import getpass
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import model_views
from cli.context import JsonFlag, emit, invocation

if TYPE_CHECKING:
    from config.settings import Settings
    from serving.canary_judge import Judgement
    from serving.rollout import Rollout
    from training.model_log import ModelStep

app = typer.Typer(no_args_is_help=True, help="Models: which serve, how they came to it, and the way back.")

Version = Annotated[str, typer.Argument(metavar="VERSION", help="As `shopstream models list` names it.")]
Why = Annotated[str, typer.Option("--reason", help="Why; kept in the lake's table model_log.")]


@app.command("list")
def list_(ctx: typer.Context, *, json: JsonFlag = False) -> None:
    """Show every version: its role, the newest step, NDCG@10 on its hold-out, and the gain over its rival."""
    settings = invocation(ctx).settings()
    from serving.model_overview import overview
    from sinks.lake_root import lake_of
    from training.model_log import ModelLog
    from training.models import Models

    payload = {
        "models": overview(Models.from_settings(settings), ModelLog(lake_of(settings))),
        "canary": _standing(_rollout(settings)),
    }
    emit(payload, as_json=json, text=lambda console: model_views.print_list(console, payload))


@app.command()
def show(ctx: typer.Context, version: Version, *, json: JsonFlag = False) -> None:
    """Show what is known of a version: figures, slices, verdict, lineage, and its steps with who took them and why."""
    settings = invocation(ctx).settings()
    from serving.model_overview import details
    from sinks.lake_root import lake_of
    from training.model_log import ModelLog
    from training.models import Models

    payload = details(Models.from_settings(settings), ModelLog(lake_of(settings)), version)
    emit(payload, as_json=json, text=lambda console: model_views.print_details(console, payload))


@app.command()
def stage(ctx: typer.Context, version: Version, *, reason: Why = "by hand", json: JsonFlag = False) -> None:
    """Check that a version's files are what was registered and that it answers, and note it: the first step."""
    rollout = _rollout(invocation(ctx).settings())
    _tell([rollout.stage(version, _account(), _given(reason))], as_json=json)


@app.command()
def canary(ctx: typer.Context, version: Version, *, reason: Why = "by hand", json: JsonFlag = False) -> None:
    """Give a staged version to rollout.canary_share of the users; the guard judges it from then on."""
    rollout = _rollout(invocation(ctx).settings())
    _tell([rollout.start_canary(version, _account(), _given(reason))], as_json=json)


@app.command()
def promote(
    ctx: typer.Context,
    version: Version,
    *,
    reason: Why,
    force: Annotated[bool, typer.Option("--force", help="Also one that was rejected or rolled back.")] = False,
    json: JsonFlag = False,
) -> None:
    """Have a version answer to everybody, whatever its canary says; the reference of drift moves to its data."""
    rollout = _rollout(invocation(ctx).settings())
    _tell([rollout.promote(version, _account(), _given(reason), is_forced=force)], as_json=json)


@app.command()
def rollback(ctx: typer.Context, *, reason: Why, json: JsonFlag = False) -> None:
    """Take the canary back; where there is none, the champion: the former one serves again."""
    rollout = _rollout(invocation(ctx).settings())
    _tell([rollout.roll_back(_account(), _given(reason))], as_json=json)


@app.command()
def guard(ctx: typer.Context, *, json: JsonFlag = False) -> None:
    """Take each step that is due, once: `shopstream drift watch` does it all the time. Harmless beside others."""
    rollout = _rollout(invocation(ctx).settings())
    _tell(rollout.guard(), as_json=json, standing=_standing(rollout))


def _rollout(settings: "Settings") -> "Rollout":
    from serving.rollout import Rollout

    return Rollout.from_settings(settings)


def _account() -> str:
    """Return by whom a step is taken."""
    try:
        return f"command:{getpass.getuser()}"
    except (KeyError, OSError):  # a container may run under a number without a name
        return f"command:{os.getuid()}"


def _given(reason: str) -> str:
    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")
    return reason.strip()


def _standing(rollout: "Rollout") -> dict[str, Any] | None:
    found: tuple[ModelStep, Judgement] | None = rollout.standing()
    if found is None:
        return None
    step, judgement = found
    return {
        "model": step.model,
        "since_ms": step.noted_ms,
        "fate": judgement.fate.value,
        "reason": judgement.reason,
        "evidence": dict(judgement.evidence),
    }


def _tell(steps: "list[ModelStep]", *, as_json: bool, standing: dict[str, Any] | None = None) -> None:
    payload = {"steps": [step.document() for step in steps], "canary": standing}
    emit(payload, as_json=as_json, text=lambda console: model_views.print_steps(console, payload))
