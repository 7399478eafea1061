"""The Faust app: one agent per event topic on the batch transport, and the background task that flushes and commits."""

import asyncio
import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import faust
from faust.types import StreamT
from mode import Service

from config.settings import Settings
from schemas.event import EVENT_TOPICS
from streams.credentials import broker_credentials
from streams.endpoint import MetricsEndpoint
from streams.gate_alerts import GateAlerts
from streams.ownership import PartitionOwner
from streams.ports import Batch
from streams.transport import BatchConsumer, BatchTransport
from streams.watchdog import LoopWatchdog, arm_hard_exit
from streams.watching import DriftWatch

logger = logging.getLogger(__name__)

HOUSEKEEPING_INTERVAL_S = 0.1


class BatchSchema(faust.Schema):
    """A message's value is a sequence of batches already; there is nothing to load."""

    def loads_key(self, app: Any, message: Any, **_: Any) -> None:
        """Return nothing: keys are the records' own."""

    def loads_value(self, app: Any, message: Any, **_: Any) -> Sequence[Batch]:  # noqa: ARG002 - Faust's signature
        """Return the batches."""
        return message.value  # type: ignore[no-any-return]


class FeatureApp(faust.App):
    """A Faust app whose consumer delivers batches and commits what `ownership` says.

    Args:
        settings: broker, group and worker settings.
        ownership: is told about partitions, and asked what to commit.
        endpoint: serves the metrics while the app runs.
        drift_watch: runs beside the app; None for none.
        alerts: are delivered while the app runs; None for none.
    """

    def __init__(
        self,
        settings: Settings,
        ownership: PartitionOwner,
        endpoint: MetricsEndpoint,
        drift_watch: DriftWatch | None = None,
        alerts: GateAlerts | None = None,
    ) -> None:
        self.ownership = ownership
        self._endpoint = endpoint
        self._drift_watch = drift_watch
        self._alerts = alerts
        self.linger_s = settings.worker.linger_ms / 1000
        self._stop_timeout_s = settings.worker.stop_timeout_s
        worker = settings.worker
        self._watchdog = LoopWatchdog(worker.stall_timeout_s)
        super().__init__(
            worker.group_id,
            broker=[f"kafka://{server}" for server in settings.require("kafka").kafka.bootstrap_servers.split(",")],
            broker_credentials=broker_credentials(settings.kafka),
            store="memory://",
            web_enabled=False,  # Faust's server binds 0.0.0.0 and shows tables
            topic_disable_leader=True,
            topic_allow_declare=False,
            table_standby_replicas=0,
            producer_threaded=False,
            stream_wait_empty=True,
            stream_buffer_maxsize=16,
            broker_max_poll_records=worker.batch_records,
            broker_session_timeout=worker.session_timeout_ms / 1000,
            broker_heartbeat_interval=max(0.1, worker.session_timeout_ms / 6000),
            broker_commit_interval=3600.0,  # commits follow flushes, not a timer
            consumer_auto_offset_reset="earliest",
            consumer_group_instance_id=worker.instance_id or None,
            worker_redirect_stdouts=False,
        )
        for topic in EVENT_TOPICS:
            self._add_agent(topic)
        self.service(self._housekeeping())

    @property
    def batch_consumer(self) -> BatchConsumer:
        """Return the running consumer."""
        consumer: BatchConsumer = self.consumer
        return consumer

    async def on_start(self) -> None:
        """Serve metrics from the start, and keep the collector off what lives for ever."""
        self._endpoint.start()
        self._watchdog.start()
        if self._drift_watch is not None:
            self._drift_watch.start()
        if self._alerts is not None:
            self._alerts.start()
        gc.collect()
        gc.freeze()
        await super().on_start()

    async def on_stop(self) -> None:
        """Give the partitions back; a stop that hangs is cut short, since what is not committed is read again."""
        arm_hard_exit(self._stop_timeout_s, lambda: self.ownership.failure)
        self._watchdog.stop()
        if self._drift_watch is not None:
            self._drift_watch.ask_to_stop()
        await super().on_stop()
        self._endpoint.stop()
        if self._drift_watch is not None:
            await asyncio.to_thread(self._drift_watch.stop)
        if self._alerts is not None:
            await asyncio.to_thread(self._alerts.close)

    def _create_directories(self) -> None:
        """Create none: Faust keeps no table and no state here."""

    def _new_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_consumer, self)

    def _add_agent(self, topic: str) -> None:
        async def consume(stream: StreamT[Sequence[Batch]]) -> None:
            async for batches in stream:
                try:
                    await self.ownership.loop.process(batches)
                finally:
                    self.batch_consumer.batches_done(batches)

        channel = self.topic(topic, schema=BatchSchema(), acks=False)
        self.agent(channel, name=topic)(consume)

    def _housekeeping(self) -> type[Service]:
        app = self

        class Housekeeping(Service):
            """Flushes, commits, resumes and watches while the app runs."""

            @Service.task
            async def _flush_and_commit(self) -> None:
                while not self.should_stop:
                    await self.sleep(HOUSEKEEPING_INTERVAL_S)
                    with app._stopping_on_failure():
                        if await app.ownership.flush_if_due():
                            await app.batch_consumer.commit()

            @Service.task
            async def _resume_freed(self) -> None:
                while not self.should_stop:
                    await self.sleep(HOUSEKEEPING_INTERVAL_S)
                    with app._stopping_on_failure():
                        starts = await app.ownership.resume_freed()
                        if starts:  # no pause in between
                            await app.batch_consumer.rewind(starts)

            @Service.task
            async def _verify_logs(self) -> None:
                while not self.should_stop:
                    await self.sleep(HOUSEKEEPING_INTERVAL_S)
                    with app._stopping_on_failure():
                        await app.ownership.verify_logs()

            @Service.task
            async def _watch(self) -> None:
                # a task of its own: it must notice when the other one waits for ever
                while not self.should_stop:
                    await self.sleep(HOUSEKEEPING_INTERVAL_S)
                    app._watchdog.beat()
                    with app._stopping_on_failure():
                        app.ownership.observe()

        return Housekeeping

    @contextmanager
    def _stopping_on_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.ownership.failed(error)
            raise

    async def _on_agent_error(self, agent: Any, exc: BaseException) -> None:
        """Stop the worker: Faust would restart the agent behind the batch that failed."""
        logger.error("%s stopped: %s", agent.name, exc)
        self.ownership.failed(exc)
        await self.crash(exc)
