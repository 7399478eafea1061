"""Webhooks, signed by the Standard Webhooks scheme: who receives one can tell that we sent it, and this very text.

The address is looked up and judged, and the connection is made to what was judged: a name that is resolved again could
lead into our own network. https://www.standardwebhooks.com describes the headers.
"""

import ipaddress
import json
import socket
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import httpx

from config.quality import AlertSettings
from sinks.errors import DeliveryRefusedError, NotDeliveredError
from sinks.outbox import Delivery
from sinks.posting import TRY_AGAIN, place_of, post

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]


def resolved(host: str, port: int) -> list[str]:
    """Return the addresses of a host, as the system finds them.

    Raises:
        OSError, UnicodeError: it has none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for _, _, _, _, address in found))


def is_public(address: str) -> bool:
    """Tell whether an address is one of the open internet, and not private, loopback, link-local or reserved.

    An IPv6 address that carries an IPv4 one is judged by that as well.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(ip.packed[-4:])))
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local or ip.teredo is not None:
            return False
    return ip.is_global and not (ip.is_private or ip.is_multicast or ip.is_reserved or ip.is_link_local)


class WebhookSender:
    """Posts deliveries of kind `webhook`: the payload is the body, the delivery's id the message's id.

    Args:
        resolve: finds the addresses of a host and port.
        clock_s: wall clock, seconds since 1970; the signature holds it, and receivers refuse what is old.
    """

    def __init__(
        self, settings: AlertSettings, *, resolve: Resolve = resolved, clock_s: Callable[[], float] = time.time
    ) -> None:
        self._url = httpx.URL(settings.webhook_url)
        self._secret = settings.webhook_secret
        self._allow_private = settings.allow_private
        self._timeout_s = settings.timeout_s
        self._resolve = resolve
        self._clock_s = clock_s

    def __call__(self, delivery: Delivery) -> None:
        """Post it.

        Raises:
            NotDeliveredError: it was not taken; try again later.
            DeliveryRefusedError: the receiver does not want it.
        """
        addresses = self._checked_addresses()
        body = json.dumps(delivery.payload, separators=(",", ":"), ensure_ascii=False)
        headers = self._signature(delivery.id, body)
        answer = post(self._url, body.encode(), headers, timeout_s=self._timeout_s, addresses=addresses)
        self._judge(answer.status)

    def _signature(self, message_id: str, body: str) -> dict[str, str]:
        from standardwebhooks import Webhook

        at = datetime.fromtimestamp(int(self._clock_s()), UTC)
        signature = Webhook(self._secret.get_secret_value()).sign(message_id, at, body)
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": signature,
        }

    def _checked_addresses(self) -> tuple[str, ...]:
        host, port = self._url.host, self._url.port or _DEFAULT_PORTS[self._url.scheme]
        try:
            addresses = tuple(self._resolve(host, port))
        except (OSError, UnicodeError) as error:
            raise NotDeliveredError(
                f"The webhook's host {host} was not found ({error}).", hint="Check alerts.webhook_url and the network."
            ) from error
        # one that is not public is enough: which of them is connected to must not be left to who answers for the name
        private = [] if self._allow_private else [address for address in addresses if not is_public(address)]
        if private:
            raise NotDeliveredError(
                f"The webhook's host {host} is at {', '.join(private)}, which is no public address; nothing was sent.",
                hint="Correct alerts.webhook_url, or set alerts.allow_private if the receiver is in your own network.",
                is_passing=False,
            )
        return addresses

    def _judge(self, status: int) -> None:
        where = f"The webhook at {place_of(self._url)}"
        if 200 <= status < 300:
            return
        if 300 <= status < 400:
            raise NotDeliveredError(
                f"{where} answered {status}, a redirect; it was not followed.",
                hint="Set alerts.webhook_url to where it leads, if that is the receiver.",
                is_passing=False,
            )
        if 400 <= status < 500 and status not in TRY_AGAIN:
            raise DeliveryRefusedError(
                f"{where} answered {status}: it will not take this.",
                hint="Mend the receiver, alerts.webhook_url or alerts.webhook_secret; then run "
                "`shopstream alerts retry`.",
            )
        raise NotDeliveredError(f"{where} answered {status}.", hint="Look at the receiver's log.")


def webhook_payload(kind: str, at_ms: int, data: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a message as Standard Webhooks has it.

    Args:
        kind: what happened, words joined by dots.
        at_ms: when, integer milliseconds UTC.
        data: what there is to say about it.
    """
    at = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"type": kind, "timestamp": at, "data": data}
