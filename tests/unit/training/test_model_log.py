"""Steps of models as the lake has them, and who serves by what was noted."""

from pathlib import Path
from typing import Any

from training.model_log import ModelLog, ModelStep, Step, newest_canary, newest_change, noted_roles

PROMOTED, CANARY, BACK = Step.PROMOTED, Step.CANARY, Step.ROLLED_BACK


def step(model: str, kind: Step, at_ms: int = 1, **evidence: Any) -> ModelStep:
    return ModelStep(model, kind, "guard", "it won", at_ms, evidence)


def test_steps_come_back_as_they_were_noted_oldest_first(tmp_path: Path) -> None:
    log = ModelLog(tmp_path)
    assert (log.steps(), log.newest()) == ([], {})
    steps = [step("1", PROMOTED, 5), step("2", CANARY, 7, share=0.1), step("1", BACK, 9, to="0", counts={"a": [1, 2]})]
    for each in (steps[2], steps[0], steps[1]):
        log.append(each)
    assert log.steps() == steps
    assert log.steps("1") == [steps[0], steps[2]]
    assert log.newest() == {"1": steps[2], "2": steps[1]}
    assert steps[1].document() == {
        "model": "2",
        "step": "canary",
        "by": "guard",
        "reason": "it won",
        "evidence": {"share": 0.1},
        "noted_ms": 7,
    }


def test_roles_follow_from_the_steps() -> None:
    steps = [step("1", PROMOTED), step("2", Step.STAGED)]
    assert noted_roles([]) == {}
    assert noted_roles(steps) == {"champion": "1"}
    steps.append(step("2", CANARY))
    assert noted_roles(steps) == {"champion": "1", "canary": "2"}
    assert newest_canary(steps) is steps[-1]
    assert noted_roles([*steps, step("2", BACK)]) == {"champion": "1"}
    steps += [step("2", PROMOTED), step("3", Step.REJECTED)]
    assert noted_roles(steps) == {"champion": "2"}
    assert newest_change(steps) is steps[-2]
    assert noted_roles([*steps, step("2", BACK, to="1")]) == {"champion": "1"}
