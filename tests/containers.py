"""The same three services from container images, for machines where Docker's engine answers."""

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from stack.embedded import Endpoints
from stack.kafka import BROKER_SETTINGS
from stack.ports import Ports
from stack.redis import SERVER_SETTINGS
from stack.registry import API_PATH, Registry

REGISTRY_IMAGE = "apicurio/apicurio-registry:3.3.3"
REDIS_IMAGE = "valkey/valkey:8-alpine"
_REGISTRY_PORT = 8080


def wanted() -> bool:
    """Tell whether this run asks for containers."""
    return os.environ.get("SHOPSTREAM_TEST_STACK") == "containers"


def engine_problem() -> str | None:
    """Ask Docker's engine, not a client on the PATH, whether it is there; None if it answers."""
    from docker.errors import DockerException  # type: ignore[import-untyped]
    from testcontainers.core.docker_client import DockerClient

    with warnings.catch_warnings():
        # docker's client leaves the socket unclosed when nobody listens at its other end
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            DockerClient().client.ping()
        except (DockerException, OSError) as error:
            problem = f"Docker's engine does not answer: {error}"
        else:
            return None
        gc.collect()
    return problem


@contextmanager
def container_stack() -> Iterator[Endpoints]:
    """Start the three containers, and remove them at the end."""
    from testcontainers.community.kafka import KafkaContainer
    from testcontainers.community.redis import RedisContainer
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import HttpWaitStrategy

    kafka = KafkaContainer().with_kraft()
    for key, value in BROKER_SETTINGS.items():
        kafka = kafka.with_env("KAFKA_" + key.upper().replace(".", "_"), value)
    arguments = " ".join(f"--{key} {value}" for key, value in SERVER_SETTINGS.items())
    redis = RedisContainer(REDIS_IMAGE).with_command(f"valkey-server {arguments}")
    registry = (
        DockerContainer(REGISTRY_IMAGE)
        .with_exposed_ports(_REGISTRY_PORT)
        .waiting_for(HttpWaitStrategy(_REGISTRY_PORT, f"{API_PATH}/config").for_status_code(200))
    )
    with kafka, redis, registry:
        registry_host, registry_port = registry.get_container_host_ip(), registry.get_exposed_port(_REGISTRY_PORT)
        Registry().settle(Ports(registry=int(registry_port)))
        yield Endpoints(
            kafka=kafka.get_bootstrap_server(),
            registry=f"http://{registry_host}:{registry_port}{API_PATH}",
            redis=f"redis://{redis.get_container_host_ip()}:{redis.get_exposed_port(6379)}/0",
        )
