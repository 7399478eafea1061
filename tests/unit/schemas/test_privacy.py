"""Keyed hashes: the same in any language, different for every key, and never a name."""

import hashlib

import pytest

from config.errors import SettingsError
from config.privacy import PrivacySettings
from config.settings import load_settings, setting_origins
from schemas.dead_letter import DeadLetter, Reason, Stage
from schemas.privacy import NOT_KEPT, Pseudonyms, without_quotes

KEY = b"0123456789abcdef"


def test_a_pseudonym_is_what_the_documentation_says() -> None:
    expected = "psn_" + hashlib.blake2b("käthe".encode(), digest_size=16, key=KEY).hexdigest()
    assert Pseudonyms(KEY).of("käthe") == expected
    assert Pseudonyms(KEY).of("u1") == "psn_65e8d9f2b775f6dfdc343db5ae1af65b"


def test_another_key_gives_other_hashes() -> None:
    one, other = Pseudonyms(KEY), Pseudonyms(KEY[::-1])
    assert one.of("u1") != other.of("u1")
    assert one.key_id != other.key_id
    assert one.of("u1") != one.of("u2")


def test_the_subject_of_an_erasure_is_found_from_either_form_of_an_id() -> None:
    hashes = Pseudonyms(KEY)
    subject = hashes.subject("u1")
    assert subject in hashes.subjects("u1")
    assert subject in hashes.subjects(hashes.of("u1"))
    assert subject not in hashes.subjects("u2")
    assert hashes.of("u1").removeprefix("psn_") != subject
    # somebody whose real id looks like a pseudonym is still found
    assert hashes.subject("psn_x") in hashes.subjects("psn_x")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"pseudonymise": True}, "privacy.key is not set"),
        ({"key": "short"}, "privacy.key has 5 bytes"),
        ({"key": "x" * 65}, "privacy.key has 65 bytes"),
    ],
)
def test_a_key_that_cannot_be_used_is_told_in_one_sentence(given: dict[str, object], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint) as raised:
        load_settings({"privacy": given})
    assert str(given.get("key", "nothing")) not in str(raised.value)


def test_the_key_is_never_shown() -> None:
    overrides = {"privacy": {"key": "a key that nobody sees"}}
    settings = load_settings(overrides)
    shown = [str(row) for row in setting_origins(settings, overrides)]
    assert not any("nobody sees" in row for row in (*shown, repr(settings)))


def test_ids_are_kept_unless_that_is_switched_on() -> None:
    assert Pseudonyms.in_use(PrivacySettings()) is None
    only_key = PrivacySettings.model_validate({"key": KEY.decode()})
    assert Pseudonyms.in_use(only_key) is None
    assert Pseudonyms.with_key_of(only_key) is not None
    with pytest.raises(SettingsError, match=r"privacy\.key is not set"):
        Pseudonyms.required(PrivacySettings())


@pytest.mark.parametrize("reason", Reason)
def test_the_words_of_a_letter_quote_nothing_of_its_record(reason: Reason) -> None:
    letter = DeadLetter(
        topic="t",
        partition=0,
        offset=1,
        append_time_ms=2,
        key=b"k",
        value=b"v",
        schema_id=None,
        stage=Stage.VALIDATE,
        reason=reason,
        detail="kind is 'u1'",
        first_seen_ms=3,
    )
    quoting = {Reason.INVALID_VALUE, Reason.UNDECODABLE}
    assert without_quotes(letter).detail == (NOT_KEPT if reason in quoting else letter.detail)
