"""`shopstream skew`: exit codes, what it prints, what it refuses."""

import json
from pathlib import Path

import pytest

from cli.main import run
from tests.logs import MINUTE, NOON, SECOND, event
from tests.served_shop import ServedShop


def call(home: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run(["--home", str(home), "skew", *arguments])
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


@pytest.fixture
def shop(tmp_path: Path) -> ServedShop:
    made = ServedShop(tmp_path / "lake")
    made.append(event(0))
    made.read("u1", NOON + MINUTE)
    made.flush()
    return made


def test_a_clean_lake_is_0(shop: ServedShop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(tmp_path, capsys, "--from", "0", "--json")
    found = json.loads(out)
    assert (code, found["answers"], found["right"], found["mismatched"]) == (0, 1, 1, 0)
    assert set(found["by_cause"].values()) == {0}
    assert 'shopstream_skew_rows{result="right"} 1.0' in (tmp_path / "metrics" / "skew.prom").read_text()


def test_a_mismatch_is_3_and_is_named(shop: ServedShop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop.append(event(SECOND, "click", "straggler"), NOON + 2 * MINUTE)
    shop.flush()
    code, out, _ = call(tmp_path, capsys, "--from", "0")
    assert code == 3
    assert "late event: click_count_5m of u1" in out
    assert "straggler" in out
    assert "1 with a value that is not what should have been served" in out.replace("\n", " ")


def test_a_time_in_which_nothing_was_kept(shop: ServedShop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(tmp_path, capsys)
    assert code == 0
    assert "No answers were kept" in out


def test_the_lake_can_be_read_as_it_was(shop: ServedShop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop.append(event(SECOND, "click", "straggler"), NOON + 2 * MINUTE)
    shop.flush()
    assert call(tmp_path, capsys, "--from", "0", "--lake-version", "raw_events=1")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--from", "2026-11-24T00:00:00"], 2, "no time zone"),
        (["--from", "soon"], 2, "is no time"),
        (["--from", "-1h", "--to", "-2h"], 2, "not before --to"),
        (["--limit", "0"], 2, "--limit"),
        (["--users", "nobody"], 1, "No answer of nobody was kept in that time."),
    ],
)
def test_bad_input_is_one_clear_sentence(
    shop: ServedShop,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    found, out, err = call(tmp_path, capsys, *arguments)
    assert found == code
    assert words in " ".join(err.replace("│", " ").split())
    assert out == ""
    assert not (tmp_path / "metrics").exists()
