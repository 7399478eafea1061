"""Labels: for whom and for which instant features are wanted, and what is carried along with each.

A label is refused rather than guessed at: without a user, without a time, with a time of no zone. What is refused is
named by its row, counted from 1 after the header.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from training.errors import LabelsError

USER: Final = "user_id"
TIME_COLUMNS: Final = ("event_timestamp", "timestamp", "time", "label_time")

_MS_SUFFIX: Final = "_ms"
_ZONED: Final = r"[T ]\d{2}.*([Zz]|[+-]\d{2}(:?\d{2})?)$"
_SHOWN: Final = 60
_ZONE_HINT: Final = "Add Z for UTC or an offset such as +01:00 to each; a time without one may be meant anywhere."


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels in the order in which their set will be.

    Attributes:
        user_ids: Arrow strings, as the lake stores them.
        instants_ms: for when features are wanted, numpy integers, milliseconds UTC.
        carried: an Arrow table of the other columns, a row per label.
        source: where they came from, for the manifest.
        left_out: how many labels of the source are not among them, by reason.
    """

    user_ids: Any
    instants_ms: Any
    carried: Any
    source: Mapping[str, Any]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.instants_ms)

    def kept(self, wanted: Any, reason: str) -> "Labels":
        """Return those that a numpy mask tells, and count the others under a reason."""
        gone = int(len(self) - wanted.sum())
        if not gone:
            return self
        mask = pa.array(wanted)
        return replace(
            self,
            user_ids=self.user_ids.filter(mask),
            instants_ms=self.instants_ms[wanted],
            carried=self.carried.filter(mask),
            left_out={**self.left_out, reason: self.left_out.get(reason, 0) + gone},
        )


def read_labels(path: Path, *, time_column: str | None = None, reserved: Collection[str] = ()) -> Labels:
    """Read labels of a Parquet or CSV file: `user_id`, a time with its zone, and any other columns.

    A time is a Parquet timestamp with a zone, a text in ISO 8601 with one, or, in a column whose name ends in `_ms`,
    integer milliseconds UTC. Parts of a millisecond are cut off, so that a label never looks ahead.

    Args:
        time_column: its name; one of `TIME_COLUMNS`, if None.
        reserved: names that no other column may have.

    Raises:
        LabelsError: the file or some of its labels cannot be used.
    """
    table = _table(path)
    if USER not in table.column_names:
        raise LabelsError(f"{path} has no column {USER}.", hint=f"It has {_listed(table.column_names)}.")
    if not table.num_rows:
        raise LabelsError(f"{path} holds no labels.")
    taken = [name for name in table.column_names if name in reserved]
    if taken:
        raise LabelsError(
            f"{path} has columns that are named as columns of the set are: {_listed(taken)}.",
            hint="Rename them: the set could not tell the two apart.",
        )
    time_name = _time_column(path, table.column_names, time_column)
    users = _users(path, table.column(USER))
    instants_ms = _instants_ms(path, time_name, table.column(time_name))
    source = {
        "kind": "file",
        "path": str(path.absolute()),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "time_column": time_name,
        "rows": table.num_rows,
    }
    return Labels(users, instants_ms, table.drop_columns([USER]), source)


def refuse(path: Path | str, why: str, wrong: Any, *, hint: str = "") -> None:
    """Refuse labels that a numpy mask tells, naming the first and how many.

    Raises:
        LabelsError: there are any.
    """
    count = int(wrong.sum())
    if count:
        verb = "label" if len(wrong) == 1 else "labels"
        first = int(wrong.argmax()) + 1
        raise LabelsError(f"{count:,} of {len(wrong):,} {verb} of {path} {why}; the first is row {first:,}.", hint=hint)


def _table(path: Path) -> Any:
    from pyarrow import csv, parquet

    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        if is_parquet:
            # of this very file: below a folder named `a=b`, a dataset would have a column more
            return parquet.ParquetFile(path).read()
        # ids stay as they were typed: 007 is no number
        return csv.read_csv(
            path,
            convert_options=csv.ConvertOptions(
                column_types={USER: pa.string()}, null_values=[""], strings_can_be_null=True
            ),
        )
    except OSError as error:
        raise LabelsError(f"The labels {path} cannot be read: {error.strerror or error}.") from error
    except pa.ArrowInvalid as error:
        raise LabelsError(f"{path} is neither Parquet nor CSV with a header: {str(error)[:_SHOWN]}.") from error


def _time_column(path: Path, names: Sequence[str], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in names:
            raise LabelsError(f"{path} has no column {wanted}.", hint=f"It has {_listed(names)}.")
        return wanted
    found = [name for name in TIME_COLUMNS if name in names]
    if not found:
        raise LabelsError(
            f"{path} has no time column: none of its columns is {_listed(TIME_COLUMNS)}.",
            hint=f"Name it with --time-column; it has {_listed(names)}.",
        )
    return found[0]


def _users(path: Path, column: Any) -> Any:
    if not (pa.types.is_integer(column.type) or _is_text(column.type)):
        raise LabelsError(f"The column {USER} of {path} holds {column.type}, and no ids.")
    users = column.cast(pa.string()).combine_chunks()
    missing = pc.or_kleene(users.is_null(), pc.equal(users, "")).fill_null(True)  # noqa: FBT003 - pyarrow's
    refuse(path, f"have no {USER}", missing.to_numpy(zero_copy_only=False))
    return users


def _instants_ms(path: Path, name: str, column: Any) -> Any:
    refuse(path, f"have no time in {name}", column.is_null().to_numpy())
    kind = column.type
    if pa.types.is_integer(kind) and name.endswith(_MS_SUFFIX):
        return column.cast(pa.int64()).to_numpy()
    if pa.types.is_timestamp(kind):
        refuse(path, f"have a time without a zone in {name}", np.full(len(column), kind.tz is None), hint=_ZONE_HINT)
        return pc.floor_temporal(column, unit="millisecond").cast(pa.timestamp("ms", tz="UTC")).cast("int64").to_numpy()
    if not _is_text(kind):
        raise LabelsError(
            f"The column {name} of {path} holds {kind}, and no times.",
            hint=f"Give timestamps with a zone, or milliseconds UTC in a column whose name ends in {_MS_SUFFIX}.",
        )
    return _parsed(path, name, column.cast(pa.string()))


def _parsed(path: Path, name: str, texts: Any) -> Any:
    import pandas as pd

    texts = pc.utf8_trim_whitespace(texts)
    times = pd.to_datetime(texts.to_pandas(), utc=True, format="ISO8601", errors="coerce")
    refuse(path, f"have something else than a time in {name}", times.isna().to_numpy())
    zoned = pc.match_substring_regex(texts, _ZONED).to_numpy()
    refuse(path, f"have a time without a zone in {name}", ~zoned, hint=_ZONE_HINT)
    return times.astype("datetime64[ns, UTC]").astype("int64").to_numpy() // 1_000_000


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
