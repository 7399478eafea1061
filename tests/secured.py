"""A secured Kafka, Redis and schema registry for tests: TLS, users, least rights, certificates of the test's own.

Kafka is a real broker with a listener SASL_SSL (PLAIN and SCRAM-SHA-512), one SSL (it asks for certificates), and an
authorizer that allows nothing unless told. The Valkey of the embedded stack is built without TLS, so a proxy ends the
TLS in front of it; its users are its own. The embedded registry knows no users: a proxy asks for user and password, or
for a certificate, and forwards.
"""

import base64
import contextlib
import http.client
import http.server
import os
import select
import shutil
import socket
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trustme
from cryptography.hazmat.primitives import serialization

from stack.artifacts import install
from stack.embedded import Endpoints
from stack.kafka import Kafka
from stack.ports import HOST, Ports, free_port
from stack.processes import start, stop, tail, with_marker
from stack.redis import server_program
from stack.service import Folders
from tests.waiting import wait_until

CANARY = "k4n4r13nv0g3l"
ROOT = Path(__file__).resolve().parent.parent


def password(of: str) -> str:
    """Return the password of a user; each one contains the canary, and characters that a URL must quote."""
    return f"{CANARY}/{of}@#?%:&="


@dataclass(frozen=True)
class Certificates:
    """Files in PEM of one authority and what it has signed.

    Attributes:
        ca: the authority's certificate.
        stranger_ca: that of another authority.
        server: certificate and key of 127.0.0.1, in one file.
        client: certificate of the client `worker`.
        client_key: its key, encrypted with `password("key")`.
    """

    ca: Path
    stranger_ca: Path
    server: Path
    client: Path
    client_key: Path

    @classmethod
    def make(cls, folder: Path) -> "Certificates":
        authority, stranger = trustme.CA(), trustme.CA()
        made = cls(*(folder / f"{name}.pem" for name in ("ca", "stranger", "server", "client", "client-key")))
        authority.cert_pem.write_to_path(str(made.ca))
        stranger.cert_pem.write_to_path(str(made.stranger_ca))
        server, client = authority.issue_cert(HOST), authority.issue_cert("worker.shop", common_name="worker")
        made.server.write_bytes(_pkcs8(server) + b"".join(part.bytes() for part in server.cert_chain_pems))
        made.client.write_bytes(b"".join(part.bytes() for part in client.cert_chain_pems))
        made.client_key.write_bytes(_pkcs8(client, password("key")))
        return made


def _pkcs8(issued: trustme.LeafCert, encrypted_with: str = "") -> bytes:
    """Return the private key as PKCS #8, the only kind that Kafka reads."""
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    lock: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(encrypted_with.encode())
        if encrypted_with
        else serialization.NoEncryption()
    )
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


# -- Kafka ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SecuredKafka:
    """A running broker.

    Attributes:
        sasl: host:port of the listener SASL_SSL.
        mtls: host:port of the listener SSL.
        admin: librdkafka settings of the superuser.
    """

    sasl: str
    mtls: str
    admin: Mapping[str, str]

    def add_user(self, name: str) -> None:
        """Make a SCRAM-SHA-512 user."""
        from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        wanted = UserScramCredentialUpsertion(name, info, password(name).encode())
        admin = AdminClient(dict(self.admin))  # it must outlive its answers
        for done in admin.alter_user_scram_credentials([wanted]).values():
            done.result(30)

    def allow(self, name: str, *rights: tuple[str, str, str]) -> None:
        """Allow a user operations: (kind of resource, its name, operation)."""
        from confluent_kafka.admin import AdminClient

        admin = AdminClient(dict(self.admin))
        for done in admin.create_acls([_binding(name, right) for right in rights]).values():
            done.result(30)

    def forbid(self, name: str, *rights: tuple[str, str, str]) -> None:
        """Take back what `allow` allowed."""
        from confluent_kafka.admin import AclBindingFilter, AdminClient

        filters = [
            AclBindingFilter(
                b.restype, b.name, b.resource_pattern_type, b.principal, b.host, b.operation, b.permission_type
            )
            for b in (_binding(name, right) for right in rights)
        ]
        admin = AdminClient(dict(self.admin))
        for done in admin.delete_acls(filters).values():
            assert done.result(30)


