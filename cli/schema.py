"""`shopstream schema`: register schemas, and see what a change would do before it is deployed."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.context import ExitCode, JsonFlag, emit, invocation
from cli.schema_checks import check_one, print_checks, read_schema, topic_for
from cli.schema_rehearsal import rehearse
from config.settings import Settings
from schemas.encoder import subject_of
from schemas.errors import SchemasError

app = typer.Typer(no_args_is_help=True, help="Event schemas: register, check before deploying, compare.")

app.command()(rehearse)

_Schema = Annotated[str, typer.Argument(show_default=False, help="A file, or TOPIC@VERSION, or TOPIC@latest.")]


@app.command()
def register(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """Register the schemas of this release and create their topics. Harmless when all is there."""
    from schemas.registry import RegistryClient, register_own_schemas
    from schemas.topics import ALL_TOPICS, ensure_topics

    settings = invocation(ctx).settings().require("kafka", "registry")
    client = RegistryClient(settings.registry)
    try:
        ids = register_own_schemas(client, ALL_TOPICS)
    finally:
        client.close()
    topics = ensure_topics(settings)
    payload = {
        topic: {
            "subject": subject_of(topic),
            "schema_id": ids[topic],
            "topic_id": topics[topic].topic_id,
            "partitions": topics[topic].partition_count,
        }
        for topic in ALL_TOPICS
    }

    def text(console: Console) -> None:
        for topic, found in payload.items():
            line = f"{topic:<22} schema {found['schema_id']:<6} {found['partitions']} partitions"
            console.print(line, highlight=False)

    emit(payload, as_json=as_json, text=text)


@app.command()
def check(
    ctx: typer.Context,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", exists=True, dir_okay=False, readable=True, show_default=False)
    ],
    *,
    as_json: JsonFlag = False,
) -> None:
    """Check schema files against every registered version (BACKWARD_TRANSITIVE). Exit code 3 if one is incompatible.

    The record's name tells the subject: shop.ClickEvent belongs to shop.clicks.v1-value.
    """
    settings = invocation(ctx).settings().require("registry")
    results = _check_all(settings, files)
    compatible = all(result["compatible"] for result in results)
    emit(
        {"compatible": compatible, "files": results},
        as_json=as_json,
        text=lambda console: print_checks(console, results),
    )
    if not compatible:
        raise typer.Exit(ExitCode.DIFFERENCE)


@app.command()
def diff(ctx: typer.Context, old: _Schema, new: _Schema, *, as_json: JsonFlag = False) -> None:
    """Say in words what changes between two schemas. Exit code 3 if the new one cannot read the old one's events."""
    from schemas.compatibility import differences, fingerprints, problems_of_reading

    before, after = _file_or_registered(ctx, old), _file_or_registered(ctx, new)
    changes, problems = differences(before, after), problems_of_reading(after, before)
    payload = {
        "changes": changes,
        "problems": problems,
        "compatible": not problems,
        "fingerprints": {"old": fingerprints(before)._asdict(), "new": fingerprints(after)._asdict()},
    }

    def text(console: Console) -> None:
        for change in changes or ["nothing that a reader sees changes"]:
            console.print(f"- {change}", highlight=False, markup=False, soft_wrap=True)
        for problem in problems:
            console.print(f"incompatible: {problem}", style="red", highlight=False, markup=False, soft_wrap=True)

    emit(payload, as_json=as_json, text=text)
    if problems:
        raise typer.Exit(ExitCode.DIFFERENCE)


def _file_or_registered(ctx: typer.Context, given: str) -> str:
    topic, at, version = given.rpartition("@")
    if at and not Path(given).exists():
        return _registered(invocation(ctx).settings().require("registry"), topic, version)
    return read_schema(Path(given))


def _registered(settings: Settings, topic: str, version: str) -> str:
    from schemas.registry import RegistryClient

    client = RegistryClient(settings.registry)
    try:
        known = {str(found.version): found.schema for found in client.versions(subject_of(topic))}
    finally:
        client.close()
    wanted = max(known, key=int, default="") if version == "latest" else version
    if wanted not in known:
        raise SchemasError(
            f"{subject_of(topic)} has no version {version}.",
            hint=f"Registered: {', '.join(known) or 'none'}. Give a file, or TOPIC@VERSION, or TOPIC@latest.",
        )
    return known[wanted]


def _check_all(settings: Settings, files: list[Path]) -> list[dict[str, Any]]:
    from schemas.registry import RegistryClient

    texts = [(path, text, topic_for(path, text)) for path, text in ((path, read_schema(path)) for path in files)]
    client = RegistryClient(settings.registry)
    try:
        return [check_one(client, path, text, topic) for path, text, topic in texts]
    finally:
        client.close()
