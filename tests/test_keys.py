"""keys: who made a bundle, checked here also without the library that edgeclin checks it with."""

from __future__ import annotations

import base64
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from unprivileged import closed

from edgeclin.errors import BadBundle, BadFile, EdgeclinError, UntrustedBundle
from edgeclin.keys import (
    PAYLOAD_TYPE,
    KeyPair,
    default_folder,
    load_public_key,
    load_signer,
    new_key_pair,
    sign,
    trusted_keys,
    verify,
)

WHERE = Path("manifest.dsse.json")
PAYLOAD = b'{"schema": 1}'


def pae(payload: bytes, kind: str = PAYLOAD_TYPE) -> bytes:
    """What DSSE signs: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md"""
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)


def envelope(payload: bytes, signatures: Any, kind: str = PAYLOAD_TYPE) -> bytes:
    body = {"payload": base64.b64encode(payload).decode(), "payloadType": kind}
    return json.dumps(body | {"signatures": signatures}, indent=1).encode() + b"\n"


def private_key(pair: KeyPair) -> Ed25519PrivateKey:
    key = load_pem_private_key(pair.private.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return key


def signature(pair: KeyPair, signed: bytes) -> dict[str, str]:
    made = private_key(pair).sign(signed)
    return {"keyid": pair.key_id, "sig": base64.b64encode(made).decode()}


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return new_key_pair(tmp_path_factory.mktemp("stranger"))


@settings(deadline=None)
@given(payload=st.binary())
def test_what_a_key_signed_its_public_key_confirms(
    key_pair: KeyPair, trust: list[Any], payload: bytes
) -> None:
    made = sign(payload, load_signer(key_pair.private))
    assert verify(made, payload, trust, WHERE) == key_pair.key_id


def test_anyone_can_check_an_envelope_with_the_standard_alone(key_pair: KeyPair) -> None:
    made = json.loads(sign(PAYLOAD, load_signer(key_pair.private)))
    assert made["payloadType"] == "application/vnd.edgeclin.manifest+json"
    assert base64.b64decode(made["payload"]) == PAYLOAD
    (only,) = made["signatures"]
    public = load_pem_public_key(key_pair.public.read_bytes())
    assert isinstance(public, Ed25519PublicKey)
    public.verify(base64.b64decode(only["sig"]), pae(PAYLOAD))


def test_an_envelope_made_with_the_standard_alone_is_accepted(
    key_pair: KeyPair, trust: list[Any]
) -> None:
    made = envelope(PAYLOAD, [signature(key_pair, pae(PAYLOAD))])
    assert verify(made, PAYLOAD, trust, WHERE) == key_pair.key_id


def test_the_same_envelope_spelt_otherwise_is_refused(key_pair: KeyPair, trust: list[Any]) -> None:
    """Or there were bytes in a signed bundle that may be changed."""
    made = sign(PAYLOAD, load_signer(key_pair.private))
    facts = json.loads(made)
    padded = facts["signatures"][0]["sig"]  # ends in two pad characters and four unused bits
    last = chr(ord(padded[-3]) + 1)
    for other in (
        json.dumps(facts).encode(),
        made + b"\n",
        made.replace(b": ", b":\t"),
        made.replace(padded.encode(), (padded[:-3] + last + "==").encode()),
    ):
        with pytest.raises(BadBundle, match="not spelt as edgeclin spells an envelope"):
            verify(other, PAYLOAD, trust, WHERE)


def test_one_of_several_signers_is_enough(
    key_pair: KeyPair, stranger: KeyPair, trust: list[Any]
) -> None:
    signers = [signature(stranger, pae(PAYLOAD)), signature(key_pair, pae(PAYLOAD))]
    assert verify(envelope(PAYLOAD, signers), PAYLOAD, trust, WHERE) == key_pair.key_id


@pytest.mark.parametrize("signed", [PAYLOAD, pae(PAYLOAD, "text/plain"), pae(b"other"), b""])
def test_a_signature_over_anything_else_is_none(
    key_pair: KeyPair, trust: list[Any], signed: bytes
) -> None:
    made = envelope(PAYLOAD, [signature(key_pair, signed)])
    with pytest.raises(BadBundle, match=r"no valid signature by a trusted key.*damaged or forged"):
        verify(made, PAYLOAD, trust, WHERE)


def test_a_stranger_s_signature_is_none_and_the_stranger_is_named(
    stranger: KeyPair, trust: list[Any]
) -> None:
    made = sign(PAYLOAD, load_signer(stranger.private))
    with pytest.raises(UntrustedBundle, match=f"signed by {stranger.key_id[:12]}.*--trust"):
        verify(made, PAYLOAD, trust, WHERE)


def test_a_stranger_s_signature_under_a_trusted_name_is_none(
    key_pair: KeyPair, stranger: KeyPair, trust: list[Any]
) -> None:
    forged = signature(stranger, pae(PAYLOAD)) | {"keyid": key_pair.key_id}
    with pytest.raises(BadBundle, match=r"no valid signature.*named; it is damaged") as caught:
        verify(envelope(PAYLOAD, [forged]), PAYLOAD, trust, WHERE)
    assert not isinstance(caught.value, UntrustedBundle)  # which could be waived


def test_an_envelope_for_another_payload_or_purpose_is_refused(
    key_pair: KeyPair, trust: list[Any]
) -> None:
    text = pae(PAYLOAD, "text/plain")
    for made in (
        sign(b"other", load_signer(key_pair.private)),
        envelope(PAYLOAD, [signature(key_pair, text)], "text/plain"),
    ):
        with pytest.raises(BadBundle, match=r"for another manifest\.json") as caught:
            verify(made, PAYLOAD, trust, WHERE)
        assert not isinstance(caught.value, UntrustedBundle)


def test_without_a_trusted_key_nothing_is_trusted(key_pair: KeyPair) -> None:
    made = sign(PAYLOAD, load_signer(key_pair.private))
    with pytest.raises(UntrustedBundle, match=r"no trusted public key.*--trust"):
        verify(made, PAYLOAD, [], WHERE)


SIG = base64.b64encode(bytes(64)).decode()


@pytest.mark.parametrize(
    "signatures",
    [
        [],
        {},
        None,
        "sig",
        [None],
        [{}],
        [{"keyid": None, "sig": SIG}],
        [{"keyid": 7, "sig": SIG}],
        [{"keyid": ["a"], "sig": SIG}],
        [{"keyid": "a", "sig": 5}],
        [{"keyid": "a", "sig": "***"}],
        [{"keyid": "a", "sig": ""}],
        [{"keyid": "a", "sig": SIG}, {"keyid": "a", "sig": SIG}],
        [{"keyid": "a", "sig": SIG}, {"keyid": 7, "sig": SIG}],
    ],
)
def test_strange_signatures_are_no_signature(trust: list[Any], signatures: Any) -> None:
    with pytest.raises(BadBundle) as caught:
        verify(envelope(PAYLOAD, signatures), PAYLOAD, trust, WHERE)
    assert str(WHERE) in str(caught.value)


@pytest.mark.parametrize("sig", [b"", b"\0", bytes(63), bytes(65), bytes(64)])
def test_a_signature_of_the_wrong_length_or_of_zeros_is_none(
    key_pair: KeyPair, trust: list[Any], sig: bytes
) -> None:
    made = [{"keyid": key_pair.key_id, "sig": base64.b64encode(sig).decode()}]
    with pytest.raises(BadBundle, match="no valid signature"):
        verify(envelope(PAYLOAD, made), PAYLOAD, trust, WHERE)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["payload", "payloadType", "signatures", "keyid", "sig"]), inner
        )
    ),
)


