"""Every scenario, in the order in which the full form runs them: those that harm the services come last."""

from typing import Final

from tests.faults import (
    broker,
    fuzz,
    kills,
    lake_faults,
    membership,
    pressure,
    redis_faults,
    registry_faults,
    topic_faults,
)
from tests.faults.scenario import Scenario

_MODULES: Final = (kills, membership, pressure, fuzz, broker, redis_faults, lake_faults, topic_faults, registry_faults)


def scenarios() -> tuple[Scenario, ...]:
    """Return all scenarios."""
    found = [scenario for module in _MODULES for scenario in module.SCENARIOS]
    assert len({scenario.name for scenario in found}) == len(found), "two scenarios have the same name"
    return tuple(sorted(found, key=lambda scenario: scenario.harms_services))
