"""Credentials and certificates in the settings: what belongs together, and what may be shown."""

import re
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, Protocol
from urllib.parse import SplitResult, quote, unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr
from pydantic_core import PydanticCustomError

MASK: Final = "********"
UNSET: Final = Path()

_LOGIN = re.compile(r"(://)(?:([^:@/?#]*)(:))?.*@", re.DOTALL)  # up to the last @: a password may hold anything
_PASSWORD_OPTION = re.compile(r"(password=)[^&]*", re.IGNORECASE)
_FILES: Final = ("ca_file", "certificate_file", "key_file")


def _absolute(path: Path) -> Path:
    return path if path == UNSET else path.expanduser().absolute()


CaFile = Annotated[
    Path, Field(description="PEM file of the authorities to trust; the system's if unset"), AfterValidator(_absolute)
]
CertificateFile = Annotated[
    Path, Field(description="PEM file of our own certificate, where one is asked for"), AfterValidator(_absolute)
]
KeyFile = Annotated[Path, Field(description="PEM file of its private key"), AfterValidator(_absolute)]
KeyPassword = Annotated[SecretStr, Field(description="password of that key, if it is encrypted")]


class TlsFiles(Protocol):
    """The certificates of one service's section."""

    @property
    def ca_file(self) -> Path:
        """Authorities to trust; UNSET for the system's."""

    @property
    def certificate_file(self) -> Path:
        """Our own certificate; UNSET for none."""

    @property
    def key_file(self) -> Path:
        """Its key."""

    @property
    def key_password(self) -> SecretStr:
        """The key's password; empty for none."""


class Address(NamedTuple):
    """A URL taken apart.

    Attributes:
        url: without user and password.
        username: empty if the URL has none.
        password: empty if the URL has none.
    """

    url: str
    username: str
    password: str


def contradiction(why: str) -> PydanticCustomError:
    """Return the error of settings that do not fit together; `why` names them by their dotted keys."""
    return PydanticCustomError("contradiction", "{why}", {"why": why})


def shown(value: Any) -> str:
    """Return a setting's value as text that may be printed anywhere."""
    if isinstance(value, SecretStr):
        text = value.get_secret_value()
        return masked_url(text) if "://" in text else MASK * bool(text)
    text = str(value)
    return masked_url(text) if "://" in text else text


def masked_url(url: str) -> str:
    """Return a URL, or what should be one, with its password masked."""
    masked = _LOGIN.sub(lambda m: f"{m[1]}{m[2] or ''}{m[3] or ''}{MASK}@", url, count=1)
    return _PASSWORD_OPTION.sub(rf"\g<1>{MASK}", masked)


def split_login(url: str) -> Address:
    """Take user and password out of a URL.

    Raises:
        ValueError: it is no URL; the error does not repeat any of it.
    """
    try:
        parts = urlsplit(url)
        is_whole = "@" not in parts.path + parts.query + parts.fragment and (parts.port or 0) >= 0
    except ValueError:
        is_whole = False
    if not is_whole:  # from None: the library's error may quote the password
        raise ValueError("not a URL: in a password, / ? # @ and % are written %2F %3F %23 %40 and %25") from None
    login, _, host = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    return Address(_joined(parts._replace(netloc=host)) if url else "", unquote(username), unquote(password))


def _joined(parts: SplitResult) -> str:
    # urlunsplit would make unix:/path of unix:///path, which no Redis client takes
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}{parts.path}{query}"


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """Return what Python's own TLS needs: it verifies certificate and host name, and shows ours if there is one.

    Raises:
        OSError: a file cannot be read; ssl.SSLError, which is one: it does not hold what it should.
    """
    context = ssl.create_default_context(cafile=None if files.ca_file == UNSET else files.ca_file)
    if files.certificate_file != UNSET:
        # a function, because OpenSSL would ask on the terminal if there were no password
        context.load_cert_chain(files.certificate_file, files.key_file, files.key_password.get_secret_value)
    return context


