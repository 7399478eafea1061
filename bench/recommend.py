"""How long a recommendation takes in process: `python -m bench.recommend [--events N] [--questions N]`.

On a stack of its own a worker reads simulated traffic, a model is trained on it and put in charge, and users are asked
about one after the other: features from Redis through Feast, the model, and the record of the answer for the lake.
Printed are p50 and p99 of the whole and of the model alone, in ms, after a warm-up that is not counted.
"""

import argparse
import json
import sys
from typing import Any, Final

import numpy as np

from bench.backlog import Backlog, backlog
from bench.live import catch_up
from bench.results import OutputsDifferError, machine, say
from config.settings import Settings
from schemas.event import Event
from serving.recommender import Recommender
from serving.rollout import guard
from sinks.lake_root import lake_of
from sinks.noting import noted
from sinks.quality_tables import RECOMMENDATIONS
from traffic.simulator import Simulator
from training.models import CHAMPION, Models
from training.run import train

GOAL_P99_MS: Final = 50.0
WARM_UP: Final = 100
STRANGERS: Final = 0.1  # of the users who are asked about


def prepared(found: Backlog) -> Settings:
    """Return settings with features in Redis and a champion that was trained on the traffic."""
    settings = found.settings("recommend", training={"mode": "as_corrected"})
    say("a worker reads them")
    catch_up(settings, sum(found.counts.values()))
    say("training")
    train(settings, from_ms=found.config.start_ms, to_ms=found.as_of_ms + 1, tell=say)
    models = Models.from_settings(settings)
    newest = models.versions()[-1]
    guard(settings)
    if models.alias(CHAMPION) is None:
        say("it was rejected, and serves all the same: how long it takes does not depend on how good it is")
        models.set_alias(CHAMPION, newest.version)
    return settings


def asked_users(found: Backlog, count: int) -> list[str]:
    """Return users to ask about: those of the traffic, in any order, and some of whom nobody has heard."""
    rng = np.random.default_rng(3)
    payloads = (timed.payload for timed in Simulator(found.config, sum(found.counts.values())).events())
    known = sorted({event.user_id for event in payloads if isinstance(event, Event)})
    return [f"stranger-{n}" if rng.random() < STRANGERS else str(rng.choice(known)) for n in range(count)]


def measure(settings: Settings, users: list[str]) -> dict[str, Any]:
    """Ask about users one after the other."""
    seconds, roles = [], dict[str, int]()
    with Recommender.from_settings(settings) as recommender:
        for user_id in users:
            given = recommender.recommend(user_id)
            seconds.append(given.seconds)
            roles[given.role] = roles.get(given.role, 0) + 1
    whole = np.array(seconds[WARM_UP:]) * 1_000
    rows = noted(lake_of(settings), RECOMMENDATIONS, ["seconds"])
    if len(rows) != len(users):
        raise OutputsDifferError(f"{len(users)} questions, {len(rows)} answers in the lake")
    model = np.array([row["seconds"] for row in rows][WARM_UP:]) * 1_000
    return {
        "questions": len(whole),
        "roles": roles,
        "p50_ms": round(float(np.quantile(whole, 0.5)), 2),
        "p99_ms": round(float(np.quantile(whole, 0.99)), 2),
        "max_ms": round(float(whole.max()), 2),
        "model_p50_ms": round(float(np.quantile(model, 0.5)), 2),
        "model_p99_ms": round(float(np.quantile(model, 0.99)), 2),
    }


def main() -> None:
    """Print one JSON object; exit with 3 when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--questions", type=int, default=2_000)
    options = parser.parse_args()
    where = machine()
    with backlog(options.events) as found:
        settings = prepared(found)
        say(f"asking {options.questions:,} questions")
        figures = measure(settings, asked_users(found, options.questions + WARM_UP))
    sys.stdout.write(json.dumps({"machine": where, "goal_p99_ms": GOAL_P99_MS, **figures}, indent=2) + "\n")
    sys.exit(0 if figures["p99_ms"] <= GOAL_P99_MS else 3)


if __name__ == "__main__":
    main()
