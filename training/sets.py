"""Makes a training set: labels, the features at each, a manifest that tells what they were made of.

Everything is read from one snapshot of the lake. Nothing from after a label's instant is in its row, nor the event that
the label is.
"""

import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from config.settings import Settings
from features.catalog import DEFINITION_VERSION
from schemas.compatibility import fingerprints
from schemas.errors import SchemasError
from schemas.privacy import Pseudonyms
from schemas.registry import RegistryClient
from sinks.delta import explained, open_or_create, writer_properties
from sinks.derived_tables import TRAINING_SETS
from sinks.erasures import Tombstones, read_erasures, tombstones_of
from sinks.lake_root import Lake, lake_of
from sinks.leases import reading
from sinks.served import catalog_fingerprint
from sinks.tables import FEATURE_LOG, RAW_EVENTS, arrow_schema
from training.as_corrected import WARM_UP_MS, corrected_values
from training.columns import RESERVED, set_table
from training.erased import not_erased, refuse_unfinished
from training.errors import DefinitionError, LabelsError, NotInLakeError
from training.event_labels import BEFORE_MS, EventLabels, event_labels
from training.labels import Labels, read_labels, refuse
from training.lake_snapshot import Snapshot
from training.recorded_events import RecordedEvents
from training.set_files import SetFormat, check_free, new_folder, write_manifest, write_rows

_DAY_MS: Final = 86_400_000
_FOREVER_MS: Final = 2**53
_BEFORE_LAKE: Final = "before_lake"
_ERASED: Final = "erased_users"

Tell = Callable[[str], None]


class SetMode(StrEnum):
    """Which features a set has."""

    AS_SERVED = "as_served"
    AS_CORRECTED = "as_corrected"


@dataclass(frozen=True, slots=True)
class SetRequest:
    """What to make.

    Attributes:
        out: folder of the set.
        labels: file of labels; None for events.
        events: kind of the events that are labels; None for a file.
        chosen: labels that are events and at hand already, 1 ms before each; instead of either.
        from_ms: first instant, of a file's labels or of events; None for the first that there is.
        to_ms: end of the instants, not included; None for the last that there is.
        time_column: of the file, if its name is none of the usual.
        definition_version: that is expected; None for that of this code.
    """

    mode: SetMode
    out: Path
    labels: Path | None = None
    events: str | None = None
    chosen: EventLabels | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    time_column: str | None = None
    format: SetFormat = SetFormat.PARQUET
    overwrite: bool = False
    definition_version: int | None = None


@dataclass(frozen=True, slots=True)
class SetReport:
    """A set that was made.

    Attributes:
        manifest: what is in its `_manifest.json`.
        seconds: how long it took.
    """

    out: Path
    manifest: Mapping[str, Any]
    seconds: float

    def payload(self) -> dict[str, Any]:
        """Return it as one JSON object."""
        return {"out": str(self.out), "seconds": round(self.seconds, 1), **self.manifest}


def make_set(settings: Settings, lake: Lake, request: SetRequest, tell: Tell) -> SetReport:
    """Make a set; blocking. On any error, and on SIGINT, nothing is left of it.

    Args:
        lake: what to read, which may be the lake as it was; the set is noted in that of the settings.
        tell: told what is under way, in words.

    Raises:
        TrainingError: labels, the lake, the path or the definition version cannot be used; it says which and why.
        ShopstreamError: the lake or the feature store cannot be read.
    """
    started_s = time.monotonic()
    out = request.out.absolute()
    check_free(out, overwrite=request.overwrite)
    _check_definition(request.definition_version)
    with reading(lake, "train set"):
        work = _SetWork(settings, lake, request, tell)
        table, manifest = work.rows()
    with new_folder(out, overwrite=request.overwrite) as (folder, publish):
        tell(f"Writing {table.num_rows:,} rows")
        manifest["files"] = write_rows(folder, table, request.format)
        text = write_manifest(folder, manifest)
        _note(lake_of(settings), out, manifest, text)
        work.check_erasures(table.column("user_id").combine_chunks())
        publish()
    return SetReport(out, manifest, time.monotonic() - started_s)


def _check_definition(wanted: int | None) -> None:
    if wanted not in {None, DEFINITION_VERSION}:
        raise DefinitionError(
            f"Definition version {wanted} is not there: this code computes version {DEFINITION_VERSION}.",
            hint="Make the set with the release, or from the checkout, that has that version.",
        )


