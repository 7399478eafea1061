"""Webhooks to a real server: signed, to the address that was checked, and answered for what the answer means."""

import logging
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import SecretStr, ValidationError

from config.quality import AirflowSettings, AlertSettings
from sinks.errors import DeliveryRefusedError, NotDeliveredError
from sinks.outbox import Delivery
from sinks.webhooks import WebhookSender, is_public, webhook_payload
from stack.ports import free_port
from tests.webhook_receiver import SECRET, WebhookReceiver, webhook_receiver

PAYLOAD = webhook_payload("gate.halted", 1_717_747_750_123, {"topic": "shop.clicks.v1", "detail": "über 1 %: 👟"})


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with webhook_receiver() as found:
        yield found


def settings(url: str, **changes: Any) -> AlertSettings:
    given = {"webhook_url": url, "webhook_secret": SecretStr(SECRET), "allow_private": True, **changes}
    return AlertSettings(**given)


def delivery(name: str = "msg-1") -> Delivery:
    return Delivery(name, "webhook", PAYLOAD, 0)


def at(*addresses: str) -> Callable[[str, int], Sequence[str]]:
    return lambda _host, _port: addresses


def test_the_receiver_verifies_what_it_gets(receiver: WebhookReceiver) -> None:
    WebhookSender(settings(receiver.url("/in?token=t")))(delivery())
    assert receiver.failures == []
    (posted,) = receiver.posted
    assert posted.document == PAYLOAD == {
        "type": "gate.halted",
        "timestamp": "2024-06-07T08:09:10.123Z",
        "data": {"topic": "shop.clicks.v1", "detail": "über 1 %: 👟"},
    }  # fmt: skip
    assert posted.path == "/in?token=t"
    assert posted.headers["webhook-id"] == "msg-1"
    assert posted.headers["content-type"] == "application/json"


def test_another_secret_does_not_verify(receiver: WebhookReceiver) -> None:
    other = settings(receiver.url(), webhook_secret=SecretStr("whsec_" + "A" * 32))
    with pytest.raises(DeliveryRefusedError, match="401"):
        WebhookSender(other)(delivery())
    assert receiver.failures == ["WebhookVerificationError: No matching signature found"]


def test_a_clock_that_is_wrong_is_noticed_by_the_receiver(receiver: WebhookReceiver) -> None:
    with pytest.raises(DeliveryRefusedError):
        WebhookSender(settings(receiver.url()), clock_s=lambda: 1_717_747_750.9)(delivery())
    assert receiver.failures == ["WebhookVerificationError: Message timestamp too old"]


def test_user_and_password_of_the_url_are_sent_and_not_told(
    receiver: WebhookReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    url = receiver.url("/path-secret?token=query-secret").replace("://", "://me:p%40ss-secret@")
    receiver.answers = [204, 500]
    sender = WebhookSender(settings(url))
    with caplog.at_level(logging.DEBUG):
        sender(delivery())
        with pytest.raises(NotDeliveredError) as failure:
            sender(delivery())
    assert receiver.posted[0].headers["authorization"] == "Basic bWU6cEBzcy1zZWNyZXQ="
    told = f"{failure.value} {caplog.text}"
    assert f"http://127.0.0.1:{receiver.port} answered 500" in told
    for secret in ("ss-secret", "query-secret", "path-secret", SECRET, SECRET[6:], "bWU6cEBzcy1zZWNyZXQ="):
        assert secret not in told


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_taken(receiver: WebhookReceiver, status: int) -> None:
    receiver.answers = [status]
    WebhookSender(settings(receiver.url()))(delivery())


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422])
def test_refused(receiver: WebhookReceiver, status: int) -> None:
    receiver.answers = [status]
    with pytest.raises(DeliveryRefusedError, match=f"answered {status}"):
        WebhookSender(settings(receiver.url()))(delivery())


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
def test_tried_again(receiver: WebhookReceiver, status: int) -> None:
    receiver.answers = [status]
    with pytest.raises(NotDeliveredError, match=f"answered {status}") as failure:
        WebhookSender(settings(receiver.url()))(delivery())
    assert failure.value.is_passing


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(receiver: WebhookReceiver, status: int) -> None:
    with webhook_receiver() as other:
        receiver.answers, receiver.location = [status], other.url()
        with pytest.raises(NotDeliveredError, match=f"answered {status}, a redirect") as failure:
            WebhookSender(settings(receiver.url()))(delivery())
        assert other.posted == []
    assert not failure.value.is_passing


def test_nobody_listens() -> None:
    port = free_port(set())
    with pytest.raises(NotDeliveredError, match=f"http://127.0.0.1:{port} does not answer") as failure:
        WebhookSender(settings(f"http://127.0.0.1:{port}/?token=query-secret"))(delivery())
    assert failure.value.is_passing
    assert "query-secret" not in str(failure.value)


