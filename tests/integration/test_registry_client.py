"""The client against a real HTTP server that answers as a registry may."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from config.services import RegistrySettings
from schemas.errors import (
    IncompatibleSchemaError,
    RegistryAccessError,
    RegistryRefusedError,
    RegistryUnavailableError,
    UnknownSchemaIdError,
    UnknownSubjectError,
)
from schemas.registry import RegistryClient

Asked = list[str]


@contextmanager
def registry(status: int, body: str) -> Iterator[tuple[str, Asked]]:
    """Serve one answer to every request."""
    asked: Asked = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            asked.append(f"{self.command} {self.path}")
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = do_PUT = _answer  # noqa: N815 - names of the base class

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def client(url: str, timeout_s: float = 5.0) -> Iterator[RegistryClient]:
    with closing(RegistryClient(RegistrySettings(url=url, timeout_s=timeout_s))) as made:
        yield made


CALLS: list[Callable[[RegistryClient], object]] = [
    lambda client: client.fetch(1),
    lambda client: client.register("s", "{}"),
    lambda client: client.lookup("s", "{}"),
    lambda client: client.latest("s"),
    lambda client: client.versions("s"),
    lambda client: client.compatibility("s"),
    lambda client: client.set_compatibility("s"),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, '{"error_code": 500, "message": "boom"}', r"failed with HTTP 500 \(boom\)"),
        (503, "busy", "failed with HTTP 503"),
        (429, "{}", "failed with HTTP 429"),
        (200, "<html>a proxy</html>", "gave an answer that is not a schema registry's"),
    ],
)
def test_nothing_is_known_when_the_registry_fails(
    call: Callable[[RegistryClient], object], status: int, body: str, words: str
) -> None:
    with (
        registry(status, body) as (url, asked),
        client(url) as made,
        pytest.raises(RegistryUnavailableError, match=words) as raised,
    ):
        call(made)
    assert raised.value.hint
    assert len(asked) == 1, "no retries of its own"


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("status", "words"), [(401, r"does not let in user app \(HTTP 401\)"), (403, r"does not allow user app .*HTTP 403")]
)
def test_a_refusal_is_told_apart_from_an_outage(
    call: Callable[[RegistryClient], object], status: int, words: str
) -> None:
    with registry(status, "{}") as (url, asked):
        with_login = url.replace("http://", "http://app:secret@")
        with client(with_login) as made, pytest.raises(RegistryAccessError, match=words) as raised:
            call(made)
    assert "registry.username" in raised.value.hint
    assert "secret" not in str(raised.value)
    assert len(asked) == 1, "no retries of its own"


@pytest.mark.parametrize("call", CALLS)
def test_nobody_listens(call: Callable[[RegistryClient], object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}"
    with client(url) as made, pytest.raises(RegistryUnavailableError, match="does not answer") as raised:
        call(made)
    assert "secret" not in str(raised.value)


def test_a_registry_that_accepts_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with client(url, timeout_s=0.1) as made, pytest.raises(RegistryUnavailableError, match="ReadTimeout"):
            made.fetch(1)


@pytest.mark.parametrize("status", [404, 400, 422])
def test_an_unknown_id(status: int) -> None:
    with registry(status, '{"error_code": 40403, "message": "none"}') as (url, _), client(url) as made:
        with pytest.raises(UnknownSchemaIdError, match="no schema with id 7") as raised:
            made.fetch(7)
        assert raised.value.schema_id == 7


def test_an_id_beyond_the_apis_numbers_is_unknown_without_asking() -> None:
    with registry(500, "") as (url, asked), client(url) as made:
        with pytest.raises(UnknownSchemaIdError):
            made.fetch(2**31)
        assert asked == []


def test_a_schema_of_another_kind_is_text_that_the_codec_refuses() -> None:
    with (
        registry(200, '{"schemaType": "PROTOBUF", "schema": "syntax = \\"proto3\\";"}') as (url, _),
        client(url) as made,
    ):
        assert made.fetch(1) == 'syntax = "proto3";'


def test_refusals_tell_what_to_do() -> None:
    with registry(409, '{"error_code": 409, "message": "bad field"}') as (url, _), client(url) as made:
        with pytest.raises(IncompatibleSchemaError, match="bad field") as incompatible:
            made.register("s", "{}")
        assert "schema check" in incompatible.value.hint
    with registry(404, '{"error_code": 40401, "message": "none"}') as (url, _), client(url) as made:
        with pytest.raises(UnknownSubjectError, match="not registered under s") as unknown:
            made.lookup("s", "{}")
        assert "schema register" in unknown.value.hint
        assert made.versions("s") == []
    with (
        registry(422, "no JSON") as (url, _),
        client(url) as made,
        pytest.raises(RegistryRefusedError, match="HTTP 422"),
    ):
        made.register("s", "{}")
