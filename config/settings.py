"""The settings of every process, and where each value came from.

Precedence, lowest first: defaults, the running embedded stack (`<home>/stack/endpoints.json`), `shopstream.toml`,
`SHOPSTREAM_*` variables (nested with `__`, for example `SHOPSTREAM_REDIS__URL`), flags.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource
from pydantic_settings.exceptions import SettingsError as SourceError

from config.definition import versioned
from config.errors import SettingsError
from config.lake import LakeSettings
from config.privacy import PrivacySettings
from config.quality import (
    AirflowSettings,
    AlertSettings,
    DriftSettings,
    GateSettings,
    RolloutSettings,
    TrainingSettings,
)
from config.security import shown
from config.services import KafkaSettings, RedisSettings, RegistrySettings, Section

SETTINGS_FILE = "shopstream.toml"
ENDPOINTS_FILE = Path("stack") / "endpoints.json"

# Feast and its dependencies report usage unless told otherwise; import of this module settles it for every process.
os.environ.setdefault("FEAST_USAGE", "False")


class ProducerSettings(Section):
    """The client that publishes events."""

    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field("lz4", description="compression of batches")
    linger_ms: int = Field(5, ge=0, le=60_000, description="how long a batch waits for more events")


class FeastSettings(Section):
    """The feature store."""

    project: str = Field("shopstream", pattern=r"^[a-z][a-z0-9_]*$", description="Feast project, part of every key")
    registry_path: Path = Field(Path(), description="SQLite file of the registry; <home>/feast/registry.db if unset")


class WorkerSettings(Section):
    """The stream worker."""

    group_id: Annotated[str, AfterValidator(partial(versioned, joint="-"))] = Field(
        "shopstream-features",
        min_length=1,
        validate_default=True,
        description="Kafka consumer group; -v2 is added for definition version 2",
    )
    instance_id: str = Field("", description="static group membership: a stable name per worker; empty for dynamic")
    flush_interval_ms: int = Field(2_000, ge=50, description="longest time between two flushes to the lake")
    flush_rows: int = Field(50_000, ge=1, description="rows that start a flush before its time")
    buffer_rows_max: int = Field(200_000, ge=1, description="rows not yet in the lake at which reading pauses")
    buffer_bytes_max: int = Field(
        268_435_456, ge=1, description="bytes of records not yet in the lake at which reading pauses"
    )
    cache_users: int = Field(200_000, ge=1, description="states held in memory, per topic")
    batch_records: int = Field(2_000, ge=1, description="most records of one partition in one batch")
    linger_ms: int = Field(20, ge=0, le=1_000, description="pause after a small fetch, so that a trickle gathers")
    session_timeout_ms: int = Field(6_000, ge=1_000, description="Kafka group session timeout")
    sink_attempts: int = Field(8, ge=1, description="tries of a sink before the worker stops")
    commit_timeout_s: float = Field(60.0, gt=0, description="a commit pending for longer stops the worker")
    stall_timeout_s: float = Field(180.0, gt=0, description="lag without progress for longer stops the worker")
    stop_timeout_s: float = Field(30.0, gt=0, description="a stop that takes longer is cut short")
    log_check_interval_s: float = Field(10.0, gt=0, description="time between two looks for recreated or grown topics")
    brake_records: int = Field(1_000, ge=1, description="newest records of a partition that the brake looks at")
    brake_share: float = Field(
        0.5, gt=0, le=1, description="dead letters among them above which the partition stops; 1 for never"
    )
    probe_cpu_s: float = Field(2.0, gt=0, description="CPU time for one record where earlier workers died")
    probe_memory_mb: int = Field(512, ge=16, description="memory for one record where earlier workers died")
    metrics_host: str = Field("127.0.0.1", description="address of the Prometheus endpoint")
    metrics_port: int = Field(0, ge=0, le=65_535, description="port of the Prometheus endpoint; 0 for a free one")


class EventSettings(Section):
    """What an event may be."""

    message_bytes_max: int = Field(1_000_000, ge=1_000, description="a larger record becomes a dead letter")
    message_values_max: int = Field(
        10_000, ge=4_096, description="a record of more values, items of its arrays and maps included, becomes one, too"
    )
    future_tolerance_ms: int = Field(300_000, ge=0, description="event time may pass the append time by this much")
    letter_value_bytes_max: int = Field(65_536, ge=0, description="original bytes kept in the dead letter topic")


class ServingSettings(Section):
    """Readers of fresh features."""

    stale_after_ms: int = Field(3_600_000, ge=1, description="a view not written for longer is STALE")
    served_share: float = Field(0.01, ge=0, le=1, description="share of the answers kept in `served`; 0 for none")
    served_flush_interval_ms: int = Field(10_000, ge=50, description="longest time that a kept answer waits in memory")
    served_buffer_rows_max: int = Field(
        10_000, ge=1, description="kept answers not yet in the lake at which further ones are dropped"
    )
    push_allowance_ms: int = Field(
        2_000, ge=0, description="skew: an event appended so shortly before a read need not be in its answer"
    )


class Settings(BaseSettings):
    """Everything that can be set. With nothing set, all runs on the embedded stack under `.shopstream/`."""

    model_config = SettingsConfigDict(
        env_prefix="SHOPSTREAM_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        toml_file=SETTINGS_FILE,
        hide_input_in_errors=True,
    )

    home: Path = Field(Path(".shopstream"), description="data, logs and pids of the embedded stack, and the lake")
    cache_dir: Path = Field(Path("~/.cache/shopstream"), description="downloaded artefacts of the embedded stack")
    kafka: KafkaSettings = KafkaSettings()
    producer: ProducerSettings = ProducerSettings()
    registry: RegistrySettings = RegistrySettings()
    redis: RedisSettings = RedisSettings()
    lake: LakeSettings = LakeSettings()
    feast: FeastSettings = FeastSettings()
    worker: WorkerSettings = WorkerSettings()
    events: EventSettings = EventSettings()
    serving: ServingSettings = ServingSettings()
    privacy: PrivacySettings = PrivacySettings()
    gates: GateSettings = GateSettings()
    alerts: AlertSettings = AlertSettings()
    drift: DriftSettings = DriftSettings()
    airflow: AirflowSettings = AirflowSettings()
    training: TrainingSettings = TrainingSettings()
    rollout: RolloutSettings = RolloutSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings' signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings' signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Name the sources, highest precedence first."""
        toml = TomlConfigSettingsSource(settings_cls)
        above = (init_settings, env_settings, toml)
        return (*above, _EmbeddedStackSource(settings_cls, above))

    @property
    def lake_path(self) -> Path:
        """Folder of the Delta tables, absolute; `sinks.lake_root.lake_of` tells where any lake is.

        Raises:
            SettingsError: the lake is in an object store.
        """
        if self.lake.s3_address:
            raise SettingsError(
                f"This needs a lake in a local folder, and lake.path is {self.lake.s3_address}.",
                hint="See docs/how-to/keep-the-lake-on-s3.md for what works there.",
            )
        folder = Path(self.lake.path)
        return (folder if folder != Path() else self.home / "lake").absolute()

    @property
    def feast_registry_path(self) -> Path:
        """SQLite file of Feast's registry, absolute."""
        configured = self.feast.registry_path
        return (configured if configured != Path() else self.home / "feast" / "registry.db").absolute()

    def require(self, *services: str) -> Self:
        """Check that each service (`kafka`, `registry`, `redis`) has an address.

        Raises:
            SettingsError: one has none; it says how to give it one.
        """
        addresses = {
            "kafka": self.kafka.bootstrap_servers,
            "registry": self.registry.url,
            "redis": self.redis.url.get_secret_value(),
        }
        missing = [name for name in services if not addresses[name]]
        if missing:
            raise SettingsError(
                f"No address is set for {' and '.join(missing)}, and no embedded stack runs under {self.home}.",
                hint="Start one with `shopstream stack up`, or set kafka.bootstrap_servers, registry.url and redis.url "
                f"in {SETTINGS_FILE}.",
            )
        return self


