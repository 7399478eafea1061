"""The reference pages that are made from code: `python -m cli.reference` writes them, a test holds them to it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from config.metrics import DRIFT_METRICS, SERVING_METRICS, SKEW_METRICS, WORKER_METRICS, MetricSpec
from config.settings import Settings

PAGES = Path(__file__).resolve().parent.parent / "docs" / "reference"


def commands_page() -> str:
    """Return the page of every command, with its options."""
    from typer.main import get_command

    from cli.main import app

    lines = [
        "# Commands",
        "",
        "Every command takes `--json`: one object on stdout (`events tail`: one per line); progress goes to stderr.",
        "Exit codes: 0 done, 1 failed, 2 wrong use, 3 a check found a difference, 130 interrupted.",
        "`--home`, `--set KEY=VALUE` and `--debug` come before the command.",
    ]
    for name, command in _leaves("shopstream", get_command(app)):
        lines += ["", f"## `{name}`", "", str(command.help or "").strip()]
        options = [_option(parameter) for parameter in command.params if "--help" not in parameter.opts]
        if options:
            lines += ["", "| argument | meaning | default |", "|---|---|---|", *options]
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """Return the page of every setting."""
    lines = [
        "# Settings",
        "",
        "From `shopstream.toml`, then `SHOPSTREAM_*` variables (`SHOPSTREAM_REDIS__URL` is `redis.url`),",
        "then flags (`shopstream --set redis.url=... worker`); the later wins. Addresses that nobody sets are those of",
        "the embedded stack under `home`. `shopstream config show` tells each value and its origin.",
        "",
        "| setting | default | meaning |",
        "|---|---|---|",
    ]
    for key, field in _fields(Settings, ""):
        default = field.default
        shown = default.get_secret_value() if hasattr(default, "get_secret_value") else default
        shown = "" if str(shown) in {"", "."} else f"`{shown}`"
        lines.append(f"| `{key}` | {shown} | {field.description} |")
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """Return the page of every metric."""
    lines = [
        "# Metrics",
        "",
        "Each worker serves them on `/metrics` at `worker.metrics_host`:`worker.metrics_port` (a free port by default;",
        "the log and `<home>/workers/<pid>.json` tell it), beside the process metrics of the Prometheus client.",
        "",
        *_metrics(WORKER_METRICS),
        "",
        "A reader counts in the registry that it is given (`ServedLog.from_settings`):",
        "",
        *_metrics(SERVING_METRICS),
        "",
        "`shopstream skew` writes these to `<home>/metrics/skew.prom`, for a textfile collector:",
        "",
        *_metrics(SKEW_METRICS),
        "",
        "`shopstream drift watch`, which a worker starts, writes these to `<home>/metrics/drift.prom`:",
        "",
        *_metrics(DRIFT_METRICS),
    ]
    return "\n".join(lines) + "\n"


def _metrics(specs: Iterable[MetricSpec]) -> Iterator[str]:
    yield from ("| metric | type | labels | meaning |", "|---|---|---|---|")
    for spec in specs:
        name = f"{spec.name}_total" if spec.kind == "counter" else spec.name
        labels = ", ".join(f"`{label}`" for label in spec.labels)
        yield f"| `{name}` | {spec.kind} | {labels} | {spec.description} |"


def pages() -> dict[str, str]:
    """Return the text of each page by its file name."""
    return {"commands.md": commands_page(), "settings.md": settings_page(), "metrics.md": metrics_page()}


def _leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for child, found in sorted(command.commands.items()):
        yield from _leaves(f"{name} {child}", found)


def _option(parameter: Any) -> str:
    names = ", ".join(parameter.opts) if parameter.opts[0].startswith("-") else parameter.name.upper()
    default = parameter.default
    shown = "" if default is None or default is False or callable(default) else f"`{default}`"
    meaning = (getattr(parameter, "help", None) or "").replace("|", " ").replace("\\[", "[")
    return f"| `{names}` | {meaning} | {shown} |"


def _fields(model: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


if __name__ == "__main__":
    for name, text in pages().items():
        (PAGES / name).write_text(text)
