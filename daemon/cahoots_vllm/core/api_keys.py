"""Keys of the gateway's clients: only their SHA-256 digests are kept and compared.

A plain digest is enough, no slow hash: the keys are long and random, and short ones are refused.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Final

PREFIX: Final = "sha256:"
_HASH: Final = re.compile(r"^sha256:[0-9a-fA-F]{64}$")
_SHORTEST: Final = 16


def digest_of(key: bytes) -> str:
    """Return what a key is known by, 64 hexadecimal digits."""
    return hashlib.sha256(key).hexdigest()


def read_hash(text: str) -> str:
    """Return the digest in "sha256:HEX". Raises ValueError, which does not show the text."""
    if not _HASH.match(text):
        message = 'not of the form "sha256:" and 64 hexadecimal digits'
        raise ValueError(message)
    return text.removeprefix(PREFIX).lower()


def read_key(text: str) -> str:
    """Return the digest of a plain key. Raises ValueError, which does not show the text."""
    if not (text.isascii() and text.isprintable() and " " not in text):
        message = "a key has no blanks and no odd characters"
        raise ValueError(message)
    if len(text) < _SHORTEST:
        message = f"a key has {_SHORTEST} characters at least"
        raise ValueError(message)
    return digest_of(text.encode())


def read_line(line: str) -> str | None:
    """Return the digest in a line of a key file, None for a comment. Raises ValueError."""
    text = line.strip()
    if not text or text.startswith("#"):
        return None
    return read_hash(text) if text.startswith(PREFIX) else read_key(text)


def is_known(keys: Iterable[bytes], digests: Iterable[str]) -> bool:
    """Whether one of the keys is known; takes the same time whichever it is, and if none is."""
    offered = [digest_of(key) for key in keys]
    found = False
    for digest in digests:
        for each in offered:
            found |= hmac.compare_digest(each, digest)
    return found
