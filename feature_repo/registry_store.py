"""Feast's registry in one SQLite file, at the place that the settings name.

Feast's own `sql` registry must be told its path in feature_store.yaml, and writes to the database whenever a process
opens it. This one only reads then, so any number of workers and readers may start at once; and a process that holds
an old copy cannot overwrite what another one applied since.
"""

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from feast.infra.registry.registry import REGISTRY_SCHEMA_VERSION
from feast.infra.registry.registry_store import RegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto

from feature_repo.addresses import process_addresses
from feature_repo.errors import RegistryConflictError, RegistryError
from feature_repo.registry_versions import keep, versions_in, with_others_of, without_others

_LOCK_TIMEOUT_S = 10.0
_WRITE = "INSERT OR REPLACE INTO feast_registry VALUES (1, ?, ?)"
_TABLE = """CREATE TABLE IF NOT EXISTS feast_registry (
    id INTEGER PRIMARY KEY CHECK (id = 1), version_id TEXT NOT NULL, registry BLOB NOT NULL
)"""


class SqliteRegistryStore(RegistryStore):
    """The registry of all projects, as one row of one table; other definition versions are neither seen nor changed.

    Args:
        registry_config: its `path` names the file; empty, the settings do.
        repo_path: Feast's, not used.
    """

    def __init__(self, registry_config: Any, repo_path: Path | None) -> None:  # noqa: ARG002 - Feast's signature
        self._path = Path(registry_config.path) if registry_config.path else process_addresses().registry_path
        self._version_id = ""

    def get_registry_proto(self) -> Any:
        """Read the registry; an empty one if nothing was ever applied.

        Raises:
            RegistryError: the file cannot be read.
        """
        row = None
        if self._path.is_file():
            with self._open() as database:
                row = _stored(database)
        if row is None:
            self._version_id = ""
            return RegistryProto(registry_schema_version=REGISTRY_SCHEMA_VERSION)
        self._version_id = row[0]
        return without_others(RegistryProto.FromString(row[1]))

    def stored_versions(self, project: str) -> list[int]:
        """Return the definition versions that were applied to a project, ascending.

        Raises:
            RegistryError: the file cannot be read.
        """
        if not self._path.is_file():
            return []
        with self._open() as database:
            row = _stored(database)
        return [] if row is None else versions_in(RegistryProto.FromString(row[1]), project)

    def retire(self, project: str, version: int) -> None:
        """Remove the definitions of a version from a project.

        Raises:
            RegistryError: the file cannot be read or written.
        """
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            row = _stored(database)
            if row is not None:
                registry = RegistryProto.FromString(row[1])
                keep(registry, lambda *found: found != (project, version))
                registry.version_id = str(uuid.uuid4())
                database.execute(_WRITE, (registry.version_id, registry.SerializeToString()))
            database.execute("COMMIT")

    def update_registry_proto(self, registry_proto: Any) -> None:
        """Write the registry, if nobody else has since it was read here.

        Raises:
            RegistryConflictError: somebody has.
            RegistryError: the file cannot be written.
        """
        version_id = str(uuid.uuid4())
        registry_proto.version_id = version_id
        registry_proto.last_updated.GetCurrentTime()
        self._make_folder()
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute(_TABLE)
            row = _stored(database)
            if row is not None and row[0] != self._version_id:
                database.execute("ROLLBACK")
                raise RegistryConflictError(
                    f"Another process changed the Feast registry in {self._path} meanwhile.",
                    hint="Apply again: it reads the registry anew.",
                )
            if row is not None:
                registry_proto = with_others_of(registry_proto, RegistryProto.FromString(row[1]))
            database.execute(_WRITE, (version_id, registry_proto.SerializeToString()))
            database.execute("COMMIT")
        self._version_id = version_id

    def teardown(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)

    def _make_folder(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RegistryError(
                f"The folder of the Feast registry, {self._path.parent}, cannot be made: {error}.",
                hint="Set feast.registry_path to a place that can be written.",
            ) from error

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            # isolation_level=None: transactions are begun and ended by hand
            with closing(sqlite3.connect(self._path, timeout=_LOCK_TIMEOUT_S, isolation_level=None)) as database:
                yield database
        except sqlite3.Error as error:
            raise RegistryError(
                f"The Feast registry in {self._path} cannot be used: {error}.",
                hint="If the file is damaged, delete it and apply the definitions again.",
            ) from error


def _stored(database: sqlite3.Connection) -> tuple[str, bytes] | None:
    try:
        row: tuple[str, bytes] | None = database.execute(
            "SELECT version_id, registry FROM feast_registry WHERE id = 1"
        ).fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # a file that was made, but never written
            return None
        raise
    return row
