"""Posts JSON to a fixed address, and nothing else: no redirect is followed, no proxy of the environment is asked.

The transport of httpx is used without its client, whose log would show the whole URL, and with it what is secret in it.
"""

import base64
from collections.abc import Mapping
from typing import Final, NamedTuple

import httpx

from config.security import tls_refusal
from sinks.errors import NotDeliveredError

TRY_AGAIN: Final = frozenset({408, 425, 429})  # of 400 to 499, what the same request may be answered otherwise later
_SHOWN_BYTES: Final = 300


class Answer(NamedTuple):
    """What a server said.

    Attributes:
        text: the beginning of the body, in one line.
    """

    status: int
    text: str


def place_of(url: httpx.URL) -> str:
    """Return what of a URL may be shown: neither user and password, nor the path and query, which may hold a token."""
    port = "" if url.port is None else f":{url.port}"
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}{port}"


def post(
    url: httpx.URL, body: bytes, headers: Mapping[str, str], *, timeout_s: float, addresses: tuple[str, ...] = ()
) -> Answer:
    """Post a body of JSON and return the answer, whatever its status is. Blocking.

    Args:
        timeout_s: longest wait for a connection, and for each part of the answer.
        addresses: connect to the first of these that can be reached, and ask no name service; empty to ask it.

    Raises:
        NotDeliveredError: there is no answer.
    """
    headers = {**_headers(url), **headers}
    extensions = {"timeout": httpx.Timeout(timeout_s).as_dict(), "sni_hostname": url.host}
    failure: httpx.HTTPError | None = None
    for address in addresses or (url.host,):
        # the name stays in the header and in the handshake: it is what the certificate must be for
        target = url.copy_with(host=address, username=None, password=None)
        try:
            return _answer(httpx.Request("POST", target, headers=headers, content=body, extensions=extensions))
        except httpx.ConnectError as error:
            refusal = tls_refusal(error)
            if refusal is not None:
                raise NotDeliveredError(
                    f"{place_of(url)} could not be connected to by TLS: {refusal}.",
                    hint="Check its certificate; SSL_CERT_FILE names other authorities to trust.",
                    is_passing=False,
                ) from error
            failure = error
        except httpx.HTTPError as error:
            raise _unanswered(url, error) from error
    raise _unanswered(url, failure) from failure


def _headers(url: httpx.URL) -> dict[str, str]:
    headers = {"Host": url.netloc.decode(), "Content-Type": "application/json", "User-Agent": "shopstream"}
    if url.username or url.password:
        login = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
        headers["Authorization"] = f"Basic {login}"
    return headers


def _answer(request: httpx.Request) -> Answer:
    with httpx.HTTPTransport() as transport:
        response = transport.handle_request(request)
        try:
            text = b""
            for part in response.stream:  # type: ignore[union-attr]
                text += part
                if len(text) >= _SHOWN_BYTES:
                    break
        finally:
            response.close()
    return Answer(response.status_code, " ".join(text[:_SHOWN_BYTES].decode(errors="replace").split()))


def _unanswered(url: httpx.URL, error: httpx.HTTPError | None) -> NotDeliveredError:
    why = type(error).__name__ if not str(error) else f"{type(error).__name__}: {error}"
    return NotDeliveredError(f"{place_of(url)} does not answer ({why}).", hint="Check that it runs and can be reached.")
