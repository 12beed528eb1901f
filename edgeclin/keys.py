"""Ed25519 keys and DSSE envelopes: who made a bundle, or gave a command.

The envelope is the Dead Simple Signing Envelope (https://github.com/secure-systems-lab/dsse),
written and checked by securesystemslib; keys are PEM files (PKCS8 private, SPKI public).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from edgeclin.errors import (
    BadBundle,
    BadFile,
    EdgeclinError,
    UntrustedBundle,
    UntrustedMessage,
)
from edgeclin.files import read_small, reading, write_atomic

PAYLOAD_TYPE = "application/vnd.edgeclin.manifest+json"

_MAX_KEY = 64 << 10
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_FETCH = "it is damaged or forged: fetch the bundle again"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Where a new pair was written, and the id by which envelopes name it."""

    private: Path
    public: Path
    key_id: str


def default_folder() -> Path:
    """Where keys live when nobody says otherwise; `EDGECLIN_KEYS` overrides it."""
    return Path(os.environ.get("EDGECLIN_KEYS") or Path(click.get_app_dir("edgeclin")) / "keys")


def new_key_pair(folder: Path, name: str = "default") -> KeyPair:
    """Make `name.key` (mode 0600) and `name.pub` in `folder`.

    Raises:
        BadFile: a key of that name exists (it is never overwritten), or `folder` is not writable.
        EdgeclinError: a name that is more than a plain file name.
    """
    if not _NAME.fullmatch(name):
        raise EdgeclinError(
            f"key name {name!r} must be 1 to 64 of the characters A-Z a-z 0-9 . _ - and begin with "
            "none of . and -; choose another with --name"
        )
    private_path, public_path = folder / f"{name}.key", folder / f"{name}.pub"
    for path in (private_path, public_path):
        with reading(path):
            if path.exists():
                raise BadFile(path, "a key of that name exists", "choose another with --name")
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public_pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(private_path, pem, mode=0o600)
        write_atomic(public_path, public_pem)
    except OSError as exc:
        with suppress(OSError):  # half a pair would bar the way of the next
            private_path.unlink()
        raise BadFile(folder, f"cannot be written ({exc.strerror})") from exc
    return KeyPair(private_path, public_path, load_public_key(public_path).keyid)


def load_signer(path: Path) -> Any:
    """Read a private key as a securesystemslib signer.

    Raises:
        BadFile: not there, or not an unencrypted PKCS8 PEM of an Ed25519 key.
    """
    from securesystemslib.signer import CryptoSigner

    pem = read_small(path, _MAX_KEY)
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise BadFile(path, "not an unencrypted PEM private key") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise BadFile(path, "not an Ed25519 key", "make one with `edgeclin keys new`")
    return CryptoSigner(key)


def load_public_key(path: Path) -> Any:
    """Read a public key as a securesystemslib key.

    Raises:
        BadFile: not there, or not an SPKI PEM of an Ed25519 key.
    """
    from securesystemslib.signer import SSlibKey

    pem = read_small(path, _MAX_KEY)
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise BadFile(path, "not a PEM public key") from exc
    if not isinstance(key, Ed25519PublicKey):
        raise BadFile(path, "not an Ed25519 key", "make one with `edgeclin keys new`")
    return SSlibKey.from_crypto(key)


def public_keys(folder: Path) -> list[Path]:
    """Every `*.pub` in a key folder; none where there is no folder.

    Raises:
        BadFile: the folder cannot be read.
    """
    with reading(folder):
        if not folder.exists():
            return []
        return sorted(path for path in folder.iterdir() if path.name.endswith(".pub"))


def trusted_keys(paths: Sequence[Path]) -> list[Any]:
    """The public keys at `paths`, or every `*.pub` of the default folder when there are none.

    Raises:
        BadFile: one of them, or the folder, cannot be read.
    """
    return [load_public_key(path) for path in paths or public_keys(default_folder())]


def sign(payload: bytes, signer: Any) -> bytes:
    """An envelope of a manifest, as JSON, with one signature over `payload`."""
    return _spelt(envelope_of(payload, PAYLOAD_TYPE, signer))


def envelope_of(payload: bytes, kind: str, signer: Any) -> dict[str, Any]:
    """An envelope with one signature over `payload` and its type."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(payload, kind, {})
    envelope.sign(signer)
    return dict(envelope.to_dict())


def signer_of(envelope: dict[str, Any], kind: str, keys: Sequence[Any]) -> str:
    """The id of the trusted key that signed an envelope of that type.

    Raises:
        UntrustedMessage: another type, or no valid signature by one of `keys`.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error

    try:
        parsed = Envelope.from_dict(envelope)
        if parsed.payload_type == kind:
            return str(next(iter(parsed.verify(list(keys), 1))))
    except (Error, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise UntrustedMessage("no valid signature by a trusted key") from exc
    raise UntrustedMessage("it is signed as something else")


def _spelt(envelope: dict[str, Any]) -> bytes:
    """The one spelling of an envelope that counts."""
    return json.dumps(envelope, indent=1).encode() + b"\n"


def verify(envelope: bytes, payload: bytes, keys: Sequence[Any], path: Path) -> str:
    """Check that a trusted key signed exactly `payload`; return that key's id.

    Raises:
        UntrustedBundle: no signature by a trusted key.
        BadBundle: damaged envelope, another payload, or a trusted key's name on a wrong signature.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError

    try:
        parsed = Envelope.from_dict(json.loads(envelope))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise BadBundle(path, "not a DSSE envelope", _FETCH) from exc
    if parsed.payload_type != PAYLOAD_TYPE or parsed.payload != payload:
        raise BadBundle(path, "the signature is for another manifest.json", _FETCH)
    if not keys:
        raise UntrustedBundle(
            path, "no trusted public key to check the signature with", "name one with --trust"
        )
    try:
        signer = str(next(iter(parsed.verify(list(keys), 1))))
    except VerificationError as exc:
        for key_id in sorted({key.keyid for key in keys} & set(parsed.signatures)):
            problem = f"no valid signature by a trusted key, though {key_id[:12]} is named"
            raise BadBundle(path, problem, _FETCH) from exc
        signers = ", ".join(sorted(str(key_id)[:12] for key_id in parsed.signatures)) or "nobody"
        raise UntrustedBundle(
            path,
            f"no valid signature by a trusted key (signed by {signers})",
            "trust the signer's public key with --trust, if you do",
        ) from exc
    if envelope != _spelt(parsed.to_dict()):
        raise BadBundle(path, "not spelt as edgeclin spells an envelope", _FETCH)
    return signer
