"""States of every release are read by this one, to the values of then, and folded on as then."""

import json
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import msgspec
import pytest

from features.apply import fold
from features.errors import StateError
from features.finalize import finalize
from features.state import LAYOUT, READABLE_LAYOUTS, TRAILER_BYTES, Trailer, decode, encode, read_trailer
from schemas.event import CART_KINDS, CARTS_TOPIC, CLICKS_TOPIC, Event
from tests.logs import event, numbered

FOLDERS = sorted((Path(__file__).resolve().parents[2] / "golden" / "releases").glob("*/states.json"))
releases = pytest.mark.parametrize("path", FOLDERS, ids=lambda path: path.parent.name)


def golden(path: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: b64decode(text) for name, text in content.pop("states").items()}, content


def of_then(values: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    """Return the values that the release knew: a later one may have more features."""
    return {name: values.get(name) for name in recorded}


def test_there_are_releases_to_be_read() -> None:
    assert FOLDERS


@releases
def test_states_finalize_to_the_values_of_then(path: Path) -> None:
    states, content = golden(path)
    assert len(content["values"]) > 10
    for case in content["values"]:
        decoded = {topic: decode(states[name]) for topic, name in case["states"].items() if name is not None}
        assert of_then(finalize(decoded, case["as_of_ms"]), case["values"]) == case["values"], case["states"]


@releases
def test_states_are_folded_on_to_the_values_of_then(path: Path) -> None:
    states, content = golden(path)
    for case in content["continued"]:
        log = [(offset, Event(**fields)) for offset, fields in case["log"]]
        folded = fold(states[case["state"]], log)
        topic = CARTS_TOPIC if log[0][1].kind in CART_KINDS else CLICKS_TOPIC
        assert folded.outcomes == case["outcomes"]
        assert read_trailer(folded.state) == Trailer(*case["trailer"])
        assert of_then(finalize({topic: decode(folded.state)}, None), case["values"]) == case["values"], case["state"]


@releases
def test_a_state_of_the_layout_that_is_written_stays_the_same_bytes(path: Path) -> None:
    """Otherwise two releases that run side by side would give one log two states."""
    states, _ = golden(path)
    for name, blob in states.items():
        layout = msgspec.msgpack.decode(blob[:-TRAILER_BYTES])[0]
        assert layout in READABLE_LAYOUTS, name
        if layout == LAYOUT:
            assert encode(decode(blob)) == blob, name


def test_the_release_before_reads_what_this_one_writes() -> None:
    """A new layout is written only one release after every reader can read it: during a rolling restart both write."""
    *_, wheel = sorted((Path(__file__).resolve().parents[2] / "golden" / "releases").glob("*.whl"))
    state = fold(None, numbered([event(0), event(5), event(9)])).state
    script = (
        f"import sys; sys.path[0] = {str(wheel)!r}; import features.state as before; "
        f"print(before.__file__); print(before.decode(bytes.fromhex({state.hex()!r})).version)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd="/", capture_output=True, text=True, check=True)
    path, version = done.stdout.split()
    assert path.startswith(str(wheel))
    assert version == "3"


@pytest.mark.parametrize("rest", [[], [1_700_000_000_000, {"any": "shape"}]])
def test_another_layout_is_named_whatever_its_shape(rest: list[Any]) -> None:
    blob = msgspec.msgpack.encode([LAYOUT + 1, *rest]) + bytes(TRAILER_BYTES)
    with pytest.raises(StateError, match="has layout 2; this release reads 1") as failure:
        decode(blob)
    assert "update this reader" in failure.value.hint
