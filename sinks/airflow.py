"""Retrainings that Airflow runs: one DAG run per request, which has the request's id, through Airflow 3's REST API."""

import json
from typing import Any, Final
from urllib.parse import quote

import httpx

from config.quality import AirflowSettings
from sinks.errors import DeliveryRefusedError, NotDeliveredError
from sinks.outbox import Delivery
from sinks.posting import TRY_AGAIN, Answer, place_of, post

OK: Final = 200
ALREADY_THERE: Final = 409
_INVALID: Final = 422
_WHAT_TO_MEND: Final = {
    400: "Look at the DAG in Airflow: import errors, and what it says about its parameters.",
    401: "Check airflow.token; it may have expired.",
    403: "Let the user of airflow.token start runs of the DAG.",
    404: "Deploy the DAG, or correct airflow.dag_id and airflow.url.",
}


def dag_run(run_id: str, conf: dict[str, Any]) -> dict[str, Any]:
    """Return the body that asks for a run; without a logical date, because the run belongs to no interval."""
    return {"dag_run_id": run_id, "logical_date": None, "conf": conf}


def runs_path(dag_id: str) -> str:
    """Return the path of a DAG's runs."""
    return f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns"


class AirflowSender:
    """Starts DAG runs for deliveries of kind `airflow`: their id is the run's, their payload its configuration.

    A run that is there already is what was asked for: the id is the request's.
    """

    def __init__(self, settings: AirflowSettings, *, timeout_s: float) -> None:
        self._url = httpx.URL(settings.url.rstrip("/") + runs_path(settings.dag_id))
        self._dag_id = settings.dag_id
        self._token = settings.token
        self._timeout_s = timeout_s

    def __call__(self, delivery: Delivery) -> None:
        """Start the run.

        Raises:
            NotDeliveredError: Airflow did not start it; try again later.
            DeliveryRefusedError: Airflow cannot read what we ask.
        """
        token = self._token.get_secret_value()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        body = json.dumps(dag_run(delivery.id, dict(delivery.payload))).encode()
        self._judge(post(self._url, body, {"Accept": "application/json", **headers}, timeout_s=self._timeout_s))

    def _judge(self, answer: Answer) -> None:
        if answer.status in {OK, ALREADY_THERE}:
            return
        said = f"Airflow at {place_of(self._url)} answered {answer.status} for DAG {self._dag_id}: {answer.text}"
        if answer.status == _INVALID:
            raise DeliveryRefusedError(said, hint="Is it Airflow 3? Then run `shopstream alerts retry`.")
        if 300 <= answer.status < 500 and answer.status not in TRY_AGAIN:
            hint = _WHAT_TO_MEND.get(answer.status, "Check airflow.url.")
            raise NotDeliveredError(said, hint=hint, is_passing=False)
        raise NotDeliveredError(said, hint="Look at the log of Airflow's API server.")
