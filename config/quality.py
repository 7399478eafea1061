"""The settings of gates, of alerts and of drift."""

from base64 import b64decode
from enum import StrEnum
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from config.security import contradiction
from config.services import Section


class GatePolicy(StrEnum):
    """What a violated gate does."""

    HALT = "halt"
    ALERT = "alert"
    OFF = "off"


# fields without which a feature is wrong though the event is valid; a purchase without a price is no valid event at all
_CRITICAL: Final = ["click.product_id", "click.category_id", "add.category_id", "purchase.category_id"]


class GateSettings(Section):
    """What the data must be like; a violation halts the view of the topic."""

    window_ms: int = Field(300_000, ge=1_000, description="gates look at the last so many ms of event time")
    min_count: int = Field(500, ge=1, description="fewer records in the window are not judged")
    freshness_policy: GatePolicy = Field(GatePolicy.HALT, description="when all that arrives is too old")
    freshness_max_ms: int = Field(3_600_000, ge=1_000, description="the newest events may be so old when they arrive")
    null_policy: GatePolicy = Field(GatePolicy.HALT, description="when critical fields are empty")
    null_share_max: float = Field(0.01, gt=0, le=1, description="share of events whose critical field may be empty")
    critical_fields: list[str] = Field(_CRITICAL, description="kind.field of each field that must not be empty")
    schema_policy: GatePolicy = Field(GatePolicy.ALERT, description="when an unexpected writer schema appears")
    expected_schemas: list[str] = Field(
        [], description="SHA-256 fingerprints of writer schemas that are expected beside those of this release"
    )
    reference_policy: GatePolicy = Field(GatePolicy.HALT, description="when ids are not in the reference tables")
    unresolved_share_max: float = Field(
        0.01, gt=0, le=1, description="share of the ids that may be unknown for longer than the grace period"
    )
    new_share_max: float = Field(0.2, gt=0, le=1, description="share of the ids that may be unknown, new ones included")
    grace_ms: int = Field(86_400_000, ge=0, description="an id may be missing in its table for so long")


