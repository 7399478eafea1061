import csv
from pathlib import Path

import pytest

from schemas.event import Event
from traffic.errors import ReferenceFolderError
from traffic.reference_files import write_reference_files
from traffic.simulator import Simulator, SimulatorConfig

CONFIG = SimulatorConfig(seed=4, start_ms=1_700_000_000_000, users=300, products=200, categories=20, taste=0.5)


def column(path: Path, name: str) -> list[str]:
    with path.open(newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


def test_the_files_name_whatever_the_traffic_names(tmp_path: Path) -> None:
    files = write_reference_files(CONFIG, tmp_path / "new" / "folder")
    assert {name: path.name for name, path in files.items()} == {
        "products": "products.csv",
        "categories": "categories.csv",
        "users": "users.csv",
    }
    events = [t.payload for t in Simulator(CONFIG, 5_000).events() if isinstance(t.payload, Event)]
    for name, kind in (("product_id", "products"), ("category_id", "categories"), ("user_id", "users")):
        known = column(files[kind], name)
        assert len(set(known)) == len(known)
        assert {getattr(event, name) for event in events} - {None} <= set(known)
    assert len(column(files["users"], "user_id")) == 300
    category_of = dict(
        zip(column(files["products"], "product_id"), column(files["products"], "category_id"), strict=True)
    )
    assert all(category_of[event.product_id] == event.category_id for event in events if event.product_id)


def test_equal_shops_give_equal_files_and_older_ones_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("something much older\n" * 1_000)
    first = {name: path.read_text() for name, path in write_reference_files(CONFIG, tmp_path).items()}
    second = {name: path.read_text() for name, path in write_reference_files(CONFIG, tmp_path / "b").items()}
    assert first == second


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReferenceFolderError, match="file"):
        write_reference_files(CONFIG, tmp_path / "file")