def _binding(name: str, right: tuple[str, str, str]) -> Any:
    from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType

    kind, resource, operation = right
    return AclBinding(
        ResourceType[kind],
        resource,
        ResourcePatternType.LITERAL,
        f"User:{name}",
        "*",
        AclOperation[operation],
        AclPermissionType.ALLOW,
    )


@contextmanager
def secured_kafka(home: Path, cache_dir: Path, certificates: Certificates) -> Iterator[SecuredKafka]:
    """Run a broker whose listeners demand a login or a certificate; it ends with this block."""
    ports = Ports(kafka=free_port(set()), controller=free_port(set()))
    mtls_port = free_port({ports.kafka, ports.controller})
    admin = {
        "bootstrap.servers": f"{HOST}:{ports.kafka}",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "admin",
        "sasl.password": password("admin"),
        "ssl.ca.location": str(certificates.ca),
    }
    kafka = Kafka(settings=_broker_settings(ports, mtls_port, certificates), client=admin)
    folders = Folders(home / "stack")
    for folder in (folders.logs, folders.temporary):
        folder.mkdir(parents=True)
    installed = install(cache_dir, print, lambda: None)
    with _guarded(home, cache_dir):
        kafka.prepare(folders, ports, installed)
        launch = kafka.launch(folders, ports, installed)
        try:
            start(launch, folders.identity("kafka"), ports.kafka)
            wait_until(
                lambda: kafka.problem(ports, 2.0) is None, 90, lambda: f"the broker does not start: {tail(launch.log)}"
            )
            yield SecuredKafka(f"{HOST}:{ports.kafka}", f"{HOST}:{mtls_port}", admin)
        finally:
            stop(with_marker(kafka.marker(folders)), 20)


def _broker_settings(ports: Ports, mtls_port: int, certificates: Certificates) -> dict[str, str]:
    jaas = "org.apache.kafka.common.security.{0} required {1};"
    plain = " ".join(f'user_{name}="{password(name)}"' for name in ("admin", "plain"))
    return {
        "listeners": f"SASL_SSL://{HOST}:{ports.kafka},SSL://{HOST}:{mtls_port},CONTROLLER://{HOST}:{ports.controller}",
        "advertised.listeners": f"SASL_SSL://{HOST}:{ports.kafka},SSL://{HOST}:{mtls_port}",
        "listener.security.protocol.map": "SASL_SSL:SASL_SSL,SSL:SSL,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "SASL_SSL",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": jaas.format(
            "plain.PlainLoginModule", f'username="admin" password="{password("admin")}" {plain}'
        ),
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": jaas.format("scram.ScramLoginModule", ""),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates.server),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates.ca),
        "listener.name.ssl.ssl.client.auth": "required",
        "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]*).*$/$1/,DEFAULT",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:admin;User:ANONYMOUS",  # nobody is anonymous but the controller's own connection
    }


@contextmanager
def _guarded(home: Path, cache_dir: Path) -> Iterator[None]:
    """Have the broker stopped, too, when this process is killed."""
    guard = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "stack_guard.py"), str(home), str(cache_dir)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.communicate()


# -- Redis ----------------------------------------------------------------------------------------------------------


@contextmanager
def secured_redis(folder: Path, users: Mapping[str, str], certificates: Certificates) -> Iterator[tuple[str, str]]:
    """Run a Valkey that knows only these users, with a proxy for TLS.

    Args:
        users: rules by user.

    Yields:
        host:port with TLS, and host:port without.
    """
    port = free_port(set())
    lines = [f"bind {HOST}", f"port {port}", 'save ""', 'logfile ""', f"dir {folder}", "user default off"]
    lines += ["maxmemory-policy noeviction", "appendonly yes"]
    for name, rules in {**users, "admin": "~* +@all"}.items():
        lines.append(f"user {name} on #{sha256(password(name).encode()).hexdigest()} {rules}")
    configuration = folder / "valkey.conf"
    configuration.write_text("\n".join(lines) + "\n")
    with (folder / "valkey.log").open("wb") as log:
        server = subprocess.Popen([str(server_program()), str(configuration)], stdout=log, stderr=log)
    try:
        with ExitStack() as proxies:
            wait_until(lambda: _accepts(port), 30, (folder / "valkey.log").read_text)
            proxy = proxies.enter_context(tls_proxy(port, certificates))
            yield f"{HOST}:{proxy}", f"{HOST}:{port}"
    finally:
        server.terminate()
        server.wait(30)


