"""A world decided by one seed: the worker's whole logic under faults. `make simulate SEEDS=10000` runs many more."""

import json
import os
import subprocess
import sys

import pytest

from tests.crash_points import CRASH_POINTS
from tests.simulation.__main__ import hunt
from tests.simulation.world import simulate

SEEDS = 300
PARITY_SEEDS = 50


@pytest.mark.parametrize("arguments", [["--seeds", str(SEEDS)], ["--parity", "--seeds", str(PARITY_SEEDS)]])
def test_no_promise_is_broken(arguments: list[str]) -> None:
    # a process of its own: it forks, which a process with threads must not
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_a_seed_replays_the_same_in_another_process() -> None:
    seeds = list(range(20, 32))
    code = (
        "import json; from tests.simulation.world import simulate; "
        f"print(json.dumps([simulate(n).digest for n in {seeds}]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert json.loads(answer.stdout) == [simulate(seed).digest for seed in seeds]


def test_every_named_point_is_passed() -> None:
    passed = {point for seed in range(12) for point in simulate(seed).points}
    assert passed == set(CRASH_POINTS)


@pytest.mark.parametrize(
    "name", ["commit before flush", "an append does not compare", "a replay skips the last event of a piece"]
)
def test_a_planted_bug_is_found(name: str) -> None:
    caught = hunt(name, range(50))
    assert caught.violation is not None
