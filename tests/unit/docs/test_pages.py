"""The documentation: pages made from code are current, links lead somewhere, nothing foreign slips in."""

import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from cli.reference import PAGES, pages
from features.catalog import FEATURES

ROOT = Path(__file__).resolve().parents[3]
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def tracked_text() -> list[Path]:
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    kept = {".md", ".py", ".toml", ".yaml", ".yml", ".txt", ".json", ".lua", ".avsc", ""}
    return [ROOT / name for name in names if name and Path(name).suffix in kept and (ROOT / name).is_file()]


@pytest.mark.parametrize("name", sorted(pages()))
def test_reference_pages_are_current(name: str) -> None:
    assert (PAGES / name).read_text() == pages()[name], "write them anew: python -m cli.reference"


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md")), ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


def test_the_readme_counts_the_features_right() -> None:
    counts = set(re.findall(r"\b(\d+) (?:features|values)\b", (ROOT / "README.md").read_text()))
    assert counts == {str(len(FEATURES))}


def test_every_decision_is_numbered_and_titled() -> None:
    records = sorted((ROOT / "docs" / "adr").glob("*.md"))
    for number, record in enumerate(records, start=1):
        assert record.name.startswith(f"{number:04d}-"), record.name
        assert record.read_text().startswith(f"# {number}. "), record.name


def test_no_path_of_this_machine_is_named() -> None:
    paths = {f"{path}/" for path in (ROOT, Path.home(), Path(tempfile.gettempdir())) if path != Path("/")}
    texts = {path.relative_to(ROOT): path.read_text(errors="replace") for path in tracked_text()}
    assert [f"{name}: {path}" for name, text in texts.items() for path in paths if path in text] == []


def test_locks_hold_hashes_and_no_address() -> None:
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text, lock.name