def check_tls(section: str, files: TlsFiles, *, unused_because: str) -> None:
    """Check that the certificates of a section are used, complete and usable.

    Args:
        unused_because: why the connection is not encrypted; empty if it is.

    Raises:
        PydanticCustomError: they are not; it says what to change.
    """
    given = [name for name in _FILES if getattr(files, name) != UNSET]
    if given and unused_because:
        raise contradiction(f"{section}.{given[0]} is set, but {unused_because}")
    if ("certificate_file" in given) != ("key_file" in given):
        one, other = sorted(("certificate_file", "key_file"), key=lambda name: name not in given)
        raise contradiction(f"{section}.{one} is set without {section}.{other} (one file may hold both)")
    if files.key_password.get_secret_value() and "key_file" not in given:
        raise contradiction(f"{section}.key_password is set without {section}.key_file")
    for name in given:
        try:
            getattr(files, name).open("rb").close()
        except OSError as error:
            raise contradiction(
                f"{section}.{name} names {getattr(files, name)}, which cannot be read ({error.strerror})"
            ) from error
    if given:
        _check_contents(section, files)


def _check_contents(section: str, files: TlsFiles) -> None:
    try:
        if files.ca_file != UNSET:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(files.ca_file)
    except ssl.SSLError as error:
        raise contradiction(f"{section}.ca_file names {files.ca_file}, which holds no certificate in PEM") from error
    try:
        tls_context(files)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise contradiction(
                f"{section}.key_file is not the key of the certificate in {section}.certificate_file"
            ) from error
        raise contradiction(
            f"{section}.certificate_file and {section}.key_file hold no certificate and key in PEM, or the key is "
            f"encrypted and {section}.key_password is not its password"
        ) from error


def check_login(section: str, username: str, password: SecretStr, url: str, schemes: Sequence[str]) -> Address:
    """Check that a URL can be used, and that user and password are given once and completely.

    Returns:
        The URL without the login, and the login, from wherever it was given.

    Raises:
        PydanticCustomError: they cannot be used; it says what to change.
    """
    try:
        address = split_login(url)
    except ValueError as error:
        raise contradiction(f"{section}.url is {error}; or set {section}.password instead") from None
    if url and urlsplit(url).scheme not in schemes:
        raise contradiction(f"{section}.url must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    own = password.get_secret_value()
    if (username or own) and (address.username or address.password):
        raise contradiction(f"user and password are given twice: in {section}.url and in {section}.username/password")
    if username and not own:
        raise contradiction(f"{section}.username is set without {section}.password")
    return Address(address.url, username or address.username, own or address.password)


def redis_url(address: Address, files: TlsFiles) -> str:
    """Return the one URL that tells a Redis client everything; it holds the passwords."""
    login = f"{quote(address.username, safe='')}:{quote(address.password, safe='')}@"
    login = login if address.username or address.password else ""
    parts = urlsplit(address.url)
    options = [parts.query] if parts.query else []
    options += [f"{name}={quote(quote(value, safe=''), safe='')}" for name, value in _redis_options(files)]
    return _joined(parts._replace(netloc=login + parts.netloc, query="&".join(options)))


def _redis_options(files: TlsFiles) -> Iterator[tuple[str, str]]:
    # twice quoted by the caller: the client reads a query as such, and then unquotes each value once more
    if files.ca_file != UNSET:
        yield "ssl_ca_certs", str(files.ca_file)
    if files.certificate_file != UNSET:
        yield "ssl_certfile", str(files.certificate_file)
        yield "ssl_keyfile", str(files.key_file)
    if files.key_password.get_secret_value():
        yield "ssl_password", files.key_password.get_secret_value()


def tls_refusal(error: BaseException) -> str | None:
    """Tell in words why no TLS connection came about; None if the failure is of another kind."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {seen.verify_message.rstrip('.')}"
        if isinstance(seen, ssl.SSLError) and "ALERT" in (seen.reason or ""):
            return f"it refused us in the TLS handshake: {(seen.reason or '').lower().replace('_', ' ')}"
        if isinstance(seen, ssl.SSLError) and seen.reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}:
            return "it does not speak TLS on this port"
        seen = seen.__cause__ or seen.__context__
    return None