class _SetWork:
    """The reading part of one set."""

    def __init__(self, settings: Settings, lake: Lake, request: SetRequest, tell: Tell) -> None:
        self._settings = settings
        self._request = request
        self._tell = tell
        self._base = lake
        self._snapshot = Snapshot.of(lake)
        self._key = Pseudonyms.with_key_of(settings.privacy)
        self._erasures = read_erasures(lake)
        self._tombstones: Tombstones = tombstones_of(self._erasures, self._key)
        self._warnings: list[str] = []
        if request.mode is SetMode.AS_SERVED:
            refuse_unfinished(self._erasures)
            self._begins_ms = self._snapshot.begins_ms(FEATURE_LOG, "servable_ms")
        elif self._snapshot.has_every_beginning():  # what it does not hold never was
            self._begins_ms = self._snapshot.begins_ms(RAW_EVENTS, "event_time_ms") - BEFORE_MS
        else:
            self._begins_ms = self._snapshot.begins_ms(RAW_EVENTS, "append_time_ms")

    def rows(self) -> tuple[pa.Table, dict[str, Any]]:
        """Return the rows of the set, and its manifest but for the files."""
        labels = self._labels()
        users = labels.user_ids.unique()
        first_ms, last_ms = int(labels.instants_ms.min()) - WARM_UP_MS, int(labels.instants_ms.max())
        self._tell(f"{len(labels):,} labels of {len(users):,} users; looking at their events")
        raw, address = self._snapshot.handle(RAW_EVENTS), self._snapshot.address(RAW_EVENTS)
        recorded = RecordedEvents(raw, address, users, first_ms, last_ms)
        if self._request.mode is SetMode.AS_SERVED:
            values, freshness = self._as_served(labels)
        else:
            values, freshness = self._as_corrected(labels, recorded, users), None
        table = set_table(labels, values, freshness)
        return table, self._manifest(labels, table, recorded)

    def check_erasures(self, users: Any) -> None:
        """Check that none of a set's users was erased since it was begun: the erasure did not see the set yet.

        Raises:
            NotInLakeError: one was.
        """
        since = [row for row in read_erasures(self._base) if row not in self._erasures]
        if since and self._key is not None:
            subjects = {row.subject for row in since}
            if any(subjects.intersection(self._key.subjects(user)) for user in users.unique().to_pylist()):
                raise NotInLakeError(
                    "A user of this set was erased while it was being made; nothing was written.",
                    hint="Make it again when `shopstream lake erase` has ended.",
                )

    def _labels(self) -> Labels:
        request = self._request
        from_ms = 0 if request.from_ms is None else request.from_ms
        to_ms = _FOREVER_MS if request.to_ms is None else request.to_ms
        if from_ms >= to_ms:
            raise LabelsError(f"The range is empty: it begins at {from_ms} ms and ends before {to_ms} ms.")
        labels = self._of_file(from_ms, to_ms) if request.labels is not None else self._of_events(from_ms, to_ms)
        if request.labels is not None:
            name = str(request.labels)
            now_ms = time.time_ns() // 1_000_000
            refuse(name, "lie in the future", labels.instants_ms > now_ms, hint="Nothing is known of then.")
            hint = "Leave them out with --from, or restore what the lake held."
            refuse(name, f"lie before {self._begins_ms} ms, where the lake begins", self._too_early(labels), hint=hint)
        labels = labels.kept(not_erased(labels, self._erasures, self._key), _ERASED)
        if not len(labels):
            raise LabelsError("No label is left.", hint=f"Left out were: {dict(labels.left_out) or 'none'}.")
        return labels

    def _too_early(self, labels: Labels) -> Any:
        return labels.instants_ms < self._begins_ms

    def _of_file(self, from_ms: int, to_ms: int) -> Labels:
        assert self._request.labels is not None
        labels = read_labels(self._request.labels, time_column=self._request.time_column, reserved=RESERVED)
        in_use = Pseudonyms.in_use(self._settings.privacy)
        if in_use is not None:
            users = labels.user_ids.dictionary_encode()
            stored = pa.array([in_use.of(user) for user in users.dictionary.to_pylist()], pa.string())
            labels = replace(labels, user_ids=stored.take(users.indices))
        inside = (labels.instants_ms >= from_ms) & (labels.instants_ms < to_ms)
        return labels.kept(inside, "outside_range")

    def _of_events(self, from_ms: int, to_ms: int) -> Labels:
        from training.as_served import before_own_event  # it imports what a set as corrected never needs

        raw, address = self._snapshot.handle(RAW_EVENTS), self._snapshot.address(RAW_EVENTS)
        kind = self._request.events or ""
        found = self._request.chosen or event_labels(raw, address, kind, from_ms, to_ms, self._tombstones)
        if self._request.mode is SetMode.AS_SERVED:
            instants_ms = before_own_event(self._snapshot.lake, found.labels, found.places)
            found = found._replace(labels=replace(found.labels, instants_ms=instants_ms))
        return found.labels.kept(~self._too_early(found.labels), _BEFORE_LAKE)

    def _as_served(self, labels: Labels) -> tuple[pa.Table, pa.Table]:
        from training.as_served import ServedFeatures

        if self._short(labels) and self._snapshot.lacks_states():
            self._warn_short(labels, "a user whose last state was dropped before counts as one without events.")
        done = _Counted(self._tell, len(labels), "labels joined")
        return ServedFeatures(self._settings, self._snapshot.lake).values(labels, done)

    def _as_corrected(self, labels: Labels, recorded: RecordedEvents, users: Any) -> pa.Table:
        if self._short(labels) and not self._snapshot.has_every_beginning():
            self._warn_short(labels, "what happened before is missing in their windows.")
        return corrected_values(
            labels, recorded, users, self._tombstones, _Counted(self._tell, recorded.count, "events folded")
        )

    def _short(self, labels: Labels) -> int:
        return int((labels.instants_ms - WARM_UP_MS < self._begins_ms).sum())

    def _warn_short(self, labels: Labels, so: str) -> None:
        self._warn(
            f"{self._short(labels):,} of {len(labels):,} labels lie less than 25 h after the beginning of what the "
            f"lake holds ({self._begins_ms} ms): {so}"
        )

    def _warn(self, text: str) -> None:
        self._warnings.append(text)
        self._tell(text)

    def _manifest(self, labels: Labels, table: pa.Table, recorded: RecordedEvents) -> dict[str, Any]:
        request = self._request
        return {
            "set_id": uuid.uuid4().hex,
            "created_ms": time.time_ns() // 1_000_000,
            "mode": request.mode.value,
            "format": request.format.value,
            "definition_version": DEFINITION_VERSION,
            "code": {"version": version("shopstream"), "catalog": catalog_fingerprint()},
            "rows": table.num_rows,
            "columns": {field.name: str(field.type) for field in table.schema},
            "labels": dict(labels.source),
            "left_out": dict(labels.left_out),
            "lake": {"address": str(self._base), "begins_ms": self._begins_ms, "versions": self._snapshot.versions},
            "positions": self._snapshot.positions(),
            "writer_schemas": self._writer_schemas(recorded),
            "warnings": self._warnings,
        }

    def _writer_schemas(self, recorded: RecordedEvents) -> list[dict[str, Any]]:
        ids = sorted(recorded.schema_ids)
        found: dict[int, dict[str, Any]] = {
            schema_id: {"schema_id": schema_id, "crc64_avro": None, "sha256": None} for schema_id in ids
        }
        if self._settings.registry.url:
            with closing(RegistryClient(self._settings.registry)) as registry:
                for schema_id in ids:
                    try:
                        known = fingerprints(registry.fetch(schema_id))
                    except SchemasError as error:
                        self._warn(f"The manifest has no fingerprint of the writer schema {schema_id}: {error}")
                    else:
                        found[schema_id] |= {"crc64_avro": known.crc64, "sha256": known.sha256}
        elif ids:
            self._warn("The manifest has no fingerprints of writer schemas: registry.url is not set.")
        return list(found.values())


