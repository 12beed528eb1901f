"""What is sealed opens in its place with its key alone; a file of keys is one, or is told."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgeclin.errors import BadFile, BadSeal, KeyAbsent
from edgeclin.offline_queue import NO_KEYS, Keyring, handed_by_systemd, load_keyring
from edgeclin.offline_queue.keyring import MARK, Role, key_id

KEYS = st.binary(min_size=32, max_size=32)
ROLES: st.SearchStrategy[Role] = st.sampled_from(["result", "review", "drop", "ask", "label"])
IDS = st.text(max_size=40)
PLACES = st.tuples(ROLES, st.uuids().map(str))
ONE, TWO = bytes(32), bytes(31) + b"\1"


@given(value=st.binary(max_size=2000), role=ROLES, identity=IDS, key=KEYS, older=KEYS)
def test_what_is_sealed_is_opened_by_any_keyring_that_has_the_key(
    value: bytes, role: Role, identity: str, key: bytes, older: bytes
) -> None:
    sealed = Keyring([key]).seal(value, role, identity)
    assert Keyring([older, key]).open(sealed, role, identity) == value
    assert sealed[:MARK] == Keyring([key, older]).mark
    assert len(sealed) == len(value) + 33
    assert Keyring([key]).seal(value, role, identity) != sealed, "each has a nonce of its own"


@given(value=st.binary(max_size=50), key=KEYS, place=PLACES, other=PLACES)
def test_what_is_sealed_opens_in_no_other_place(
    value: bytes, key: bytes, place: tuple[Role, str], other: tuple[Role, str]
) -> None:
    assume(place != other)
    keyring = Keyring([key])
    with pytest.raises(BadSeal, match="another place"):
        keyring.open(keyring.seal(value, *place), *other)


@given(value=st.binary(max_size=50), at=st.integers(MARK, 32), bit=st.integers(0, 7))
def test_one_changed_bit_is_found(value: bytes, at: int, bit: int) -> None:
    keyring = Keyring([ONE])
    sealed = bytearray(keyring.seal(value, "ask", "id"))
    sealed[at] ^= 1 << bit
    with pytest.raises(BadSeal):
        keyring.open(bytes(sealed), "ask", "id")


@given(value=st.binary(max_size=50), cut=st.integers(1, 32))
def test_what_is_cut_is_damaged_and_not_sealed_with_a_key_that_is_absent(
    value: bytes, cut: int
) -> None:
    sealed = Keyring([ONE]).seal(value, "ask", "id")
    with pytest.raises(BadSeal):
        Keyring([TWO]).open(sealed[:cut], "ask", "id")


def test_an_absent_key_is_named() -> None:
    sealed = Keyring([ONE]).seal(b"{}", "result", "id")
    for keyring in (Keyring([TWO]), NO_KEYS):
        with pytest.raises(KeyAbsent, match=r"put it back in queue\.key") as caught:
            keyring.open(sealed, "result", "id")
        assert caught.value.key == key_id(ONE)


@pytest.mark.parametrize("plain", [b"", b'{"label":"normal"}', b"(\xb5/\xfd zstd"])
def test_what_is_plain_stays_readable(plain: bytes) -> None:
    assert Keyring([ONE]).open(plain, "result", "id") == plain
    assert NO_KEYS.seal(plain, "result", "id") == plain


@pytest.mark.parametrize("text", [None, "", "normal", "gr\u00fcn"])
@pytest.mark.parametrize("keyring", [NO_KEYS, Keyring([ONE])])
def test_text_and_its_absence_are_sealed_too(text: str | None, keyring: Keyring) -> None:
    sealed = keyring.seal_text(text, "label", "id")
    assert keyring.open_text(sealed, "label", "id") == text
    assert keyring.legible(sealed, "label", "id") == text
    assert Keyring([ONE]).open_text(text, "label", "id") == text
    if isinstance(sealed, bytes):
        assert keyring.legible(sealed, "label", "another") is None
        assert NO_KEYS.legible(sealed, "label", "id") is None


# -- the file -----------------------------------------------------------------------------------


def write_keys(path: Path, *keys: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(b"".join(base64.b64encode(key) + b"\n" for key in keys))
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640])
def test_the_first_of_the_file_s_keys_seals_and_all_open(tmp_path: Path, mode: int) -> None:
    path = write_keys(tmp_path / "queue.key", ONE, TWO)
    path.write_text(f"# since May\n\n{path.read_text()}".replace("\n", " # one\n"))
    path.chmod(mode)
    keyring = load_keyring(str(path))
    assert keyring.first == key_id(ONE)
    assert keyring.open(Keyring([TWO]).seal(b"x", "ask", "id"), "ask", "id") == b"x"


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o666])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = write_keys(tmp_path / "queue.key", ONE, mode=mode)
    with pytest.raises(BadFile, match=rf"\(mode 0{mode:o}\); chmod o= "):
        load_keyring(str(path))


SECRET = base64.b64encode(bytes(range(31))).decode()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no key in it; make a key with"),
        ("# nothing\n", "no key in it"),
        (f"# one\n{SECRET}\n", "line 2 is no key"),
        ("not base64 at all\n", "line 1 is no key"),
        ("\u00e4\n", "line 1 is no key"),
        (f"{base64.b64encode(ONE).decode()}\n" * 2, "line 2 has the id of a key above it"),
    ],
)
def test_what_is_no_file_of_keys_is_told_without_its_contents(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / "queue.key"
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(BadFile, match=problem) as caught:
        load_keyring(str(path))
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no such file"):
        load_keyring(str(tmp_path / "queue.key"))


def test_a_credential_is_read_where_systemd_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_keys(tmp_path / "queue-key", ONE, mode=0o400)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert handed_by_systemd("credential:queue-key")
    with pytest.raises(BadFile, match="LoadCredentialEncrypted=queue-key, or name a file"):
        load_keyring("credential:queue-key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert not handed_by_systemd("credential:queue-key")
    assert load_keyring("credential:queue-key").first == key_id(ONE)
    for name in ("../queue-key", "", ".."):
        with pytest.raises(BadFile, match="no name of a credential"):
            load_keyring(f"credential:{name}")
