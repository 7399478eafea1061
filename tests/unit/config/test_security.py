"""Credentials and certificates in the settings: complete, consistent, usable, and never shown."""

import traceback
from pathlib import Path
from urllib.parse import quote

import pytest
from redis.connection import SSLConnection, parse_url

from config.errors import SettingsError
from config.security import masked_url
from config.services import RedisSettings, RegistrySettings
from config.settings import as_environment, load_settings, setting_origins
from tests.secured import CANARY, Certificates, password

SASL = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "username": "u", "password": password("u")}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            {"kafka": {"security_protocol": "SASL_SSL"}},
            "kafka.sasl_mechanism and kafka.username and kafka.password are",
        ),
        ({"kafka": {**SASL, "password": ""}}, "security_protocol is SASL_SSL, but kafka.password is not set"),
        ({"kafka": {**SASL, "security_protocol": "SSL"}}, "kafka.sasl_mechanism is set, but .* choose SASL_SSL"),
        ({"kafka": {"ca_file": "CA"}}, "kafka.ca_file is set, but kafka.security_protocol is PLAINTEXT"),
        ({"kafka": {**SASL, "ca_file": "/nowhere.pem"}}, r"/nowhere.pem, which cannot be read \(No such file"),
        ({"kafka": {**SASL, "ca_file": "KEY"}}, "kafka.ca_file names .* holds no certificate in PEM"),
        ({"kafka": {**SASL, "certificate_file": "CLIENT"}}, "certificate_file is set without kafka.key_file"),
        ({"kafka": {**SASL, "key_file": "KEY"}}, "kafka.key_file is set without kafka.certificate_file"),
        ({"kafka": {**SASL, "key_password": CANARY}}, "kafka.key_password is set without kafka.key_file"),
        (
            {"kafka": {**SASL, "certificate_file": "CLIENT", "key_file": "SERVER"}},
            "kafka.key_file is not the key of the certificate in kafka.certificate_file",
        ),
        (
            {"kafka": {**SASL, "certificate_file": "CLIENT", "key_file": "KEY"}},
            "encrypted and kafka.key_password is not its password",
        ),
        ({"redis": {"url": "redis://h:1/0", "ca_file": "CA"}}, "redis.url does not begin with rediss://"),
        ({"redis": {"url": f"redis://u:{CANARY}@h", "password": CANARY}}, "given twice"),
        ({"redis": {"url": f"redis://:{CANARY}/x@h:1/0"}}, "redis.url is not a URL: in a password, / "),
        ({"redis": {"url": "http://h"}}, "redis.url must begin with redis:// or rediss:// or unix://"),
        ({"redis": {"url": "redis://h", "username": "u"}}, "redis.username is set without redis.password"),
        ({"registry": {"url": "http://h", "ca_file": "CA"}}, "registry.url does not begin with https://"),
        ({"registry": {"url": "https://h", "username": "a:b", "password": CANARY}}, "registry.username holds a colon"),
        ({"kafka": {"passwort": CANARY}}, "kafka.passwort: Extra inputs are not permitted"),
    ],
)
def test_what_does_not_fit_together_is_one_sentence_without_secrets(
    overrides: dict[str, dict[str, str]], said: str, certificates: Certificates
) -> None:
    paths = {"CA": certificates.ca, "CLIENT": certificates.client, "KEY": certificates.client_key}
    paths["SERVER"] = certificates.server
    given = {
        key: {name: paths.get(value, value) for name, value in values.items()} for key, values in overrides.items()
    }
    with pytest.raises(SettingsError, match=said) as raised:
        load_settings(given)
    assert CANARY not in "".join(traceback.format_exception(raised.value))
    assert "\n" not in str(raised.value)


def test_a_child_process_gets_the_credentials_by_variables(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"ca_file": certificates.ca, "certificate_file": certificates.client, "key_file": certificates.client_key}
    login = {"username": "u", "password": password("u"), **files, "key_password": password("key")}
    settings = load_settings(
        {
            "kafka": {**SASL, **files, "key_password": password("key")},
            "redis": {"url": "rediss://h:1/0", **login},
            "registry": {"url": "https://h", **login},
        }
    )
    variables = as_environment(settings)
    assert variables["SHOPSTREAM_KAFKA__PASSWORD"] == password("u")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings
    assert CANARY not in repr(setting_origins(settings)) + repr(settings)


def test_a_redis_client_gets_all_in_one_url(certificates: Certificates) -> None:
    spaced = certificates.ca.with_name("50% of & one+ca.pem")
    spaced.write_bytes(certificates.ca.read_bytes())
    settings = RedisSettings(
        url="rediss://host:6380/2?health_check_interval=7",
        username="ann/e",
        password=password("anne"),
        ca_file=spaced,
        certificate_file=certificates.client,
        key_file=certificates.client_key,
        key_password=password("key"),
    )
    told = parse_url(settings.connection_url.get_secret_value())  # type: ignore[no-untyped-call]
    assert told == {
        "username": "ann/e",
        "password": password("anne"),
        "host": "host",
        "port": 6380,
        "db": 2,
        "ssl_ca_certs": str(spaced),
        "ssl_certfile": str(certificates.client),
        "ssl_keyfile": str(certificates.client_key),
        "ssl_password": password("key"),
        "health_check_interval": 7,
        "connection_class": SSLConnection,
    }


@pytest.mark.parametrize("url", ["", "redis://h:1/0", "unix:///run/redis.sock", "rediss://user@h/0"])
def test_an_address_without_a_login_stays_as_it_is(url: str) -> None:
    assert RedisSettings(url=url).connection_url.get_secret_value().replace("user:@", "user@") == url


def test_a_login_in_the_url_is_taken_out_of_it() -> None:
    quoted = quote(password("app"), safe="")
    assert RegistrySettings(url=f"https://app:{quoted}@h:8443/api").address == (
        "https://h:8443/api",
        "app",
        password("app"),
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        (f"redis://u:{CANARY}@h", "redis://u:********@h"),
        (f"redis://:{CANARY}@h", "redis://:********@h"),
        (f"redis://{CANARY}@h", "redis://********@h"),
        (f"redis://:a/{CANARY}@x@h:1/0", "redis://:********@h:1/0"),
        (f"redis://:a#{CANARY}?@h", "redis://:********@h"),
        (f"rediss://h/0?ssl_password={CANARY}&db=1", "rediss://h/0?ssl_password=********&db=1"),
    ],
)
def test_what_may_be_shown_of_a_url(url: str, shown: str) -> None:
    assert masked_url(url) == shown