class _Counted:
    """Tells how far something has come, every few seconds."""

    def __init__(self, tell: Tell, total: int, what: str) -> None:
        self._tell = tell
        self._total = total
        self._what = what
        self._done = 0
        self._told_s = time.monotonic()

    def __call__(self, more: int) -> None:
        self._done += more
        if time.monotonic() - self._told_s > 2.0:
            self._told_s = time.monotonic()
            self._tell(f"{self._done:,} of {self._total:,} {self._what}")


def _note(lake: Lake, out: Path, manifest: Mapping[str, Any], text: str) -> None:
    """Note in the lake that a set is about to be, so that an erasure finds it."""
    from deltalake import write_deltalake

    row = {
        "set_id": manifest["set_id"],
        "path": str(out),
        "format": manifest["format"],
        "mode": manifest["mode"],
        "definition_version": manifest["definition_version"],
        "row_count": manifest["rows"],
        "manifest": text,
        "created_ms": manifest["created_ms"],
        "created_date": manifest["created_ms"] // _DAY_MS,
    }
    schema = arrow_schema(TRAINING_SETS)
    columns = [
        pa.array([row[field.name]], pa.int32()).cast(field.type)
        if pa.types.is_date32(field.type)
        else pa.array([row[field.name]], field.type)
        for field in schema
    ]
    address = lake / TRAINING_SETS.name
    with explained(address):
        handle = open_or_create(address, TRAINING_SETS)
        rows = pa.Table.from_arrays(columns, schema=schema)
        write_deltalake(handle, rows, mode="append", writer_properties=writer_properties(TRAINING_SETS))
