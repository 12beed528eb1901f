"""The keys that seal what waits in a queue, and what they make of it.

AES-256-GCM (NIST SP 800-38D). A sealed value is a byte that says so, the key's id (4 bytes), a
random nonce (12), the ciphertext and its tag (16). Its role and the id of what it belongs to are
authenticated with it, so that it opens in no other place; its number and epoch are not, for a
salvage gives new ones. With random nonces a key may seal at most 2^32 values (SP 800-38D, 8.3): of
ten a second those of 13 years, so give a device another key long before.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgeclin.errors import BadFile, BadSeal, KeyAbsent
from edgeclin.files import open_file, reading

Role: TypeAlias = Literal["result", "review", "drop", "ask", "label", "kept review"]
"""What a value is: the body of a row of that kind, the message or the label of a question, or a
review that is kept for the bedside, which has its result's number for an id and is never moved."""

CREDENTIAL = "credential:"
"""Before the name of what systemd hands to a service."""
_SEALED = b"\x01"
"""No plain value begins with it: a body is JSON, a message zstd."""
_ID, _NONCE, _TAG, _KEY = 4, 12, 16, 32
MARK = len(_SEALED) + _ID
"""Bytes at the head of a sealed value that tell its key."""
_MOST = 64 << 10
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_MAKE = "make a key with `head -c 32 /dev/urandom | base64`"


class Keyring:
    """Keys of 32 bytes; the first seals, each opens what it sealed. Without any, what is to be
    sealed stays plain.

    Attributes:
        first: the id of the key that seals; empty without one.
        mark: the head of what it seals.
    """

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        self._ciphers = {key_id(key): AESGCM(key) for key in keys}
        self.first = next(iter(self._ciphers), "")
        self.mark = _SEALED + bytes.fromhex(self.first) if self.first else b""

    def __contains__(self, key: str) -> bool:
        return key in self._ciphers

    def seal(self, value: bytes, role: Role, identity: str) -> bytes:
        """Seal a value for its place, with the first key."""
        if not self.first:
            return value
        nonce = os.urandom(_NONCE)
        sealed = self._ciphers[self.first].encrypt(nonce, value, _place(role, identity))
        return self.mark + nonce + sealed

    def open(self, value: bytes, role: Role, identity: str) -> bytes:
        """What was sealed for that place; a plain value is as it is.

        Raises:
            KeyAbsent: its key is none of these.
            BadSeal: it was damaged, or sealed for another place.
        """
        if not is_sealed(value):
            return value
        if len(value) < MARK + _NONCE + _TAG:
            raise BadSeal("a sealed value is cut")
        key = value[len(_SEALED) : MARK].hex()
        cipher = self._ciphers.get(key)
        if cipher is None:
            raise KeyAbsent(key)
        nonce, sealed = value[MARK : MARK + _NONCE], value[MARK + _NONCE :]
        try:
            return cipher.decrypt(nonce, sealed, _place(role, identity))
        except InvalidTag as exc:
            raise BadSeal(f"damaged, or sealed for another place than {role} {identity}") from exc

    def seal_text(self, text: str | None, role: Role, identity: str) -> str | bytes | None:
        """As `seal`; nothing stays nothing, and text stays text without a key."""
        if text is None or not self.first:
            return text
        return self.seal(text.encode(), role, identity)

    def open_text(self, value: str | bytes | None, role: Role, identity: str) -> str | None:
        """What `seal_text` was given; raises as `open` does."""
        if not isinstance(value, bytes):
            return value
        return self.open(value, role, identity).decode(errors="replace")

    def legible(self, value: str | bytes | None, role: Role, identity: str) -> str | None:
        """As `open_text`, and nothing where it cannot be opened."""
        try:
            return self.open_text(value, role, identity)
        except (KeyAbsent, BadSeal):
            return None


NO_KEYS = Keyring()


def is_sealed(value: object) -> bool:
    """Whether a value from a database, which may be damaged, says that it is sealed."""
    return isinstance(value, bytes) and value.startswith(_SEALED)


def key_id(key: bytes) -> str:
    """What names a key and tells nothing of it, as 8 hexadecimal digits."""
    return hashlib.sha256(b"edgeclin queue key\0" + key).digest()[:_ID].hex()


def load_keyring(named: str) -> Keyring:
    """Read a file of keys, one a line in base64, with `#` before comments.

    Args:
        named: its path, or `credential:NAME` for a file that systemd hands to this service.

    Raises:
        BadFile: not there, for others to read, or something else than keys.
    """
    path = _path(named)
    with open_file(path) as file, reading(path):
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        lines = file.read(_MOST).splitlines()
    if mode & stat.S_IRWXO:
        problem = f"others than its owner and group may use it (mode {mode:04o})"
        raise BadFile(path, problem, f"chmod o= {path}")
    keys: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        text = line.partition(b"#")[0].strip()
        if not text:
            continue
        key = _key(text)
        if key is None:
            raise BadFile(path, f"line {number} is no key: 32 bytes in base64", _MAKE)
        if key_id(key) in keys:
            raise BadFile(path, f"line {number} has the id of a key above it", "delete one of both")
        keys[key_id(key)] = key
    if not keys:
        raise BadFile(path, "no key in it", _MAKE)
    return Keyring(list(keys.values()))


def handed_by_systemd(named: str) -> bool:
    """Whether only a service gets it, and this process is none that does."""
    return named.startswith(CREDENTIAL) and "CREDENTIALS_DIRECTORY" not in os.environ


def _path(named: str) -> Path:
    if not named.startswith(CREDENTIAL):
        return Path(named)
    name = named.removeprefix(CREDENTIAL)
    if not _NAME.fullmatch(name):
        raise BadFile(named, "no name of a credential", "use A-Z a-z 0-9 . _ - in queue.key")
    if handed_by_systemd(named):
        raise BadFile(
            named,
            "systemd hands no credentials to this process",
            f"give its unit LoadCredentialEncrypted={name}, or name a file in queue.key",
        )
    return Path(os.environ["CREDENTIALS_DIRECTORY"]) / name


def _key(text: bytes) -> bytes | None:
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return key if len(key) == _KEY else None


def _place(role: Role, identity: str) -> bytes:
    return f"{role} {identity}".encode()
