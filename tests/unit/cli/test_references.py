"""`shopstream lake reference` as it is typed, on files that `produce --reference-tables` wrote."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from schemas.privacy import PSEUDONYM_PREFIX
from sinks.errors import ReferenceFileError
from sinks.noting import noted
from sinks.quality_tables import REFERENCE_USERS
from traffic.reference_files import write_reference_files
from traffic.simulator import SimulatorConfig

CONFIG = SimulatorConfig(seed=4, start_ms=1_700_000_000_000, users=300, products=200, categories=20)


def run(home: Path, *arguments: str, **settings: str) -> Result:
    overrides = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    return CliRunner().invoke(app, ["--home", str(home), *overrides, "lake", "reference", *arguments])


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return write_reference_files(CONFIG, tmp_path / "files")


def test_what_the_simulator_writes_can_be_loaded_and_is_listed(tmp_path: Path, files: dict[str, Path]) -> None:
    before = json.loads(run(tmp_path, "list", "--json").stdout)
    assert [row["row_count"] for row in before["tables"]] == [None, None, None]
    assert "not loaded" in run(tmp_path, "list").stdout
    for name, count in (("products", 200), ("categories", 20), ("users", 300)):
        done = run(tmp_path, "load", name, str(files[name]), "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["row_count"] == count
    after: dict[str, Any] = json.loads(run(tmp_path, "list", "--json").stdout)
    assert [row["row_count"] for row in after["tables"]] == [200, 20, 300]
    assert "300" in run(tmp_path, "list").stdout


def test_what_was_left_out_is_told_in_words(tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    path.write_text("user_id,city\nu1,x\nu1,y\n" + ",z\n" * 25)
    done = run(tmp_path, "load", "users", str(path))
    assert done.exit_code == 0
    assert "users: 1 ids loaded in version 1, user ids as they are." in done.stdout
    assert "1 rows left out, their id came before" in done.stdout
    assert "25 rows refused, they have no id: line 4, 5," in done.stdout
    assert done.stdout.rstrip().endswith("23, and more")


def test_user_ids_become_pseudonyms_where_they_are_in_use(tmp_path: Path, files: dict[str, Path]) -> None:
    key = {"privacy.key": "a key of the tests, long enough", "privacy.pseudonymise": "true"}
    done = run(tmp_path, "load", "users", str(files["users"]), **key)
    assert "user ids as pseudonyms" in done.stdout
    rows = noted(tmp_path / "lake", REFERENCE_USERS)
    assert len(rows) == 300
    assert all(row["user_id"].startswith(PSEUDONYM_PREFIX) for row in rows)


def test_an_empty_file_needs_a_word(tmp_path: Path) -> None:
    path = tmp_path / "products.csv"
    path.write_text("product_id\n")
    done = run(tmp_path, "load", "products", str(path))
    assert isinstance(done.exception, ReferenceFileError)
    assert "--allow-empty" in done.exception.hint
    assert run(tmp_path, "load", "products", str(path), "--allow-empty").exit_code == 0


@pytest.mark.parametrize("arguments", [("load", "shops", "x.csv"), ("load", "users"), ("load",)])
def test_wrong_use_is_told(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert run(tmp_path, *arguments).exit_code == 2


def test_reference_tables_are_of_the_simulated_shop_only(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["produce", "--rees46", "x.csv", "--reference-tables", str(tmp_path)])
    assert done.exit_code == 2
    assert "--reference-tables" in done.output
