"""`shopstream doctor`: what is wrong with this machine or the services, and what mends it."""

import typer
from rich.console import Console

from cli.context import ExitCode, JsonFlag, emit, invocation
from config.errors import ShopstreamError
from config.settings import Settings
from stack.doctor import Finding, Verdict, examine, topic_names

_STYLES = {Verdict.OK: "green", Verdict.FAILED: "red", Verdict.SKIPPED: "yellow"}


def doctor(ctx: typer.Context, *, as_json: JsonFlag = False) -> None:
    """Check Python, disk, caches, ports, services and topics; say how to mend each. Exit code 1 if a check fails."""
    given = invocation(ctx)
    settings = given.settings()
    findings = examine(settings, given.overrides)
    kafka_answers = any(finding.name == "kafka" and finding.verdict is Verdict.OK for finding in findings)
    findings.append(_topics(settings, kafka_answers=kafka_answers))
    failed = [finding for finding in findings if finding.verdict is Verdict.FAILED]
    payload = {
        "ok": not failed,
        "checks": [
            {"name": each.name, "verdict": str(each.verdict), "detail": each.detail, "hint": each.hint}
            for each in findings
        ],
    }
    emit(payload, as_json=as_json, text=lambda console: _print(console, findings))
    if failed:
        raise typer.Exit(ExitCode.FAILED)


def _topics(settings: Settings, *, kafka_answers: bool) -> Finding:
    """See that the topics exist and stamp records by the broker's clock."""
    if not kafka_answers:
        return Finding("topics", Verdict.SKIPPED, "Kafka does not answer")
    from schemas.topics import ALL_TOPICS, describe_topics, verify_topics

    if not set(ALL_TOPICS) & topic_names(settings):
        return Finding("topics", Verdict.SKIPPED, "do not exist yet", "`shopstream schema register` creates them.")
    try:
        found = describe_topics(settings)
        verify_topics(found)
    except ShopstreamError as error:
        return Finding("topics", Verdict.FAILED, error.message, error.hint)
    listed = ", ".join(f"{info.topic} ({info.partition_count})" for info in found.values())
    return Finding("topics", Verdict.OK, f"{listed}, LogAppendTime")


def _print(console: Console, findings: list[Finding]) -> None:
    for each in findings:
        console.print(
            f"[{_STYLES[each.verdict]}]{each.verdict:<8}[/]{each.name:<9} {each.detail}",
            highlight=False,
            soft_wrap=True,
        )
        if each.hint and each.verdict is not Verdict.OK:
            console.print(f"{'':<18}{each.hint}", highlight=False, soft_wrap=True)
