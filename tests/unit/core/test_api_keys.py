"""Keys: read from their lines, known by their digests, never shown."""

import hashlib

import pytest

from cahoots_vllm.core.api_keys import digest_of, is_known, read_hash, read_key, read_line

KEY = "cv-" + "aB3_" * 6
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()


@pytest.mark.parametrize(
    ("line", "digest"),
    [
        (KEY, DIGEST),
        (f"  {KEY}\t", DIGEST),
        (f"sha256:{DIGEST}", DIGEST),
        (f"sha256:{DIGEST.upper()}", DIGEST),
        (DIGEST, digest_of(DIGEST.encode())),  # a key that looks like one: openssl rand -hex 32
        ("# why", None),
        ("", None),
    ],
)
def test_line_is_a_key_or_its_hash(line: str, digest: str | None) -> None:
    assert read_line(line) == digest


@pytest.mark.parametrize(
    "line", ["short", f"{KEY} {KEY}", "sha256:abcd", f"sha256:{DIGEST}0", f"{KEY}é", f"{KEY}\x07"]
)
def test_bad_line_is_refused_and_not_shown(line: str) -> None:
    with pytest.raises(ValueError, match=r"a key has|not of the form") as raised:
        read_line(line)
    assert line not in str(raised.value)


def test_hash_in_the_configuration_is_no_plain_key() -> None:
    assert read_hash(f"sha256:{DIGEST}") == DIGEST
    with pytest.raises(ValueError, match="64 hexadecimal"):
        read_hash(KEY)


def test_one_known_key_is_enough() -> None:
    digests = (digest_of(b"other"), DIGEST)
    assert is_known([KEY.encode()], digests)
    assert is_known([b"wrong", KEY.encode()], digests)
    assert not is_known([b"wrong", DIGEST.encode(), b""], digests)
    assert not is_known([], digests)
    assert not is_known([KEY.encode()], ())


def test_every_digest_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def compare(a: str, b: str) -> bool:
        compared.append(b)
        return a == b

    monkeypatch.setattr("hmac.compare_digest", compare)
    assert is_known([KEY.encode()], (DIGEST, "x", "y"))
    assert compared == [DIGEST, "x", "y"]
    assert read_key(KEY) == DIGEST