def _accepts(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex((HOST, port)) == 0


@contextmanager
def tls_proxy(target_port: int, certificates: Certificates, *, asks_for_certificate: bool = False) -> Iterator[int]:
    """End TLS on a port of its own, and pass all bytes on to `target_port`."""
    context = _server_context(certificates, asks_for_certificate=asks_for_certificate)

    class Tunnel(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            client = _shake_hands(self.request, context)
            if client is None:
                return
            with closing(client), socket.create_connection((HOST, target_port)) as server:
                _pass_on(client, server)

    with _serving(socketserver.ThreadingTCPServer((HOST, 0), Tunnel)) as server:
        yield server.server_address[1]


def _pass_on(client: ssl.SSLSocket, server: socket.socket) -> None:
    while True:
        ready = [client] if client.pending() else select.select([client, server], [], [])[0]
        for source in ready:
            try:
                data = source.recv(65_536)
            except (ConnectionError, ssl.SSLError):
                data = b""
            if not data:
                return
            try:
                (server if source is client else client).sendall(data)
            except (ConnectionError, ssl.SSLError):
                return


# -- schema registry ------------------------------------------------------------------------------------------------


@contextmanager
def secured_registry(
    endpoints: Endpoints, certificates: Certificates, *, user: str = "", asks_for_certificate: bool = False
) -> Iterator[str]:
    """Put HTTPS and a login, or a demand for certificates, in front of the registry.

    Yields:
        The URL.
    """
    target = urlsplit(endpoints.registry)
    expected = "Basic " + base64.b64encode(f"{user}:{password(user)}".encode()).decode()

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if user and self.headers.get("Authorization") != expected:
                self._answer(401, b'{"error_code": 401, "message": "Unauthorized"}', {"WWW-Authenticate": "Basic"})
                return
            headers = {name: value for name, value in self.headers.items() if name in {"Content-Type", "Accept"}}
            with closing(http.client.HTTPConnection(target.hostname or "", target.port or 80, timeout=30)) as upstream:
                upstream.request(self.command, self.path, body or None, headers)
                answer = upstream.getresponse()
                kind = {"Content-Type": answer.getheader("Content-Type") or "application/json"}
                self._answer(answer.status, answer.read(), kind)

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = _forward  # noqa: N815 - the base class finds them by these names

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    context = _server_context(certificates, asks_for_certificate=asks_for_certificate)
    with _serving(_TlsServer((HOST, 0), Proxy, context)) as server:
        yield f"https://{HOST}:{server.server_address[1]}{target.path}"


class _TlsServer(http.server.ThreadingHTTPServer):
    """Shakes hands in the thread of each connection; what a failed handshake raises is the client's affair."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: Callable[..., Any], context: ssl.SSLContext) -> None:
        super().__init__(address, handler)
        self._context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        wrapped = _shake_hands(request, self._context)
        if wrapped is not None:
            with closing(wrapped):
                super().finish_request(wrapped, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: clients leave as they like."""


def _shake_hands(request: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket | None:
    """Begin TLS; None if a certificate was refused, ours or the client's."""
    client = context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
    try:
        client.do_handshake()
    except (ssl.SSLError, ConnectionError):
        # closed at once, a connection with unread bytes is reset, and the client never sees why it was refused
        with contextlib.suppress(OSError), socket.socket(fileno=client.detach()) as raw:
            raw.settimeout(5)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(4_096):
                pass
        return None
    return client


def _server_context(certificates: Certificates, *, asks_for_certificate: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates.ca)
    context.load_cert_chain(certificates.server)
    context.verify_mode = ssl.CERT_REQUIRED if asks_for_certificate else ssl.CERT_NONE
    return context


@contextmanager
def _serving(server: Any) -> Iterator[Any]:
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def own_folder() -> Iterator[Path]:
    """Make a folder that is gone after this block; not below the home of any test, for it holds passwords."""
    folder = Path(tempfile.mkdtemp(prefix="shopstream-secured-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
