"""The registry of models: MLflow holds versions, roles and lineage; the files are folders that a SHA-256 answers for.

A version's tag `manifest_sha256` says which folder is its, and what its manifest must be: one value, so that a model
that is written anew (training/model_erasing.py) changes its files in one step. MLflow's own loading of models, which
unpickles, is never used.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from config.settings import Settings
from training.artefacts import ArtefactError, checked_files
from training.errors import ModelRegistryError
from training.mlflow_server import MlflowServer
from training.recommending import Recommending, parsed_model

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

NAME: Final = "shopstream-recommender"
CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
ATTEMPTS: Final = 3

_SHA, _KEY, _ABOUT = "manifest_sha256", "training", "about"
_PAGE: Final = 1_000
_SHORT_SHA: Final = 16


@dataclass(frozen=True, slots=True)
class TrainedVersion:
    """A version in the registry.

    Attributes:
        version: its number.
        key: id of the training that it came of.
        manifest_sha256: of the manifest that seals its files.
        folder: where they are.
        about: range, figures, verdict, lineage, as its manifest has them; JSON.
        created_ms: when it was registered.
    """

    version: str
    key: str
    manifest_sha256: str
    folder: Path
    about: Mapping[str, Any]
    created_ms: int

    @property
    def request_id(self) -> str | None:
        """The request for a retraining that it answers; None if it was trained without one."""
        found: str | None = self.lineage["request_id"]
        return found

    @property
    def from_ms(self) -> int:
        """First event time of its data, integer milliseconds UTC."""
        return int(self.about["from_ms"])

    @property
    def to_ms(self) -> int:
        """End of the event times of its data, the hold-out with them, not included."""
        return int(self.about["to_ms"])

    @property
    def figures(self) -> Mapping[str, Any]:
        """What was measured on the hold-out: of itself, of the champion of then, of the baselines."""
        found: Mapping[str, Any] = self.about["figures"]
        return found

    @property
    def verdict(self) -> Mapping[str, Any]:
        """`is_accepted`, and the `reasons` in words."""
        found: Mapping[str, Any] = self.about["verdict"]
        return found

    @property
    def lineage(self) -> Mapping[str, Any]:
        """What it was made of."""
        found: Mapping[str, Any] = self.about["lineage"]
        return found

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "version": self.version,
            "request_id": self.request_id,
            "created_ms": self.created_ms,
            "folder": str(self.folder),
            "manifest_sha256": self.manifest_sha256,
            **self.about,
        }


class Models:
    """Reads and writes the registry. Blocking. Nothing is connected to before the first question.

    Args:
        uri: of the tracking server.
        artefacts: folder of model files.
        attempts: tries in a row of one question.
    """

    def __init__(self, uri: str, artefacts: Path, *, attempts: int = ATTEMPTS) -> None:
        self.artefacts = artefacts
        self._server = MlflowServer(uri, attempts)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return that of the settings."""
        file = (settings.home / "mlflow").absolute() / "mlflow.db"
        return cls(settings.training.tracking_uri or f"sqlite:///{file}", artefacts_of(settings))

    def alias(self, name: str, /) -> TrainedVersion | None:
        """Return the version that has an alias.

        Raises:
            ModelRegistryError: the registry does not answer.
        """
        found = self._server.find(lambda client: client.get_model_version_by_alias(NAME, name))
        return None if found is None else self._version(found)

    def set_alias(self, name: str, version: str, /) -> None:
        """Give an alias to a version, and take it from any other.

        Raises:
            ModelRegistryError: the registry does not answer, or has no such version.
        """
        self._server.ask(lambda client: client.set_registered_model_alias(NAME, name, version))

    def remove_alias(self, name: str, /) -> None:
        """Take an alias away; nothing happens where there is none.

        Raises:
            ModelRegistryError: the registry does not answer.
        """
        self._server.find(lambda client: client.delete_registered_model_alias(NAME, name))

    def versions(self) -> list[TrainedVersion]:
        """Return all versions, oldest first.

        Raises:
            ModelRegistryError: the registry does not answer.
        """
        found = [self._version(each) for each in self._server.ask(_every) if _SHA in each.tags]
        return sorted(found, key=lambda each: int(each.version))

    def load(self, version: str, /) -> Recommending:
        """Return a version's model, its files checked.

        Raises:
            ModelRegistryError: the registry does not answer, or has no such version.
            ArtefactError: the files are not those that were registered.
            DefinitionError: it needs another release.
        """
        known = self._known(version)
        try:
            files = checked_files(known.folder, known.manifest_sha256)[1]
        except ArtefactError:
            newer = self._known(version)
            if newer.manifest_sha256 == known.manifest_sha256:
                raise
            files = checked_files(newer.folder, newer.manifest_sha256)[1]  # an erasure wrote it anew just now
        return parsed_model(files)

    def register(self, key: str, manifest_sha256: str) -> TrainedVersion:
        """Register sealed files as a version; again is harmless, and gives the same version.

        Args:
            key: id of the training that they came of.

        Raises:
            ModelRegistryError: the registry does not answer; the next call goes on where this one stopped.
            ArtefactError: the files are not those that were sealed.
        """
        folder = self.folder(key, manifest_sha256)
        about = checked_files(folder, manifest_sha256)[0]["about"]
        self._server.ensure(lambda client: client.create_registered_model(NAME))
        experiment_id = self._experiment()
        run_id = self._server.ask(lambda client: _run(client, experiment_id, key, about))

        def version(client: "MlflowClient") -> Any:
            known = client.search_model_versions(f"run_id='{run_id}'")
            if known:
                return known[0]
            tags = {_SHA: manifest_sha256, _KEY: key, _ABOUT: json.dumps(about, sort_keys=True)}
            return client.create_model_version(NAME, f"file://{self.artefacts / key}", run_id=run_id, tags=tags)

        return self._version(self._server.ask(version))

    def replace_files(self, version: str, manifest_sha256: str) -> None:
        """Have other sealed files answer for a version from now on.

        Raises:
            ModelRegistryError: the registry does not answer.
        """
        self._server.ask(lambda client: client.set_model_version_tag(NAME, version, _SHA, manifest_sha256))

    def folder(self, key: str, manifest_sha256: str) -> Path:
        """Return where sealed files are: their place follows from their seal."""
        return self.artefacts / f"{key}.{manifest_sha256[:_SHORT_SHA]}"

    def _known(self, version: str) -> TrainedVersion:
        found = self._server.find(lambda client: client.get_model_version(NAME, version))
        if found is None:
            raise ModelRegistryError(f"There is no model {version}.", hint="See `shopstream models list`.")
        return self._version(found)

    def _experiment(self) -> str:
        found = self._server.ask(lambda client: client.get_experiment_by_name(NAME))
        if found is None:
            location = f"file://{self.artefacts}"
            self._server.ensure(lambda client: client.create_experiment(NAME, artifact_location=location))
            found = self._server.ask(lambda client: client.get_experiment_by_name(NAME))
        return str(found.experiment_id)

    def _version(self, found: Any) -> TrainedVersion:
        key, sha = found.tags[_KEY], found.tags[_SHA]
        return TrainedVersion(
            version=str(found.version),
            key=key,
            manifest_sha256=sha,
            folder=self.folder(key, sha),
            about=json.loads(found.tags[_ABOUT]),
            created_ms=int(found.creation_timestamp),
        )


