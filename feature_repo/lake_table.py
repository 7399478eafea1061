"""A Delta table of the lake as a Feast batch source."""

from typing import Any

from feast import FileSource
from feast.data_format import DeltaFormat


class LakeTable(FileSource):
    """A table below the lake's folder, which need not exist yet: the worker's first flush makes it.

    Args:
        name: name of the source.
        table: name of the table; the offline store knows the lake, so that the registry holds no path.
        timestamp_field: column that point-in-time joins compare.
    """

    def __init__(self, *, name: str, table: str, timestamp_field: str, description: str) -> None:
        super().__init__(
            name=name,
            path=table,
            file_format=DeltaFormat(),
            timestamp_field=timestamp_field,
            description=description,
        )

    def validate(self, config: Any) -> None:
        """Accept the table as it is named: Feast would warn that it does not exist yet."""
