"""Apache Kafka as one process: broker and KRaft controller in one, on 127.0.0.1 only."""

import base64
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stack.artifacts import Installed
from stack.errors import ServiceStartError
from stack.files import write_atomically
from stack.ports import HOST, Ports
from stack.ports import answers as port_answers
from stack.processes import Launch
from stack.service import Folders, clean_environment, java_arguments

MESSAGE_BYTES_MAX = 8 * 1024 * 1024
_MARGIN_BYTES = 64 * 1024  # a batch of one record of 8 MB has a header, too
_FORMAT_TIMEOUT_S = 60
_HEAP_MB = 512

# What holds for the broker of `compose.yaml`, too; a unit test compares them.
BROKER_SETTINGS = {
    "auto.create.topics.enable": "false",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "message.max.bytes": str(MESSAGE_BYTES_MAX + _MARGIN_BYTES),
    "replica.fetch.max.bytes": str(MESSAGE_BYTES_MAX + _MARGIN_BYTES),
    "log.retention.hours": "168",
}

# What suits one small process on a laptop only.
_LAPTOP_SETTINGS = {
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "num.recovery.threads.per.data.dir": "2",
    "log.cleaner.dedupe.buffer.size": "16777216",
    "log.cleaner.threads": "1",
    "controlled.shutdown.max.retries": "1",
    "controller.quorum.election.timeout.ms": "200",
    "controller.quorum.fetch.timeout.ms": "400",
    "delete.topic.enable": "true",
    "log.segment.delete.delay.ms": "1000",
}


@dataclass(frozen=True)
class Kafka:
    """The broker.

    Attributes:
        settings: more lines of `server.properties`; they win over ours.
        client: settings of librdkafka with which the broker can be asked whether it is well.
    """

    name: str = "kafka"
    title: str = "Kafka"
    needs_artifacts: bool = True
    start_timeout_s: float = 90.0
    stop_timeout_s: float = 30.0
    settings: Mapping[str, str] = field(default_factory=dict)
    client: Mapping[str, str] = field(default_factory=dict)

    def marker(self, folders: Folders) -> str:
        """Return the argument by which a process is known as this stack's own."""
        return f"-Dshopstream.kafka={folders.data(self.name)}"

    def address(self, ports: Ports) -> str:
        """Return host:port."""
        return f"{HOST}:{ports.kafka}"

    def prepare(self, folders: Folders, ports: Ports, installed: Installed | None) -> None:
        """Write `server.properties`, and format the storage at the very first start.

        Raises:
            ServiceStartError: the storage cannot be formatted.
        """
        properties = self._properties(folders)
        write_atomically(properties, self._text(ports))
        if (folders.data(self.name) / "log" / "meta.properties").is_file():
            return
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = [
            *self._java(folders, installed),
            "kafka.tools.StorageTool",
            "format",
            "--cluster-id",
            f"c{cluster_id[1:]}",  # a leading dash would be read as an option
            "--config",
            str(properties),
        ]
        with (folders.logs / "kafka-format.log").open("wb") as log:
            done = subprocess.run(
                command,
                cwd=folders.root,
                env=dict(clean_environment(folders)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=_FORMAT_TIMEOUT_S,
                start_new_session=True,
                check=False,
            )
        if done.returncode:
            raise ServiceStartError(
                f"Kafka's storage under {folders.data(self.name)} cannot be formatted.",
                hint=f"See {folders.logs / 'kafka-format.log'}; `shopstream stack reset` starts from nothing.",
            )

    def launch(self, folders: Folders, ports: Ports, installed: Installed | None) -> Launch:  # noqa: ARG002 - in its file
        """Tell how to start it."""
        return Launch(
            name=self.title,
            arguments=(*self._java(folders, installed), "kafka.Kafka", str(self._properties(folders))),
            marker=self.marker(folders),
            folder=folders.root,
            log=folders.logs / "kafka.log",
            environment=clean_environment(folders),
        )

    def problem(self, ports: Ports, timeout_s: float) -> str | None:
        """Ask for the cluster's metadata."""
        if not port_answers(ports.kafka, timeout_s):
            return f"nothing listens on port {ports.kafka}"
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        # log_level 0: librdkafka would report every refused connection on stderr while we are waiting
        quiet = {"log_level": 0, "socket.timeout.ms": 5_000}
        client = AdminClient({"bootstrap.servers": self.address(ports), **quiet, **self.client})
        try:
            brokers = client.list_topics(timeout=timeout_s).brokers
        except KafkaException as error:
            return f"the broker gives no metadata ({error.args[0].str()})"
        return None if brokers else "the broker is not registered yet"

    def settle(self, ports: Ports) -> None:
        """Do nothing: all settings are in the file."""

    def _properties(self, folders: Folders) -> Path:
        return folders.data(self.name) / "server.properties"

    def _java(self, folders: Folders, installed: Installed | None) -> list[str]:
        if installed is None:
            raise ServiceStartError("Kafka's files are not installed.")
        classpath = ":".join(str(path) for path in installed.kafka_classpath)
        return [
            *java_arguments(folders, self.marker(folders), _HEAP_MB),
            "-XX:MaxDirectMemorySize=128m",
            "-Djdk.nio.maxCachedBufferSize=262144",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
            "-cp",
            classpath,
        ]

    def _text(self, ports: Ports) -> str:
        own = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{ports.controller}",
            "listeners": f"PLAINTEXT://{HOST}:{ports.kafka},CONTROLLER://{HOST}:{ports.controller}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{ports.kafka}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": "kafka/log",  # relative to the process's folder: a comma or space in the home does not matter
        }
        lines = {**own, **BROKER_SETTINGS, **_LAPTOP_SETTINGS, **self.settings}
        return "".join(f"{key}={value}\n" for key, value in lines.items())
