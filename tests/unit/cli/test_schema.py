"""`shopstream schema`, what needs no registry."""

import json
from pathlib import Path

import pytest

from cli.main import run
from schemas.event import CARTS_TOPIC, DEAD_LETTERS_TOPIC
from schemas.loading import own_schema

OLD = own_schema(CARTS_TOPIC)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        run(["schema", *arguments])
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


@pytest.fixture
def old(tmp_path: Path) -> str:
    path = tmp_path / "old.avsc"
    path.write_text(OLD)
    return str(path)


def test_diff_of_a_file_with_itself(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "diff", old, old)
    assert (code, out) == (0, "- nothing that a reader sees changes\n")


def test_diff_that_older_events_survive(old: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = tmp_path / "new.avsc"
    new.write_text(OLD.replace('"type": "int"', '"type": "long"'))
    code, out, _ = call(capsys, "diff", old, str(new), "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["compatible"] is True
    assert answer["changes"] == ["quantity changes from int to long"]
    assert answer["fingerprints"]["old"] != answer["fingerprints"]["new"]


def test_diff_that_they_do_not(old: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = tmp_path / "new.avsc"
    new.write_text(OLD.replace('"type": "int"', '"type": "string"'))
    code, out, _ = call(capsys, "diff", old, str(new))
    assert code == 3
    assert "incompatible: quantity is string, and was int" in out


@pytest.mark.parametrize(
    ("text", "words"), [("nonsense", "The schema is not JSON"), ("{}", "is not an Avro record"), ("[1]", "not an Avro")]
)
def test_a_file_that_is_no_schema(
    text: str, words: str, old: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.avsc"
    bad.write_text(text)
    code, out, err = call(capsys, "diff", old, str(bad))
    assert (code, out) == (1, "")
    assert words in err
    assert "bad.avsc" in err
    assert "Traceback" not in err


def test_a_file_that_is_not_there(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "diff", old, "nowhere.avsc")
    assert code == 1
    assert "nowhere.avsc cannot be read" in err


def test_a_rehearsal_needs_a_schema_of_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    letters, strange = tmp_path / "letters.avsc", tmp_path / "strange.avsc"
    letters.write_text(own_schema(DEAD_LETTERS_TOPIC))
    strange.write_text(OLD.replace("CartEvent", "OtherEvent"))
    registry = ["--set", "registry.url=http://127.0.0.1:1"]

    def rehearse(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            run([*registry, "schema", "rehearse", *arguments])
        err = capsys.readouterr().err
        assert isinstance(ended.value.code, int)
        return ended.value.code, " ".join(err.replace("│", " ").split())

    code, words = rehearse(str(letters))
    assert (code, "is a schema of shop.dead_letters.v1, not of events" in words) == (2, True)
    code, words = rehearse(str(strange))
    assert (code, "is the schema of shop.OtherEvent, which belongs to no topic." in words) == (1, True)
    code, words = rehearse(str(strange), "--topic", "shop.nothing.v1")
    assert (code, "'shop.nothing.v1' is none of shop.clicks.v1, shop.carts.v1" in words) == (2, True)
