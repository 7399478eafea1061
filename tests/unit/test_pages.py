"""What the how-to pages tell people to edit is there to be edited."""

from pathlib import Path

import pytest

from tests.pages import Edit, apply, blocks, edits

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    page for page in sorted((ROOT / "docs" / "how-to").glob("*.md")) if any(b.kind == "diff" for b in blocks(page))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_edits_of_a_page_can_be_made(page: Path, tmp_path: Path) -> None:
    made = [edit for block in blocks(page) if block.kind == "diff" for edit in edits(block.text)]
    for name in {edit.path for edit in made}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    for edit in made:
        apply(tmp_path, edit)
        assert edit.after in (tmp_path / edit.path).read_text()


def test_there_are_such_pages() -> None:
    assert {page.stem for page in PAGES} >= {"add-a-feature", "change-a-definition"}


def test_a_block_may_change_several_places_of_several_files() -> None:
    text = "--- a.py\n-old\n+new\n context\n+added\n--- b.py\n+at the end\n"
    assert list(edits(text)) == [
        Edit("a.py", "old", "new"),
        Edit("a.py", "context", "context\nadded"),
        Edit("b.py", "", "at the end"),
    ]


def test_what_a_page_shows_must_be_there_once(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("twice\ntwice\n")
    for shown in ("twice", "never"):
        with pytest.raises(AssertionError, match=r"a\.py does not hold this once"):
            apply(tmp_path, Edit("a.py", shown, "new"))