def test_an_answer_that_does_not_come_is_not_waited_for(receiver: WebhookReceiver) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(NotDeliveredError, match="ReadTimeout"):
            WebhookSender(settings(url, timeout_s=0.05))(delivery())


def test_a_host_that_is_not_found_is_looked_up_again_later() -> None:
    def unknown(_host: str, _port: int) -> Sequence[str]:
        raise OSError("Name or service not known")

    with pytest.raises(NotDeliveredError, match=r"host hooks\.test was not found") as failure:
        WebhookSender(settings("https://hooks.test/"), resolve=unknown)(delivery())
    assert failure.value.is_passing


class TestAddresses:
    def test_the_connection_is_made_to_what_was_looked_up_once(self, receiver: WebhookReceiver) -> None:
        asked: list[tuple[str, int]] = []

        def resolve(host: str, port: int) -> Sequence[str]:
            asked.append((host, port))
            return ["127.0.0.1"]

        # no name service knows this name: a second look-up would fail
        url = receiver.url().replace("127.0.0.1", "hooks.invalid")
        WebhookSender(settings(url), resolve=resolve)(delivery())
        assert asked == [("hooks.invalid", receiver.port)]
        assert receiver.posted[0].headers["host"] == f"hooks.invalid:{receiver.port}"

    def test_the_next_address_is_tried_where_nobody_listens(self, receiver: WebhookReceiver) -> None:
        url = receiver.url().replace("127.0.0.1", "hooks.invalid")
        WebhookSender(settings(url), resolve=at("127.0.0.2", "127.0.0.1"))(delivery())
        assert len(receiver.posted) == 1

    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
            "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.0.1",
            "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1",
            "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::",
            "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "64:ff9b:1::1", "::127.0.0.1", "localhost", "",
        ],
    )  # fmt: skip
    def test_not_public(self, address: str) -> None:
        assert not is_public(address)

    @pytest.mark.parametrize(
        "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
    )
    def test_public(self, address: str) -> None:
        assert is_public(address)

    @pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["169.254.169.254"]])
    def test_one_private_address_is_enough_to_send_nothing(self, addresses: list[str]) -> None:
        sender = WebhookSender(settings("https://hooks.test/", allow_private=False), resolve=at(*addresses))
        with pytest.raises(NotDeliveredError, match="no public address; nothing was sent") as failure:
            sender(delivery())
        assert not failure.value.is_passing
        assert "alerts.allow_private" in failure.value.hint

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.1", "2130706433", "0x7f000001"])
    def test_whatever_it_is_called_it_is_looked_up_as_the_system_does(self, host: str) -> None:
        sender = WebhookSender(settings(f"https://{host}:1/", allow_private=False))
        with pytest.raises(NotDeliveredError, match=r"no public address|was not found"):
            sender(delivery())


class TestTls:
    @pytest.fixture
    def authority(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        return authority

    def server(self, authority: trustme.CA, name: str, seen: list[str | None]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        context.sni_callback = lambda _socket, asked, _context: seen.append(asked)
        return context

    def test_the_certificate_must_be_for_the_name(self, authority: trustme.CA) -> None:
        seen: list[str | None] = []
        with webhook_receiver(context=self.server(authority, "hooks.test", seen)) as receiver:
            url = f"https://hooks.test:{receiver.port}/hook"
            WebhookSender(settings(url), resolve=at("127.0.0.1"))(delivery())
            assert receiver.posted[0].headers["host"] == f"hooks.test:{receiver.port}"
        assert seen == ["hooks.test"]

    def test_another_name_is_not_trusted(self, authority: trustme.CA) -> None:
        with webhook_receiver(context=self.server(authority, "other.test", [])) as receiver:
            url = f"https://hooks.test:{receiver.port}/hook"
            with pytest.raises(NotDeliveredError, match="could not be connected to by TLS") as failure:
                WebhookSender(settings(url), resolve=at("127.0.0.1"))(delivery())
            assert receiver.posted == []
        assert not failure.value.is_passing


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"webhook_url": "ftp://example.com"}, "not a URL that begins with http"),
        ({"webhook_url": "https://"}, "not a URL"),
        ({"webhook_url": "https://host:99999/"}, "not a URL"),
        ({"webhook_url": "http://example.com/", "allow_private": False}, "must begin with https://"),
        ({"webhook_secret": SecretStr("")}, "webhook_secret is not"),
        ({"webhook_secret": SecretStr("whsec_short")}, "no key of Standard Webhooks"),
        ({"webhook_secret": SecretStr("whsec_" + "*" * 40)}, "no key of Standard Webhooks"),
    ],
)
def test_settings_that_cannot_work_are_told_at_once(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        settings("https://me:pw-secret@example.com/", **changes)


def test_an_airflow_that_is_no_url_is_told_at_once() -> None:
    with pytest.raises(ValidationError, match=r"airflow\.url is not a URL"):
        AirflowSettings(url="airflow:8080")
