"""What Airflow's answers mean for a request; the requests themselves are held to its own description elsewhere."""

import json
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from config.quality import AirflowSettings
from sinks.airflow import AirflowSender
from sinks.errors import DeliveryRefusedError, NotDeliveredError
from sinks.outbox import Delivery
from stack.ports import free_port
from tests.webhook_receiver import WebhookReceiver, webhook_receiver

DELIVERY = Delivery("retrain-drift-1717700400000-fcfeac79", "airflow", {"cause": "drift", "evidence": {"psi": 0.3}}, 0)


@pytest.fixture
def airflow() -> Iterator[WebhookReceiver]:
    with webhook_receiver(secret="") as found:
        yield found


def sender(url: str, dag_id: str = "shopstream_retrain") -> AirflowSender:
    return AirflowSender(AirflowSettings(url=url, dag_id=dag_id, token=SecretStr("tok-secret")), timeout_s=10)


def test_a_run_has_the_id_of_the_request(airflow: WebhookReceiver) -> None:
    airflow.answers = [200]
    sender(airflow.url("/deployed/"), "a dag/ü")(DELIVERY)
    (posted,) = airflow.posted
    assert posted.path == "/deployed/api/v2/dags/a%20dag%2F%C3%BC/dagRuns"
    assert posted.headers["authorization"] == "Bearer tok-secret"
    assert json.loads(posted.body) == {
        "dag_run_id": "retrain-drift-1717700400000-fcfeac79",
        "logical_date": None,
        "conf": {"cause": "drift", "evidence": {"psi": 0.3}},
    }


def test_one_that_is_there_already_is_what_was_asked_for(airflow: WebhookReceiver) -> None:
    airflow.answers = [409]
    sender(airflow.url(""))(DELIVERY)


@pytest.mark.parametrize(
    ("status", "what_to_do"),
    [
        (301, "airflow.url"),
        (400, "import errors"),
        (401, "airflow.token"),
        (403, "airflow.token"),
        (404, "airflow.dag_id"),
        (405, "airflow.url"),
    ],
)
def test_what_a_person_must_mend_waits(airflow: WebhookReceiver, status: int, what_to_do: str) -> None:
    airflow.answers = [status]
    with pytest.raises(NotDeliveredError, match=f"answered {status} for DAG shopstream_retrain") as failure:
        sender(airflow.url(""))(DELIVERY)
    assert not failure.value.is_passing
    assert what_to_do in failure.value.hint
    assert "tok-secret" not in str(failure.value)


@pytest.mark.parametrize("status", [204, 408, 429, 500, 502, 503])
def test_what_may_pass_is_tried_again(airflow: WebhookReceiver, status: int) -> None:
    airflow.answers = [status]
    with pytest.raises(NotDeliveredError) as failure:
        sender(airflow.url(""))(DELIVERY)
    assert failure.value.is_passing


def test_what_airflow_cannot_read_is_refused(airflow: WebhookReceiver) -> None:
    airflow.answers = [422]
    with pytest.raises(DeliveryRefusedError, match="answered 422"):
        sender(airflow.url(""))(DELIVERY)


def test_an_airflow_that_is_down_is_tried_again() -> None:
    with pytest.raises(NotDeliveredError, match="does not answer") as failure:
        sender(f"http://127.0.0.1:{free_port(set())}")(DELIVERY)
    assert failure.value.is_passing
