"""The worker's Prometheus endpoint, and the file that tells other processes where it is."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server

from config.errors import ShopstreamError
from config.settings import WorkerSettings

logger = logging.getLogger(__name__)


class MetricsEndpoint:
    """Serves `/metrics` while the worker runs.

    Args:
        folder: where `<pid>.json` with the endpoint's address is written, for `shopstream status` and `top`.
    """

    def __init__(self, settings: WorkerSettings, registry: CollectorRegistry, folder: Path) -> None:
        self._settings = settings
        self._registry = registry
        self._path = folder / f"{os.getpid()}.json"
        self._server: Any = None

    def start(self) -> str:
        """Start to serve; return the URL.

        Raises:
            ShopstreamError: the port is taken.
        """
        host = self._settings.metrics_host
        try:
            self._server, _ = start_http_server(self._settings.metrics_port, addr=host, registry=self._registry)
        except OSError as error:
            raise ShopstreamError(
                f"The metrics endpoint cannot listen on {host}:{self._settings.metrics_port} ({error.strerror}).",
                hint="Set worker.metrics_port to a free port, or to 0 for any.",
            ) from error
        url = f"http://{host}:{self._server.server_port}/metrics"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps({"pid": os.getpid(), "metrics": url}))
        logger.info("metrics at %s", url)
        return url

    def stop(self) -> None:
        """Stop serving; harmless when it never started."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self._path.unlink(missing_ok=True)
