"""The tables as data, and the page that is generated from them."""

from pathlib import Path

import pytest

from sinks.tables import LAKE_TABLES, RAW_EVENTS, ColumnType, LakeTable, application_id, reference_page

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "lake.md"


def test_the_reference_page_is_the_one_generated_from_the_tables() -> None:
    assert PAGE.read_text() == reference_page(), "write sinks.tables.reference_page() to docs/reference/lake.md"


def test_an_application_id_names_the_log_the_partition_and_the_table() -> None:
    assert application_id("abc-_123", 7, RAW_EVENTS) == "abc-_123-7-raw_events"


@pytest.mark.parametrize("table", LAKE_TABLES.values(), ids=LAKE_TABLES)
def test_a_table_is_partitioned_by_a_date_and_positioned_by_a_column_that_skips(table: LakeTable) -> None:
    columns = {column.name: column for column in table.columns}
    assert len(columns) == len(table.columns)
    assert columns[table.partitioned_by].type is ColumnType.DATE
    assert not columns[table.partitioned_by].skipping
    assert {"log_epoch", "topic", "partition", table.position} <= set(table.skipping_columns)
