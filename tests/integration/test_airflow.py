"""Requests to Airflow, held to Airflow's own description of its API, as its package carries it."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from openapi_schema_validator import OAS31Validator
from pydantic import SecretStr
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from bench.environment import ROOT, locked_python
from config.quality import AirflowSettings
from sinks.airflow import ALREADY_THERE, OK, AirflowSender
from sinks.retraining_requests import RetrainingRequest, Step, deliveries, request_id_of
from tests.webhook_receiver import Posted, WebhookReceiver, webhook_receiver

RUNS = "/api/v2/dags/{dag_id}/dagRuns"


@pytest.fixture(scope="module")
def description() -> Mapping[str, Any]:
    """Airflow's OpenAPI description."""
    try:
        locked_python("airflow")
    except subprocess.CalledProcessError:
        if "airflow" in os.environ.get("SHOPSTREAM_REQUIRE", "").split(","):
            raise
        pytest.skip("apache-airflow-core cannot be had: no package registry answers")
    package = "lib/*/site-packages/airflow/api_fastapi/core_api/openapi"
    (path,) = (ROOT / ".venv-airflow").glob(f"{package}/v2-rest-api*.yaml")
    found: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert found["openapi"].startswith("3.1")
    return found


@pytest.fixture
def airflow() -> Iterator[WebhookReceiver]:
    with webhook_receiver(secret="") as found:
        found.answers = [OK]
        yield found


def validator(description: Mapping[str, Any]) -> OAS31Validator:
    """Return what checks the body of a request that starts a run."""
    pointer = "#/paths/~1api~1v2~1dags~1{dag_id}~1dagRuns/post/requestBody/content/application~1json/schema"
    registry = Registry().with_resource("urn:airflow", DRAFT202012.create_resource(description))
    checker = OAS31Validator.FORMAT_CHECKER
    return OAS31Validator({"$ref": f"urn:airflow{pointer}"}, registry=registry, format_checker=checker)


def posted(airflow: WebhookReceiver, request: RetrainingRequest) -> Posted:
    """Have a request delivered, and return what arrived."""
    (delivery,) = deliveries(request, ["airflow"])
    AirflowSender(AirflowSettings(url=airflow.url(""), token=SecretStr("t")), timeout_s=10)(delivery)
    return airflow.posted[-1]


REQUESTS = [
    RetrainingRequest(
        request_id_of("drift", 1, 2), Step.REQUESTED, "drift", 1, 2, "moved",
        {"scores": {"category_id": {"psi": 0.3, "p_value": None}}, "lake_versions": {"raw_events": 3}}, 4, 4,
    ),
    RetrainingRequest(request_id_of("forced", 5, 5), Step.REQUESTED, "forced", None, None, "ü", {}, 6, 6),
]  # fmt: skip


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.cause)
def test_the_request_is_one_that_airflow_describes(
    description: Mapping[str, Any], airflow: WebhookReceiver, request_: RetrainingRequest
) -> None:
    arrived = posted(airflow, request_)
    body = json.loads(arrived.body)
    assert body["dag_run_id"] == request_.request_id
    assert body["conf"]["request_id"] == request_.request_id
    validator(description).validate(body)
    path = arrived.path.replace("shopstream_retrain", "{dag_id}")
    assert "post" in description["paths"][path]
    (schemes,) = [list(each) for each in description["paths"][path]["post"]["security"] if "HTTPBearer" in each]
    assert schemes == ["HTTPBearer"]
    assert arrived.headers["authorization"].startswith("Bearer ")


@pytest.mark.parametrize(
    ("name", "value"),
    [("logical_date", "now"), ("logical_date", ...), ("dag_run_id", 7), ("conf", []), ("cause", "drift")],
)
def test_the_description_would_notice_a_wrong_one(
    description: Mapping[str, Any], airflow: WebhookReceiver, name: str, value: Any
) -> None:
    body = json.loads(posted(airflow, REQUESTS[0]).body)
    if value is ...:
        del body[name]
    else:
        body[name] = value
    assert not validator(description).is_valid(body)


def test_the_answers_that_count_as_success_are_documented(description: Mapping[str, Any]) -> None:
    answers = description["paths"][RUNS]["post"]["responses"]
    assert {str(OK), str(ALREADY_THERE), "401", "403", "404", "422"} <= set(answers)
