"""What the commands about schemas share: reading a file, the check against all registered versions, its words."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from schemas.encoder import subject_of
from schemas.errors import SchemasError, UnsafeSchemaError

if TYPE_CHECKING:
    from schemas.registry import RegistryClient


def check_one(client: "RegistryClient", path: Path, text: str, topic: str) -> dict[str, Any]:
    """Check a schema against every registered version of its topic; return the JSON form of the result."""
    from schemas.compatibility import fingerprints, incompatibilities, order_problems
    from schemas.loading import own_schema

    versions = client.versions(subject_of(topic))
    found = incompatibilities(text, [(known.version, known.schema) for known in versions])
    marks = fingerprints(text)
    return {
        "file": str(path),
        "subject": subject_of(topic),
        "compatible": not found,
        "versions_checked": [known.version for known in versions],
        "registered_as": [known.version for known in versions if fingerprints(known.schema) == marks],
        "problems": [{"version": each.version, "words": list(each.problems)} for each in found],
        "deploy_consumers_first": order_problems(text, own_schema(topic)),
        "fingerprints": marks._asdict(),
    }


def topic_for(path: Path, text: str) -> str:
    """Return the topic that a schema is for, by the name of its record."""
    from schemas.loading import load, topic_of

    name = load(text).name
    topic = topic_of(name)
    if topic is None:
        raise SchemasError(
            f"{path} is the schema of {name}, which belongs to no topic.",
            hint="The records are shop.ClickEvent, shop.CartEvent and shop.DeadLetter.",
        )
    return topic


def read_schema(path: Path) -> str:
    """Return the text of a schema file that may be loaded."""
    from schemas.loading import load

    try:
        text = path.read_text(encoding="utf-8")
        load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise SchemasError(f"{path} cannot be read ({error}).", hint="Give an .avsc file.") from error
    except UnsafeSchemaError as error:
        raise UnsafeSchemaError(f"{path} cannot be used. {error.message}") from error
    return text


def print_checks(console: Console, results: list[dict[str, Any]]) -> None:
    """Print what `check_one` found."""
    for result in results:
        versions = ", ".join(map(str, result["versions_checked"])) or "none registered yet"
        style, verdict = ("green", "compatible") if result["compatible"] else ("red", "incompatible")
        console.print(
            f"[{style}]{verdict}[/]  {result['file']}  {result['subject']}  versions {versions}", soft_wrap=True
        )
        for words in result["deploy_consumers_first"]:
            line = f"  deploy consumers before producers: {words}"
            console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)
        for problem in result["problems"]:
            for words in problem["words"]:
                console.print(f"  version {problem['version']}: {words}", highlight=False, markup=False, soft_wrap=True)
