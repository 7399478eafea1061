"""Apicurio Registry with its Confluent-compatible API, on 127.0.0.1, its schemas in a file."""

import json
from dataclasses import dataclass
from typing import Any

from stack.artifacts import REGISTRY_JAR, Installed
from stack.errors import ServiceStartError
from stack.ports import HOST, Ports
from stack.processes import Launch
from stack.service import Folders, clean_environment, java_arguments

API_PATH = "/apis/ccompat/v7"
COMPATIBILITY = "BACKWARD_TRANSITIVE"
_HEAP_MB = 256
_CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
_PROBE = "shopstream.probe-value"


@dataclass(frozen=True)
class Registry:
    """The schema registry."""

    name: str = "registry"
    title: str = "the schema registry"
    needs_artifacts: bool = True
    start_timeout_s: float = 90.0
    stop_timeout_s: float = 20.0

    def marker(self, folders: Folders) -> str:
        """Return the argument by which a process is known as this stack's own."""
        return f"-Dshopstream.registry={folders.data(self.name)}"

    def address(self, ports: Ports) -> str:
        """Return the base URL of the Confluent-compatible API."""
        return f"http://{HOST}:{ports.registry}{API_PATH}"

    def prepare(self, folders: Folders, ports: Ports, installed: Installed | None) -> None:  # noqa: ARG002 - Service
        """Make the folder of the database."""
        folders.data(self.name).mkdir(parents=True, exist_ok=True)

    def launch(self, folders: Folders, ports: Ports, installed: Installed | None) -> Launch:
        """Tell how to start it."""
        if installed is None:
            raise ServiceStartError("The schema registry's files are not installed.")
        environment = {
            **clean_environment(folders),
            "QUARKUS_HTTP_HOST": HOST,
            "QUARKUS_HTTP_PORT": str(ports.registry),
            # its health endpoint would otherwise take port 9000 of every interface
            "QUARKUS_MANAGEMENT_HOST": HOST,
            "QUARKUS_MANAGEMENT_PORT": "0",
            "QUARKUS_OTEL_SDK_DISABLED": "true",
            "APICURIO_USAGE_TELEMETRY_ENABLED": "false",
            "QUARKUS_HTTP_ACCESS_LOG_ENABLED": "false",
            "QUARKUS_LOG_CATEGORY__IO_APICURIO__LEVEL": "WARN",
            "QUARKUS_LOG_CONSOLE_FORMAT": "%d{yyyy-MM-dd HH:mm:ss,SSS} %p [%c] %s%e%n",
            "APICURIO_DATASOURCE_JDBC_INITIAL_SIZE": "2",
            "APICURIO_DATASOURCE_JDBC_MIN_SIZE": "2",
            "APICURIO_DATASOURCE_JDBC_MAX_SIZE": "20",
            "APICURIO_STORAGE_KIND": "sql",
            "APICURIO_STORAGE_SQL_KIND": "h2",
            # WRITE_DELAY=0: an id that was given out is on disk, even if the process is killed right after. The path
            # is relative to the process's folder: a semicolon in the home does not matter.
            "APICURIO_DATASOURCE_URL": "jdbc:h2:file:./registry/schemas;WRITE_DELAY=0",
        }
        return Launch(
            name=self.title,
            arguments=(
                *java_arguments(folders, self.marker(folders), _HEAP_MB),
                "-jar",
                str(installed.registry_folder / REGISTRY_JAR),
            ),
            marker=self.marker(folders),
            folder=folders.root,
            log=folders.logs / "registry.log",
            environment=environment,
        )

    def problem(self, ports: Ports, timeout_s: float) -> str | None:
        """Ask for the global compatibility level."""
        import httpx

        try:
            answer = httpx.get(f"{self.address(ports)}/config", timeout=timeout_s, trust_env=False)
        except httpx.HTTPError as error:
            return f"no answer on port {ports.registry} ({type(error).__name__})"
        return None if answer.status_code == httpx.codes.OK else f"it answers {answer.status_code}"

    def settle(self, ports: Ports) -> None:
        """Set the global rule BACKWARD_TRANSITIVE, and see a bad schema refused the first time.

        Raises:
            ServiceStartError: the rule cannot be set, or a schema that breaks it is accepted.
        """
        import httpx

        headers = {"Content-Type": _CONTENT_TYPE}
        with httpx.Client(base_url=self.address(ports), headers=headers, timeout=30, trust_env=False) as client:
            try:
                if client.get("/config").json().get("compatibilityLevel") == COMPATIBILITY:
                    return
                _prove_refusal(client)
            except (httpx.HTTPError, ValueError) as error:
                raise ServiceStartError(
                    f"The schema registry's compatibility rule cannot be set ({type(error).__name__}).",
                    hint="See `shopstream stack status` and the registry's log.",
                ) from error


def _prove_refusal(client: Any) -> None:
    """Set the rule, and take it back if it does not refuse a schema with which old records could not be read."""
    client.put("/config", json={"compatibility": COMPATIBILITY}).raise_for_status()
    _delete_probe(client)  # left behind by a start that was killed right here
    answers = [
        client.post(f"/subjects/{_PROBE}/versions", json={"schema": _probe_schema(field)}) for field in ("a", "b")
    ]
    _delete_probe(client)
    if [answer.is_error for answer in answers] != [False, True]:
        client.put("/config", json={"compatibility": "NONE"})  # so that the next start proves it again
        raise ServiceStartError(
            f"The schema registry does not hold {COMPATIBILITY}: it answered {answers[0].status_code} to a good "
            f"schema and {answers[1].status_code} to one that breaks it; records could become unreadable.",
            hint="Look into the registry's log under the stack's folder.",
        )


def _delete_probe(client: Any) -> None:
    for permanent in ("false", "true"):
        client.delete(f"/subjects/{_PROBE}", params={"permanent": permanent})


def _probe_schema(field: str) -> str:
    return json.dumps({"type": "record", "name": "Probe", "fields": [{"name": field, "type": "string"}]})