def artefacts_of(settings: Settings) -> Path:
    """Return the folder of model files, absolute."""
    configured = settings.training.artefacts
    return (configured if configured != Path() else settings.home / "models").absolute()


def _every(client: "MlflowClient") -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name='{NAME}'", max_results=_PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _run(client: "MlflowClient", experiment_id: str, key: str, about: Mapping[str, Any]) -> str:
    """Return the run of a training, with its figures and its lineage; it is created if it is not there."""
    known = client.search_runs([experiment_id], f"tags.{_KEY} = '{key}'", max_results=1)
    run = known[0] if known else client.create_run(experiment_id, tags={_KEY: key}, run_name=key)
    run_id: str = run.info.run_id
    if run.info.status == "FINISHED":
        return run_id
    for name, value in _flat(about["figures"]):
        client.log_metric(run_id, name, value)
    for name, value in about["lineage"].items():
        client.set_tag(run_id, name, value if isinstance(value, str) else json.dumps(value))
    client.set_tag(run_id, "verdict", json.dumps(about["verdict"]))
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _flat(figures: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Return numbers by their path, as names that MLflow takes."""
    found: list[tuple[str, float]] = []
    for name, value in figures.items():
        path = f"{prefix}{name}".replace("@", " at ")
        if isinstance(value, Mapping):
            found += _flat(value, f"{path}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((path, float(value)))
    return found
