"""What a table of the lake is: columns, their types and meaning, and how its rows are found again."""

from dataclasses import dataclass
from enum import StrEnum


class ColumnType(StrEnum):
    """The Delta types that the tables use."""

    STRING = "string"
    BINARY = "binary"
    INTEGER = "integer"
    LONG = "long"
    DATE = "date"
    TIMESTAMP = "timestamp"
    DOUBLE = "double"
    BOOLEAN = "boolean"
    STRINGS = "array"  # of strings


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        skipping: whether the log keeps each file's smallest and greatest value, so that readers can skip files.
        spread: values hardly ever repeat, or only grow: a dictionary would cost time and space.
    """

    name: str
    type: ColumnType
    description: str
    nullable: bool = False
    skipping: bool = False
    spread: bool = False


@dataclass(frozen=True, slots=True)
class LakeTable:
    """One table.

    Attributes:
        partitioned_by: the date column whose values are folders.
        position: column that tells a row's place in the log of its partition; empty for a table that is made from
            others.
        position_base: what to subtract from it to get the record's offset.
        fills_gaps: whether a row that lies at or below the table's last offset is written when the table lacks it. A
            record that is delivered again may be judged anew (its schema was registered meanwhile): it then belongs to
            another table than the first time, and must not be lost between the two.
    """

    name: str
    description: str
    columns: tuple[Column, ...]
    partitioned_by: str
    position: str = ""
    position_base: int = 0
    fills_gaps: bool = False

    @property
    def skipping_columns(self) -> tuple[str, ...]:
        """Names of the columns whose statistics are kept in the log."""
        return tuple(column.name for column in self.columns if column.skipping)