def _check_url(name: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole:  # not repeated: it may hold a password
        raise contradiction(f"{name} is not a URL that begins with http:// or https:// and names a host")


def _is_signing_key(secret: str) -> bool:
    text = secret.removeprefix("whsec_")
    try:
        key = b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return False
    return 24 <= len(key) <= 64


class AlertSettings(Section):
    """Who is told when a gate halts a view, and when a retraining is asked for."""

    webhook_url: str = Field("", description="URL that alerts are posted to; none if unset")
    webhook_secret: SecretStr = Field(SecretStr(""), description="whsec_...: key of the Standard Webhooks signature")
    allow_private: bool = Field(default=False, description="whether a webhook may be at a private address")
    attempts: int = Field(5, ge=1, description="tries in a row of one delivery; then it waits in the outbox")
    timeout_s: float = Field(10.0, gt=0, description="how long an answer may take")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.webhook_url:
            _check_url("alerts.webhook_url", self.webhook_url)
            secret = self.webhook_secret.get_secret_value()
            if not secret:
                raise contradiction("alerts.webhook_url is set, but alerts.webhook_secret is not")
            if not _is_signing_key(secret):
                raise contradiction(
                    "alerts.webhook_secret is no key of Standard Webhooks: whsec_ and 24 to 64 bytes in base64"
                )
            if not self.webhook_url.startswith("https://") and not self.allow_private:
                raise contradiction("alerts.webhook_url must begin with https:// unless alerts.allow_private is set")
        return self


class DriftSettings(Section):
    """When the data is no longer what the model was trained on."""

    is_watched: bool = Field(
        default=True, description="whether a worker runs the watch once there is something to watch"
    )
    check_interval_s: float = Field(30.0, gt=0, description="time between two looks of whoever watches")
    nice: int = Field(
        10, ge=0, le=19, description="how far whoever watches gives way to other processes, the worker too"
    )
    label_kind: str = Field("click", description="kind of the events whose features are compared")
    window_ms: int = Field(3_600_000, ge=60_000, description="event time of one window")
    sample_rows: int = Field(5_000, ge=100, description="most events of a window that are looked at")
    user_rows: int = Field(5, ge=1, description="most events of one user among them, so that no bot looks like drift")
    min_rows: int = Field(200, ge=50, description="a window with fewer events is not judged")
    lateness_ms: int = Field(600_000, ge=0, description="a window is judged once events are this much younger")
    alarm_budget: float = Field(0.01, gt=0, lt=1, description="share of stationary windows that may alarm")
    effect_floor: float = Field(0.1, gt=0, description="PSI below which a change is too small to matter")
    windows_in_row: int = Field(
        3, ge=1, description="windows in a row, an alarm and what confirms it, for a retraining"
    )
    cooldown_ms: int = Field(86_400_000, ge=0, description="event time between two requests for the same cause")
    give_up_ms: int = Field(
        172_800_000, ge=60_000, description="a step of a retraining that nothing follows for so long counts as failed"
    )


class AirflowSettings(Section):
    """The Airflow that runs retrainings; none if no URL is set."""

    url: str = Field("", description="base URL of Airflow 3's API server")
    dag_id: str = Field("shopstream_retrain", min_length=1, description="DAG that is run, with the request's id")
    token: SecretStr = Field(SecretStr(""), description="bearer token of its API")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.url:
            _check_url("airflow.url", self.url)
        return self


class TrainingSettings(Section):
    """Models, and what one must prove."""

    mode: str = Field("as_served", pattern="^as_(served|corrected)$", description="features of sets and drift windows")
    runner: str = Field("none", pattern="^(none|local)$", description="local: the worker's machine trains on request")
    tracking_uri: str = Field("", description="MLflow tracking server; SQLite file under <home>/mlflow if unset")
    artefacts: Path = Field(Path(), description="folder of model files; <home>/models if unset")
    history_ms: int = Field(14 * 86_400_000, ge=3_600_000, description="event time that a model is trained on")
    holdout_share: float = Field(0.2, gt=0, lt=0.9, description="last share of that time, which models are compared on")
    min_events: int = Field(1_000, ge=10, description="interactions below which nothing is trained")
    queries_max: int = Field(16_000, ge=400, description="interactions that a model learns from and is compared on")
    min_gain: float = Field(0.0, ge=0, description="NDCG@10 by which a challenger must win, beyond noise")
    slice_loss_max: float = Field(0.05, ge=0, description="NDCG@10 that a challenger may lose in a slice")
    hit_rate_floor: float = Field(0.01, ge=0, le=1, description="hit rate at 10 below which no model is taken")
    latency_max_ms: float = Field(50.0, gt=0, description="p99 of scoring above which no model is taken")


class RolloutSettings(Section):
    """How a model that has proved itself comes to serve everybody."""

    canary_share: float = Field(0.1, gt=0, le=1, description="share of the users who get a canary")
    min_impressions: int = Field(1_000, ge=1, description="of a canary, before it can be promoted")
    click_through_loss_max: float = Field(0.1, gt=0, lt=1, description="relative loss at which a canary is rolled back")
    error_share_max: float = Field(0.01, ge=0, le=1, description="share of failed answers at which it is rolled back")
    latency_p99_max_ms: float = Field(
        50.0, gt=0, description="p99 of its time for an answer above which it is rolled back"
    )
    attribution_ms: int = Field(1_800_000, ge=1_000, description="a click counts for a recommendation for so long")
    error_chance: float = Field(0.05, gt=0, lt=0.5, description="chance that a guard ever decides wrongly, by its test")
    max_impressions: int = Field(
        200_000, ge=1, description="of a canary; one that has not shown by then that it is no worse is rolled back"
    )
    canary_timeout_ms: int = Field(200, ge=1, description="a canary that takes longer is answered for by the champion")
    reload_interval_ms: int = Field(5_000, ge=50, description="time between two looks for models with another role")
    flush_interval_ms: int = Field(2_000, ge=50, description="longest time that the record of an answer is in memory")
    buffer_rows_max: int = Field(
        100_000, ge=1, description="records of answers not yet in the lake at which further ones are dropped"
    )
