"""What a model was made of: enough to make it again, and to say which data it has seen."""

import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from config.settings import Settings
from features.catalog import DEFINITION_VERSION
from sinks.lake_root import Lake
from sinks.noting import noted
from sinks.quality_tables import DRIFT_REFERENCES
from training.set_files import MANIFEST, sha256
from training.sets import SetReport


def lineage_of(
    settings: Settings, lake: Lake, made: SetReport, request_id: str | None, champion: str | None
) -> dict[str, Any]:
    """Return the lineage of a model; JSON.

    Args:
        made: the training set.
        request_id: the request for a retraining that it answers.
        champion: version that it was compared with.

    Raises:
        LakeUnavailableError: the references of drift cannot be read.
    """
    manifest = made.manifest
    references = noted(lake, DRIFT_REFERENCES, ["reference_id"])
    return {
        "request_id": request_id,
        "champion": champion,
        "training_set": manifest["set_id"],
        "training_set_path": str(made.out),
        "training_set_sha256": sha256(made.out / MANIFEST),
        "mode": settings.training.mode,
        "definition_version": DEFINITION_VERSION,
        "catalog": manifest["code"]["catalog"],
        "lake": manifest["lake"]["address"],
        "lake_versions": manifest["lake"]["versions"],
        "positions": manifest["positions"],
        "schema_fingerprints": manifest["writer_schemas"],
        "drift_reference": references[-1]["reference_id"] if references else None,
        "code_version": version("shopstream"),
        "git_revision": git_revision(),
    }


def git_revision() -> str | None:
    """Return the revision of the checkout that this code runs from; None for an installed package or without git."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