class _EmbeddedStackSource(PydanticBaseSettingsSource):
    """Addresses of the stack that runs under `home`, so that nothing needs to be set on a laptop."""

    def __init__(self, settings_cls: type[BaseSettings], above: tuple[PydanticBaseSettingsSource, ...]) -> None:
        super().__init__(settings_cls)
        self._above = above

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return None, field_name, False  # values are given all at once by __call__

    def __call__(self) -> dict[str, Any]:
        homes = [values["home"] for values in (source() for source in self._above) if "home" in values]
        home = Path(homes[0]) if homes else Settings.model_fields["home"].default
        path = home / ENDPOINTS_FILE
        if not path.is_file():
            return {}
        try:
            endpoints = json.loads(path.read_text())
            fields = {"kafka": "bootstrap_servers", "registry": "url", "redis": "url"}  # those that are not the user's
            return {name: {field: str(endpoints[name])} for name, field in fields.items() if name in endpoints}
        except (ValueError, TypeError) as error:
            raise SettingsError(
                f"{path} does not name the services of the embedded stack ({error!r}).",
                hint="Run `shopstream stack up` again: it mends a half-dead stack.",
            ) from error


@dataclass(frozen=True)
class SettingOrigin:
    """One effective setting.

    Attributes:
        key: dotted name, for example `worker.group_id`.
        value: its value as text; secrets are masked.
        origin: `default`, `embedded stack`, `shopstream.toml`, `environment` or `flag`.
    """

    key: str
    value: str
    origin: str


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings of this process.

    Args:
        overrides: values given by flags, nested as in the file.

    Raises:
        SettingsError: a file, variable or flag holds something unusable; it names the key and the origin.
    """
    try:
        return Settings(**(overrides or {}))
    except ValidationError as error:
        problems = "; ".join(
            e["msg"] if e["type"] == "contradiction" else f"{'.'.join(map(str, e['loc']))}: {e['msg']}"
            for e in error.errors(include_input=False)
        )
        raise SettingsError(f"A setting cannot be used: {problems}.", hint="See docs/reference/settings.md.") from error
    except (SourceError, ValueError) as error:  # a broken TOML file is a ValueError
        raise SettingsError(f"{SETTINGS_FILE} or a SHOPSTREAM_* variable cannot be read: {error}.") from error


def setting_origins(settings: Settings, overrides: Mapping[str, Any] | None = None) -> list[SettingOrigin]:
    """Tell the origin of each effective value, in the order of the settings; secrets are masked."""
    init, env, toml, embedded = Settings.settings_customise_sources(
        Settings,
        *(_sources(overrides or {})),
    )
    layers = [("flag", init()), ("environment", env()), (SETTINGS_FILE, toml()), ("embedded stack", embedded())]
    given = [(origin, dict(_flatten(values))) for origin, values in layers]
    rows = []
    for key, value in _flatten(settings.model_dump()):
        origin = next((name for name, values in given if key in values), "default")
        rows.append(SettingOrigin(key, shown(value), origin))
    return rows


def _sources(overrides: Mapping[str, Any]) -> tuple[PydanticBaseSettingsSource, ...]:
    from pydantic_settings import EnvSettingsSource, InitSettingsSource

    init = InitSettingsSource(Settings, dict(overrides))
    env = EnvSettingsSource(Settings)
    return init, env, env, env  # the last two are not read


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def as_environment(settings: Settings) -> dict[str, str]:
    """Return the variables that give a child process these settings; secrets stay off its command line."""
    defaults = dict(_flatten(Settings.model_construct().model_dump()))
    changed = {key: value for key, value in _flatten(settings.model_dump()) if value != defaults[key]}
    return {f"SHOPSTREAM_{key.upper().replace('.', '__')}": _as_text(value) for key, value in changed.items()}


def _as_text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, list) else str(value)
