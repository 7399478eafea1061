"""A receiver of webhooks as somebody else would run it: a real HTTP server that verifies each signature."""

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass
class Posted:
    """One request.

    Attributes:
        document: the body, whose signature was verified; None where the receiver was given no secret.
    """

    path: str
    headers: Mapping[str, str]
    body: bytes
    document: Any


@dataclass
class WebhookReceiver:
    """What arrived, and what is answered.

    Attributes:
        answers: statuses of the next answers; then 204.
        location: of the redirects among them.
    """

    port: int = 0
    posted: list[Posted] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    location: str = ""
    failures: list[str] = field(default_factory=list)

    @property
    def documents(self) -> list[Any]:
        return [each.document for each in self.posted]

    def url(self, path: str = "/hook", scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}"


@contextmanager
def webhook_receiver(
    *, port: int = 0, secret: str = SECRET, context: ssl.SSLContext | None = None
) -> Iterator[WebhookReceiver]:
    """Run a receiver until the block ends."""
    receiver = WebhookReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                document = Webhook(secret).verify(body, headers) if secret else None
            except Exception as error:  # noqa: BLE001 - the test shall see whatever it was
                receiver.failures.append(f"{type(error).__name__}: {error}")
                self.send_response(401)
                self.end_headers()
                return
            receiver.posted.append(Posted(self.path, headers, body, document))
            status = receiver.answers.pop(0) if receiver.answers else 204
            self.send_response(status)
            if receiver.location:
                self.send_header("Location", receiver.location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
