"""The short form of every fault: few injections each, the same account."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stack.embedded import EmbeddedStack, Endpoints
from tests.conftest import embedded_stack
from tests.faults.catalogue import scenarios
from tests.faults.scenario import Arena, Scenario, run_scenario
from tests.faults.workers import WorkerHost, worker_host

pytestmark = [
    pytest.mark.stack,
    pytest.mark.usefixtures("settings"),  # it clears the environment of settings
]

SHORT = [scenario for scenario in scenarios() if scenario.is_short]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerHost]:
    """A process that starts workers quickly."""
    with worker_host(tmp_path_factory.mktemp("host") / "host.log") as running:
        yield running


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[tuple[Path, Endpoints]]:
    """A stack whose services may be killed."""
    home = tmp_path_factory.mktemp("harmed")
    with embedded_stack(home, cache_dir) as endpoints:
        yield home, endpoints


@pytest.fixture
def arena(stack: Endpoints, host: WorkerHost, cache_dir: Path, tmp_path: Path) -> Arena:
    """Where scenarios run that leave the services as they are."""
    return Arena(endpoints=stack, cache_dir=cache_dir, folder=tmp_path / "worlds", host=host, is_full=False)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", [s for s in SHORT if not s.harms_services], ids=lambda scenario: scenario.name)
def test_fault_of_a_worker(scenario: Scenario, arena: Arena) -> None:
    row = run_scenario(scenario, arena)
    assert row.is_exact, row


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", [s for s in SHORT if s.harms_services], ids=lambda scenario: scenario.name)
def test_fault_of_a_service(scenario: Scenario, arena: Arena, harmed: tuple[Path, Endpoints], cache_dir: Path) -> None:
    home, endpoints = harmed
    own = replace(arena, endpoints=endpoints, home=home, stack=EmbeddedStack(home, cache_dir))
    row = run_scenario(scenario, own)
    assert row.is_exact, row