@settings(deadline=None, max_examples=200)
@given(data=st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_the_envelope_it_is_a_bad_bundle_and_nothing_else(
    trust: list[Any], data: bytes
) -> None:
    with pytest.raises(BadBundle):
        verify(data, PAYLOAD, trust, WHERE)


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"payload":' * 50_000])
def test_an_envelope_that_nests_too_deep_is_none(trust: list[Any], data: bytes) -> None:
    with pytest.raises(BadBundle, match="not a DSSE envelope") as caught:
        verify(data, PAYLOAD, trust, WHERE)
    assert not isinstance(caught.value, UntrustedBundle)


# Key files


def test_a_new_pair_is_secret_where_it_must_be(tmp_path: Path) -> None:
    pair = new_key_pair(tmp_path / "new" / "folder", "clinic")
    assert pair.private == tmp_path / "new" / "folder" / "clinic.key"
    assert stat.S_IMODE(pair.private.stat().st_mode) == 0o600
    assert stat.S_IMODE(pair.public.stat().st_mode) == 0o644
    assert b"PRIVATE" not in pair.public.read_bytes()
    assert load_public_key(pair.public).keyid == pair.key_id


def test_two_pairs_differ(tmp_path: Path) -> None:
    assert new_key_pair(tmp_path, "a").key_id != new_key_pair(tmp_path, "b").key_id


@pytest.mark.parametrize("suffix", ["key", "pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, suffix: str) -> None:
    there = tmp_path / f"default.{suffix}"
    there.write_bytes(b"precious")
    with pytest.raises(BadFile, match=r"default\.(key|pub): a key of that name exists.*--name"):
        new_key_pair(tmp_path)
    assert list(tmp_path.iterdir()) == [there]
    assert there.read_bytes() == b"precious"


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadFile, match=r"file.*cannot be written"):
        new_key_pair(tmp_path / "file" / "keys")


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "../evil", "a/b", "/tmp/a", "a\0b", "-x", "a b", "a\n", "ü"]
)
def test_a_key_name_is_a_plain_file_name_or_refused_before_a_folder_is_made(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(EdgeclinError, match=r"must be 1 to 64 of the characters.*--name") as caught:
        new_key_pair(tmp_path / "new" / "folder", name)
    assert repr(name) in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a", "A.b-c_9", "_", "x" * 64])
def test_a_plain_key_name_is_taken(tmp_path: Path, name: str) -> None:
    assert new_key_pair(tmp_path, name).public.name == f"{name}.pub"


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_full_disk_is_one_sentence_and_leaves_no_half_pair(tmp_path: Path, room: int) -> None:
    """`room` is how many fsyncs succeed: of the private key, of its name, of the public key."""
    left = iter(range(room))

    def fsync(_: int) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(BadFile, match="No space left"):
            new_key_pair(tmp_path)
    assert not list(tmp_path.iterdir())
    new_key_pair(tmp_path)


def key_files(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Private and public key files that are not ours."""
    curve, modulus = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
    found: dict[str, tuple[Path, Path]] = {}
    for name, key in (("curve", curve), ("rsa", modulus)):
        private, public = folder / f"{name}.key", folder / f"{name}.pub"
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public.write_bytes(
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        found[name] = private, public
    return found


def test_a_key_of_another_kind_is_refused_with_its_path(tmp_path: Path) -> None:
    for private, public in key_files(tmp_path).values():
        with pytest.raises(BadFile, match="not an Ed25519 key; make one with") as caught:
            load_signer(private)
        assert str(private) in str(caught.value)
        with pytest.raises(BadFile, match="not an Ed25519 key; make one with"):
            load_public_key(public)


def test_an_encrypted_private_key_is_refused(tmp_path: Path, key_pair: KeyPair) -> None:
    file = tmp_path / "locked.key"
    locked = BestAvailableEncryption(b"password")
    file.write_bytes(private_key(key_pair).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    with pytest.raises(BadFile, match="not an unencrypted PEM private key"):
        load_signer(file)


def test_private_and_public_are_not_taken_for_each_other(key_pair: KeyPair) -> None:
    with pytest.raises(BadFile, match="not an unencrypted PEM private key"):
        load_signer(key_pair.public)
    with pytest.raises(BadFile, match="not a PEM public key"):
        load_public_key(key_pair.private)


def test_a_missing_key_is_said_with_its_path(tmp_path: Path) -> None:
    for load in (load_signer, load_public_key):
        with pytest.raises(BadFile, match="absent: no such file"):
            load(tmp_path / "absent")


@settings(deadline=None)
@given(data=st.data())
def test_whatever_the_key_file_it_is_a_bad_file_and_nothing_else(
    key_pair: KeyPair, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    pem = bytearray(key_pair.public.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        pem[data.draw(st.integers(0, len(pem) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "fuzz.pub"
    file.write_bytes(data.draw(st.sampled_from([bytes(pem), bytes(pem[:40])]) | st.binary()))
    for load in (load_public_key, load_signer):
        try:
            load(file)
        except BadFile as exc:
            assert str(file) in str(exc)


def test_trusted_keys_are_those_named_or_else_those_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECLIN_KEYS", str(tmp_path))
    pairs = [new_key_pair(default_folder(), name) for name in "ab"]
    assert [key.keyid for key in trusted_keys([])] == [pair.key_id for pair in pairs]
    assert [key.keyid for key in trusted_keys([pairs[1].public])] == [pairs[1].key_id]


def test_a_key_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "keys"
    monkeypatch.setenv("EDGECLIN_KEYS", str(folder))
    new_key_pair(folder)
    assert trusted_keys([])
    with (
        closed(folder),
        pytest.raises(BadFile, match=r"cannot be read \(Permission denied\); mend") as caught,
    ):
        trusted_keys([])
    assert str(folder) in str(caught.value)
    monkeypatch.setenv("EDGECLIN_KEYS", str(folder / "default.pub"))
    with pytest.raises(BadFile, match=r"default\.pub: cannot be read \(Not a directory\)"):
        trusted_keys([])


def test_keys_have_a_folder_when_nobody_says_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("EDGECLIN_KEYS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert default_folder().parts[-2:] == ("edgeclin", "keys")
    assert trusted_keys([]) == []
