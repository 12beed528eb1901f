"""bundle: opened only when every byte is what its maker signed; written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import re
import shutil
import stat
import struct
import tempfile
import threading
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unprivileged import NOBODY, closed

from edgeclin import bundle as bundle_module
from edgeclin.bundle import MANIFEST, SIGNATURE, Bundle, write_bundle
from edgeclin.errors import BadBundle, BadFile, EdgeclinError, UntrustedBundle
from edgeclin.keys import KeyPair, load_signer, new_key_pair, sign
from edgeclin.manifest import FileEntry, Manifest

Form = Literal["zip", "folder"]
Entries = dict[str, bytes]
Parts = tuple[Manifest, Entries]

both_forms = pytest.mark.parametrize("form", ["zip", "folder"])
NOISE = os.urandom(48 << 10)


def lay(folder: Path, form: Form, entries: Mapping[str, bytes]) -> Path:
    """A bundle of these very files, laid out without the code under test."""
    if form == "zip":
        return pack(folder / "laid.edgeclin", entries)
    path = folder / "laid"
    for name, data in entries.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def pack(path: Path, entries: Mapping[str, bytes] | list[tuple[Any, bytes]]) -> Path:
    listed = entries.items() if isinstance(entries, Mapping) else entries
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")  # duplicate names are what some tests want
        for name, data in listed:
            entry = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            entry.external_attr = entry.external_attr or 0o644 << 16
            archive.writestr(entry, data)
    return path


def unpack(data: bytes) -> Entries:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def signed(pair: KeyPair, manifest: Manifest | bytes, files: Mapping[str, bytes]) -> Entries:
    """Files with a signed manifest, whatever it says: edgeclin would not write some of them."""
    payload = manifest if isinstance(manifest, bytes) else manifest.to_json()
    return {MANIFEST: payload, SIGNATURE: sign(payload, load_signer(pair.private)), **files}


def listing(manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    entries = {
        name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        for name, data in files.items()
    }
    return msgspec.structs.replace(manifest, files=entries)


def refused(path: Path, trust: list[Any], name: str, reason: str, **options: Any) -> BadBundle:
    """Check that a bundle is refused with the file's name and the reason."""
    with pytest.raises(BadBundle) as caught:
        Bundle.open(path, trust, **options)
    message = str(caught.value)
    assert name in message
    assert str(path) in message
    assert re.search(reason, message), message
    return caught.value


def contents(bundle: Bundle) -> Entries:
    return {name: bundle.read(name) for name in bundle.manifest.files}


@pytest.fixture(scope="module")
def entries(key_pair: KeyPair, manifest_and_files: Parts) -> Entries:
    """Every file of a sound bundle, manifest and signature included."""
    manifest, files = manifest_and_files
    return signed(key_pair, listing(manifest, files), files)


@pytest.fixture(scope="module")
def sound(
    tmp_path_factory: pytest.TempPathFactory, key_pair: KeyPair, manifest_and_files: Parts
) -> bytes:
    """The bytes of a sound bundle file, as edgeclin writes it."""
    path = tmp_path_factory.mktemp("sound") / "sound.edgeclin"
    manifest, files = manifest_and_files
    return write_bundle(path, manifest, files, load_signer(key_pair.private)).read_bytes()


@pytest.fixture
def other_key(tmp_path: Path) -> KeyPair:
    return new_key_pair(tmp_path / "other")


# A sound bundle


@both_forms
def test_what_was_written_is_read(
    form: Form,
    tmp_path: Path,
    key_pair: KeyPair,
    trust: list[Any],
    manifest_and_files: Parts,
) -> None:
    manifest, files = manifest_and_files
    path = tmp_path / ("b.edgeclin" if form == "zip" else "b")
    assert write_bundle(path, manifest, files, load_signer(key_pair.private)) == path
    bundle = Bundle.open(str(path), trust)
    assert contents(bundle) == files
    assert bundle.manifest == listing(manifest, files)
    assert bundle.signed_by == key_pair.key_id
    assert bundle.digest == hashlib.sha256(bundle.manifest.to_json()).hexdigest()


def test_both_forms_are_the_same_bundle(
    tmp_path: Path, trust: list[Any], key_pair: KeyPair, manifest_and_files: Parts
) -> None:
    manifest, files = manifest_and_files
    signer = load_signer(key_pair.private)
    file = write_bundle(tmp_path / "b.edgeclin", manifest, files, signer)
    folder = write_bundle(tmp_path / "b", manifest, files, signer)
    inside = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
    assert inside == unpack(file.read_bytes())
    assert Bundle.open(file, trust).digest == Bundle.open(folder, trust).digest


@both_forms
def test_a_bundle_laid_out_by_another_program_is_read(
    form: Form, tmp_path: Path, trust: list[Any], entries: Entries, manifest_and_files: Parts
) -> None:
    bundle = Bundle.open(lay(tmp_path, form, dict(reversed(entries.items()))), trust)
    assert contents(bundle) == manifest_and_files[1]


@both_forms
def test_files_may_stand_in_folders_of_the_bundle(
    form: Form, tmp_path: Path, trust: list[Any], key_pair: KeyPair, manifest_and_files: Parts
) -> None:
    manifest, files = manifest_and_files
    files = {**files, "reports/a/b.json": b"{}"}
    path = tmp_path / ("b.edgeclin" if form == "zip" else "b")
    write_bundle(path, manifest, files, load_signer(key_pair.private))
    assert contents(Bundle.open(path, trust)) == files


@both_forms
def test_a_bundle_of_zeros_is_no_bomb_when_edgeclin_wrote_it(
    form: Form, tmp_path: Path, trust: list[Any], key_pair: KeyPair, manifest_and_files: Parts
) -> None:
    manifest, files = manifest_and_files
    files = {**files, "pruned.bin": bytes(8 << 20)}
    path = tmp_path / ("b.edgeclin" if form == "zip" else "b")
    write_bundle(path, manifest, files, load_signer(key_pair.private))
    assert contents(Bundle.open(path, trust)) == files


def test_equal_content_is_equal_bytes_whoever_writes_it_when(
    tmp_path: Path, sound: bytes, key_pair: KeyPair, manifest_and_files: Parts
) -> None:
    manifest, files = manifest_and_files
    turned = dict(reversed(files.items()))
    assert list(turned) != list(files)
    before = os.umask(0o077)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("time.time", lambda: 0.0)
            patch.setattr("time.localtime", lambda *_: (2044, 4, 4, 4, 4, 4, 0, 0, 0))
            signer = load_signer(key_pair.private)
            again = write_bundle(tmp_path / "again.edgeclin", manifest, turned, signer)
    finally:
        os.umask(before)
    assert again.read_bytes() == sound


# A changed byte


def flipped(data: bytes, position: int) -> bytes:
    """`data` with one bit changed, each position another one."""
    changed = bytearray(data)
    changed[position] ^= 1 << (position * 5 % 8)
    return bytes(changed)


def regions(data: bytes) -> dict[str, tuple[int, int]]:
    """Where in a zip file the packed bytes of each file stand."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        found = {}
        for entry in archive.infolist():
            name, extra = struct.unpack("<HH", data[entry.header_offset + 26 :][:4])
            start = entry.header_offset + 30 + name + extra
            found[entry.filename] = (start, start + entry.compress_size)
    return found


def test_every_single_changed_byte_of_a_zip_is_refused_with_the_file_s_name(
    tmp_path: Path, sound: bytes, trust: list[Any]
) -> None:
    path = tmp_path / "changed.edgeclin"
    path.write_bytes(sound)
    assert Bundle.open(path, trust).signed_by
    owner = {
        position: name
        for name, (start, end) in regions(sound).items()
        for position in range(start, end)
    }
    for position in range(len(sound)):
        path.write_bytes(flipped(sound, position))
        with pytest.raises(BadBundle) as caught:
            Bundle.open(path, trust)
        assert owner.get(position, path.name) in str(caught.value)


def test_every_single_changed_byte_of_a_folder_is_refused_with_the_file_s_name(
    tmp_path: Path, entries: Entries, trust: list[Any], key_pair: KeyPair
) -> None:
    path = lay(tmp_path, "folder", entries)
    for name, data in entries.items():
        for position in range(len(data)):
            (path / name).write_bytes(flipped(data, position))
            with pytest.raises(BadBundle) as caught:
                Bundle.open(path, trust)
            assert str(path / name) in str(caught.value) or (
                name == MANIFEST and MANIFEST in str(caught.value)
            )
        (path / name).write_bytes(data)
    assert Bundle.open(path, trust).signed_by == key_pair.key_id


def test_a_changed_byte_never_makes_an_unsigned_bundle_of_a_signed_one(
    tmp_path: Path, sound: bytes, trust: list[Any]
) -> None:
    """The last 2 KiB are the signature and the zip directory, which could lose or rename it."""
    path = tmp_path / "changed.edgeclin"
    directory = sound.index(b"PK\x01\x02")
    for position in range(len(sound) - 2048, len(sound)):
        masks = [*(1 << bit for bit in range(8)), 0xFF] if position >= directory else [0xFF]
        for mask, allow_unsigned in itertools.product(masks, [False, True]):
            changed = bytearray(sound)
            changed[position] ^= mask
            path.write_bytes(changed)
            try:
                assert Bundle.open(path, trust, allow_unsigned=allow_unsigned).signed_by
            except BadBundle as exc:
                assert not re.search(r"not signed|missing, although|not listed", str(exc)), exc


@pytest.mark.parametrize("count", [0, 3, 5, 0xFFFF])
def test_a_zip_directory_that_lists_more_or_less_than_it_tells_of_is_damage(
    count: int, tmp_path: Path, sound: bytes, trust: list[Any]
) -> None:
    path = tmp_path / "b.edgeclin"
    changed = bytearray(sound)
    struct.pack_into("<H", changed, sound.rindex(b"PK\5\6") + 10, count)
    path.write_bytes(changed)
    reason = "damaged: what the zip says of it is not as edgeclin writes it; fetch"
    refused(path, trust, path.name, reason, allow_unsigned=True)


def deflated(entries: Entries, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)


def dated(entries: Entries, path: Path) -> None:
    pack(path, [(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), d) for name, d in entries.items()])


def commented(entries: Entries, path: Path) -> None:
    with zipfile.ZipFile(pack(path, entries), "a") as archive:
        archive.comment = b"from the clinic"


def headed(entries: Entries, path: Path) -> None:
    path.write_bytes(b"MZ\x90" + pack(path, entries).read_bytes())


def tailed(entries: Entries, path: Path) -> None:
    path.write_bytes(pack(path, entries).read_bytes() + b"\n")


@pytest.mark.parametrize("allow_unsigned", [False, True])
@pytest.mark.parametrize("otherwise", [deflated, dated, commented, headed, tailed])
def test_the_same_files_in_a_zip_that_is_packed_otherwise_are_refused(
    otherwise: Callable[[Entries, Path], None],
    allow_unsigned: bool,
    tmp_path: Path,
    entries: Entries,
    trust: list[Any],
) -> None:
    """Or there were bytes in a signed bundle that may be changed."""
    path = tmp_path / "b.edgeclin"
    otherwise(entries, path)
    refused(path, trust, path.name, "damaged|zip", allow_unsigned=allow_unsigned)


def test_a_bundle_is_a_zip_as_the_standard_has_it(
    tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    """Packed by another program, without compression or dates, it is the same to the byte."""
    names = {**entries, "\u00fc.txt": b"a name beyond ASCII"}
    assert pack(tmp_path / "b.zip", names).read_bytes() == bundle_module._zip(names)
    assert Bundle.open(pack(tmp_path / "b.edgeclin", entries), trust)


@both_forms
def test_unsigned_is_no_excuse_for_damage(
    form: Form, tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    for name in set(entries) - {MANIFEST, SIGNATURE}:
        data = entries[name]
        for position in range(0, len(data), 97):
            path = lay(tmp_path, form, entries | {name: flipped(data, position)})
            reason = f"its bytes are not those that {MANIFEST} lists"
            refused(path, trust, name, reason, allow_unsigned=True)


def test_a_file_whose_checksum_is_another_is_refused_with_a_remedy(
    tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    path = lay(tmp_path, "zip", entries)
    data = bytearray(path.read_bytes())
    data[data.index(entries["engine.json"]) + 9] ^= 1
    path.write_bytes(data)
    refused(path, trust, "engine.json", r"damaged \(Bad CRC-32 .*\)[:;] fetch the bundle again")


@both_forms
@pytest.mark.parametrize(
    "change",
    [lambda data: b"", lambda data: data[:-1], lambda data: data + b"\0", lambda data: data * 2],
    ids=["emptied", "cut", "longer", "twice"],
)
def test_a_file_of_another_length_is_refused(
    form: Form,
    change: Callable[[bytes], bytes],
    tmp_path: Path,
    entries: Entries,
    trust: list[Any],
) -> None:
    for name in set(entries) - {MANIFEST, SIGNATURE}:
        path = lay(tmp_path, form, entries | {name: change(entries[name])})
        refused(path, trust, name, "changed or damaged: fetch the bundle again")


@both_forms
@pytest.mark.parametrize("wrong", [1, -1, 1 << 40, -(1 << 40)])
def test_a_listed_size_that_is_not_the_file_s_is_refused_although_the_hash_is_right(
    form: Form,
    wrong: int,
    tmp_path: Path,
    key_pair: KeyPair,
    trust: list[Any],
    manifest_and_files: Parts,
) -> None:
    manifest, files = manifest_and_files
    listed = listing(manifest, files)
    true = listed.files["engine.json"]
    lie = msgspec.structs.replace(true, size=true.size + wrong)
    listed = msgspec.structs.replace(listed, files={**listed.files, "engine.json": lie})
    path = lay(tmp_path, form, signed(key_pair, listed, files))
    refused(path, trust, "engine.json", "its bytes are not those")


@both_forms
def test_two_files_that_changed_places_are_refused(
    form: Form, tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    one, other = "engine.json", "golden.npz"
    swapped = entries | {one: entries[other], other: entries[one]}
    refused(lay(tmp_path, form, swapped), trust, one, "its bytes are not those")


def test_a_bundle_cut_anywhere_is_refused(tmp_path: Path, sound: bytes, trust: list[Any]) -> None:
    path = tmp_path / "cut.edgeclin"
    for length in range(0, len(sound), 3):
        path.write_bytes(sound[:length])
        refused(path, trust, path.name, "zip", allow_unsigned=True)


@settings(deadline=None, max_examples=400)
@given(data=st.data())
def test_a_mangled_bundle_is_refused_or_sound_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory,
    sound: bytes,
    trust: list[Any],
    data: st.DataObject,
) -> None:
    mangled = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(mangled) - 1))
        removed = data.draw(st.sampled_from([0, 1, 1, 1, 2, 4, 50]))
        mangled[at : at + removed] = data.draw(st.binary(max_size=6))
        if not mangled:
            break
    path = tmp_path_factory.getbasetemp() / "mangled.edgeclin"
    path.write_bytes(mangled)
    allow = data.draw(st.booleans())
    try:
        bundle = Bundle.open(path, trust, allow_unsigned=allow)
        read = contents(bundle)
    except BadBundle as exc:
        assert str(path) in str(exc)
        return
    for name, entry in bundle.manifest.files.items():
        assert hashlib.sha256(read[name]).hexdigest() == entry.sha256
    if bundle.signed_by is not None or not allow:
        assert bundle.manifest.to_json() == unpack(sound)[MANIFEST]


@settings(deadline=None, max_examples=150)
@given(
    head=st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)]),
    data=st.binary(),
    tail=st.sampled_from([b"", b"PK\x05\x06" + bytes(18), b"PK\x05\x06" + b"\xff" * 18]),
)
def test_random_bytes_are_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, head: bytes, data: bytes, tail: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.edgeclin"
    path.write_bytes(head + data + tail)
    refused(path, [], path.name, "", allow_unsigned=True)


names = st.sampled_from(
    [MANIFEST, SIGNATURE, "engine.json", "golden.npz", "../x", "/x", "a\\b", "x/", "ü", "C:x", ""]
)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_strange_zip_is_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, sound: bytes, trust: list[Any], data: st.DataObject
) -> None:
    """Sound parts under strange names, of strange types, several times, with strange headers."""
    parts = list(unpack(sound).values())
    listed = []
    for name in data.draw(st.lists(names | st.text(max_size=4), min_size=1, max_size=6)):
        entry = zipfile.ZipInfo(name)
        entry.external_attr = data.draw(st.sampled_from([0, 0o644 << 16, 0o120777 << 16, 0x10]))
        entry.compress_type = data.draw(st.sampled_from([0, 8, 12, 14]))
        listed.append((entry, data.draw(st.sampled_from(parts) | st.binary(max_size=20))))
    path = tmp_path_factory.getbasetemp() / "strange.edgeclin"
    try:
        pack(path, listed)
    except (ValueError, UnicodeError):
        return
    if [entry.filename for entry, _ in listed] != list(unpack(sound)):
        refused(path, trust, path.name, "", allow_unsigned=data.draw(st.booleans()))


# A list of files that does not fit


@both_forms
def test_a_missing_file_is_named(
    form: Form, tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    for name in set(entries) - {MANIFEST, SIGNATURE}:
        rest = {key: data for key, data in entries.items() if key != name}
        path = lay(tmp_path / name, form, rest) if form == "folder" else None
        path = path or lay(tmp_path, form, rest)
        refused(path, trust, name, f"missing, although {MANIFEST} lists it")


@both_forms
@pytest.mark.parametrize("extra", ["extra.bin", "sub/extra.bin", ".hidden", "engine.json.bak"])
@pytest.mark.parametrize("allow_unsigned", [True, False])
def test_an_extra_file_is_named(
    form: Form,
    extra: str,
    allow_unsigned: bool,
    tmp_path: Path,
    entries: Entries,
    trust: list[Any],
) -> None:
    path = lay(tmp_path, form, entries | {extra: b""})
    reason = f"not listed in {MANIFEST}; remove it"
    refused(path, trust, extra, reason, allow_unsigned=allow_unsigned)


@both_forms
def test_without_a_manifest_it_is_no_bundle(
    form: Form, tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    rest = {key: data for key, data in entries.items() if key != MANIFEST}
    refused(lay(tmp_path, form, rest), trust, MANIFEST, "is it a bundle?")


@both_forms
@pytest.mark.parametrize("reserved", [MANIFEST, SIGNATURE])
def test_a_manifest_that_lists_itself_or_its_signature_is_refused(
    form: Form,
    reserved: str,
    tmp_path: Path,
    key_pair: KeyPair,
    trust: list[Any],
    manifest_and_files: Parts,
) -> None:
    manifest, files = manifest_and_files
    payload = listing(manifest, {**files, reserved: b""})
    refused(lay(tmp_path, form, signed(key_pair, payload, files)), trust, reserved, "missing")


# Who signed it


@both_forms
def test_an_unsigned_bundle_opens_only_when_that_is_allowed(
    form: Form, tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    rest = {key: data for key, data in entries.items() if key != SIGNATURE}
    path = lay(tmp_path, form, rest)
    problem = refused(path, trust, path.name, "not signed.*--allow-unsigned")
    assert isinstance(problem, UntrustedBundle)
    assert Bundle.open(path, trust, allow_unsigned=True).signed_by is None
    assert Bundle.open(path, allow_unsigned=True).signed_by is None


@both_forms
def test_a_bundle_signed_by_another_key_opens_only_when_that_is_allowed(
    form: Form, tmp_path: Path, entries: Entries, trust: list[Any], other_key: KeyPair
) -> None:
    payload = entries[MANIFEST]
    path = lay(tmp_path, form, entries | signed(other_key, payload, {}))
    reason = f"no valid signature by a trusted key.*{other_key.key_id[:12]}"
    assert isinstance(refused(path, trust, SIGNATURE, reason), UntrustedBundle)
    assert Bundle.open(path, trust, allow_unsigned=True).signed_by is None


@both_forms
def test_a_manifest_with_the_signature_of_another_one_is_refused_whatever_is_allowed(
    form: Form,
    tmp_path: Path,
    key_pair: KeyPair,
    trust: list[Any],
    entries: Entries,
    manifest_and_files: Parts,
) -> None:
    """The attack: take a good signature, and a manifest that lists another engine."""
    manifest, files = manifest_and_files
    evil = {**files, "engine.json": b'{"input_shape": [140, 1], "labels": 5, "gain": -8.0}'}
    forged = signed(key_pair, listing(manifest, evil), evil)
    path = lay(tmp_path, form, forged | {SIGNATURE: entries[SIGNATURE]})
    for allow_unsigned in (False, True):
        reason = r"the signature is for another manifest\.json; it is damaged or forged"
        refused(path, trust, SIGNATURE, reason, allow_unsigned=allow_unsigned)


@both_forms
@pytest.mark.parametrize(
    "envelope",
    [b"", b"{}", b"null", b"\xff", b"[" * 100_000, b'{"payload": 1}', b'{"payload": "*"}'],
)
def test_a_damaged_envelope_is_refused_whatever_is_allowed(
    form: Form, envelope: bytes, tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    path = lay(tmp_path, form, entries | {SIGNATURE: envelope})
    for allow_unsigned in (False, True):
        refused(path, trust, SIGNATURE, "not a DSSE envelope", allow_unsigned=allow_unsigned)


def test_without_trusted_keys_nothing_is_trusted(bundle_path: Path) -> None:
    problem = refused(bundle_path, [], SIGNATURE, "no trusted public key.*--trust")
    assert isinstance(problem, UntrustedBundle)


def test_allowing_unsigned_bundles_does_not_forget_who_signed_this_one(
    bundle_path: Path, trust: list[Any], key_pair: KeyPair
) -> None:
    assert Bundle.open(bundle_path, trust, allow_unsigned=True).signed_by == key_pair.key_id


# A manifest that is signed and wrong all the same


@both_forms
@pytest.mark.parametrize("allow_unsigned", [True, False])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 2}, "schema 2 is unknown; this version reads 1"),
        ({"schema": "1"}, "schema '1' is unknown"),
        ({"surprise": 1}, "surprise"),
        ({"engines": []}, "exactly one primary engine"),
        ({"files": {}}, "which its list of files does not"),
        ({"profile": None}, "profile"),
    ],
)
def test_a_signature_does_not_make_a_wrong_manifest_right(
    form: Form,
    allow_unsigned: bool,
    change: dict[str, Any],
    reason: str,
    tmp_path: Path,
    key_pair: KeyPair,
    trust: list[Any],
    entries: Entries,
) -> None:
    payload = json.dumps(json.loads(entries[MANIFEST]) | change).encode()
    path = lay(tmp_path, form, entries | signed(key_pair, payload, {}))
    refused(path, trust, MANIFEST, reason, allow_unsigned=allow_unsigned)


@both_forms
@pytest.mark.parametrize("payload", [b"", b"{", b"null", b"\xff", b"[" * 100_000])
def test_a_signed_manifest_that_is_no_manifest_is_refused(
    form: Form,
    payload: bytes,
    tmp_path: Path,
    key_pair: KeyPair,
    trust: list[Any],
    entries: Entries,
) -> None:
    path = lay(tmp_path, form, entries | signed(key_pair, payload, {}))
    refused(path, trust, MANIFEST, "")


# Paths that leave the bundle

LEAVING = ["../secret", "a/../../secret", "/etc/hostname", "C:secret", "a\\..\\..\\secret", ".."]
UNPLAIN = ["./a", "a//b", "a/./b"]


@pytest.mark.parametrize("name", [*LEAVING, *UNPLAIN])
@pytest.mark.parametrize("allow_unsigned", [True, False])
def test_a_path_that_leaves_the_bundle_is_refused_although_it_is_listed_and_signed(
    name: str,
    allow_unsigned: bool,
    tmp_path: Path,
    key_pair: KeyPair,
    trust: list[Any],
    manifest_and_files: Parts,
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    manifest, files = manifest_and_files
    listed = {**files, name: b"secret"}
    made = signed(key_pair, listing(manifest, listed), listed)
    reason = "leaves the bundle" if name in LEAVING else "not written plainly"
    path = pack(tmp_path / "b.edgeclin", made)
    refused(path, trust, name.encode("unicode_escape").decode(), reason)
    del made[name]
    path = pack(tmp_path / "b.edgeclin", made)
    refused(path, trust, MANIFEST, reason, allow_unsigned=allow_unsigned)
    folder = lay(tmp_path, "folder", made)
    refused(folder, trust, MANIFEST, reason, allow_unsigned=allow_unsigned)


@pytest.mark.parametrize("mark", [b"\0", b"\\"])
def test_a_name_that_zipfile_would_clean_is_refused_before_it_does(
    mark: bytes, tmp_path: Path, sound: bytes, trust: list[Any]
) -> None:
    path = tmp_path / "b.edgeclin"
    path.write_bytes(sound.replace(b"engine.json", b"engine" + mark + b"json"))
    refused(path, trust, "engine", "leaves the bundle", allow_unsigned=True)


@pytest.mark.parametrize(
    "kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR]
)
def test_a_link_or_special_file_in_a_zip_is_refused(
    kind: int, tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    listed: list[tuple[Any, bytes]] = []
    for name, data in entries.items():
        entry = zipfile.ZipInfo(name)
        entry.external_attr = ((kind if name == "golden.npz" else stat.S_IFREG) | 0o644) << 16
        listed.append((entry, data))
    path = pack(tmp_path / "b.edgeclin", listed)
    refused(path, trust, "golden.npz", "has no place in a bundle", allow_unsigned=True)


def test_a_folder_entry_in_a_zip_is_refused(
    tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    path = pack(tmp_path / "b.edgeclin", entries | {"sub/": b""})
    refused(path, trust, "sub/", "has no place in a bundle", allow_unsigned=True)


@pytest.mark.parametrize("name", ["golden.npz", MANIFEST, SIGNATURE])
def test_a_link_in_a_folder_is_refused_although_it_leads_to_the_right_bytes(
    name: str, tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    path = lay(tmp_path, "folder", entries)
    (path / name).rename(tmp_path / "outside")
    (path / name).symlink_to(tmp_path / "outside")
    refused(path, trust, name, "link or special file has no place", allow_unsigned=True)


def test_a_linked_folder_a_dangling_link_and_a_pipe_are_refused(
    tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    path = lay(tmp_path, "folder", entries)
    (tmp_path / "elsewhere").mkdir()
    for make in (
        lambda odd: odd.symlink_to(tmp_path / "elsewhere"),
        lambda odd: odd.symlink_to("nowhere"),
        lambda odd: odd.symlink_to(odd),
        os.mkfifo,
    ):
        make(path / "odd")
        refused(path, trust, "odd", "link or special file has no place", allow_unsigned=True)
        (path / "odd").unlink()
    assert Bundle.open(path, trust)


@pytest.mark.parametrize("name", ["engine.json", MANIFEST, SIGNATURE])
@pytest.mark.parametrize("first", [True, False])
def test_a_name_that_stands_twice_in_a_zip_is_refused(
    name: str, first: bool, tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    twin = [(name, b"other")]
    listed = twin + list(entries.items()) if first else list(entries.items()) + twin
    path = pack(tmp_path / "b.edgeclin", listed)
    refused(path, trust, name, "stands twice", allow_unsigned=True)


def test_an_encrypted_file_is_refused(tmp_path: Path, sound: bytes, trust: list[Any]) -> None:
    path = tmp_path / "b.edgeclin"
    path.write_bytes(patched(sound, "engine.json", "<H", 8, 1))
    refused(path, trust, "engine.json", "encrypted, which a bundle is not", allow_unsigned=True)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_a_device_need_not_have_is_refused(
    method: int, tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    path = tmp_path / "b.edgeclin"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    refused(path, trust, MANIFEST, "compressed, as a zip bomb is", allow_unsigned=True)


# Bombs


def patched(data: bytes, name: str, form: str, offset: int, value: int) -> bytes:
    """A zip with a field of one file's entry in the central directory overwritten."""
    changed = bytearray(data)
    at = data.index(b"PK\x01\x02")
    while data[at + 46 :][: len(name)] != name.encode():
        at = data.index(b"PK\x01\x02", at + 4)
    struct.pack_into(form, changed, at + offset, value)
    return bytes(changed)


CRC_AT, PACKED_SIZE_AT, SIZE_AT = 16, 20, 24


@contextmanager
def little_memory(most: int = 16 << 20) -> Iterator[None]:
    """Fails when what Python allocates inside exceeds `most` bytes at its peak."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 1, 100])
def test_a_packed_size_that_lies_is_refused_with_a_reason(
    size: int, tmp_path: Path, sound: bytes, trust: list[Any]
) -> None:
    path = tmp_path / "b.edgeclin"
    path.write_bytes(patched(sound, "golden.npz", "<I", PACKED_SIZE_AT, size))
    refused(path, trust, "golden.npz", r"damaged: \w", allow_unsigned=True)


@pytest.fixture(scope="module")
def bomb(key_pair: KeyPair, manifest_and_files: Parts) -> bytes:
    """A signed zip with an honest list of files, one of them 64 MiB of zeros."""
    manifest, files = manifest_and_files
    files = {**files, "zeros.bin": bytes(64 << 20)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in signed(key_pair, listing(manifest, files), files).items():
            packed = zipfile.ZIP_DEFLATED if name == "zeros.bin" else zipfile.ZIP_STORED
            archive.writestr(name, data, packed)
    return buffer.getvalue()


def test_a_zip_bomb_is_refused_by_its_header(tmp_path: Path, bomb: bytes, trust: list[Any]) -> None:
    path = tmp_path / "b.edgeclin"
    path.write_bytes(bomb)
    with little_memory():
        refused(path, trust, "zeros.bin", "as a zip bomb is")


@pytest.mark.parametrize("crc", [None, zlib.crc32(bytes(100))])
def test_a_zip_bomb_whose_header_lies_is_refused_by_its_bytes(
    crc: int | None, tmp_path: Path, bomb: bytes, trust: list[Any]
) -> None:
    lying = patched(bomb, "zeros.bin", "<I", SIZE_AT, 100)
    if crc is not None:
        lying = patched(lying, "zeros.bin", "<I", CRC_AT, crc)
    path = tmp_path / "b.edgeclin"
    path.write_bytes(lying)
    with little_memory():
        refused(path, trust, "zeros.bin", "as a zip bomb is|damaged")


@both_forms
def test_a_listed_size_that_is_too_small_stops_the_reading(
    form: Form, tmp_path: Path, key_pair: KeyPair, trust: list[Any], manifest_and_files: Parts
) -> None:
    """Random bytes, so that no ratio gives the bomb away."""
    manifest, files = manifest_and_files
    short = listing(manifest, {**files, "engine.json": b"short"})
    made = signed(key_pair, short, {**files, "engine.json": os.urandom(6 << 20)})
    path = lay(tmp_path, form, made)
    with little_memory(5 << 20):
        refused(path, trust, "engine.json", "its bytes are not those")


def test_a_zip_that_claims_more_than_a_bundle_may_hold_is_refused(
    tmp_path: Path, sound: bytes, trust: list[Any]
) -> None:
    claimed = sound
    for name in ("engine.json", "golden.npz"):
        claimed = patched(claimed, name, "<I", SIZE_AT, 3 << 30)
    path = tmp_path / "b.edgeclin"
    path.write_bytes(claimed)
    refused(path, trust, path.name, "holds more than 4 GiB", allow_unsigned=True)


def test_a_huge_file_in_a_folder_is_refused_unread(
    tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    path = lay(tmp_path, "folder", entries)
    with little_memory():
        os.truncate(path / "golden.npz", 5 << 30)  # sparse: it takes no room
        refused(path, trust, path.name, "holds more than 4 GiB", allow_unsigned=True)
        os.truncate(path / "golden.npz", 1 << 30)
        refused(path, trust, "golden.npz", "its bytes are not those")


@pytest.mark.parametrize(("name", "limit"), [(MANIFEST, 8), (SIGNATURE, 16)])
def test_a_huge_manifest_or_signature_is_refused_unread(
    name: str, limit: int, tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    path = lay(tmp_path, "folder", entries)
    os.truncate(path / name, 2 << 30)
    with little_memory(64 << 20):
        refused(path, trust, name, f"larger than {limit} MiB", allow_unsigned=True)


# What is no bundle at all


def test_what_is_not_there_or_no_bundle_is_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("text")
    (tmp_path / "empty").mkdir()
    for name, reason in (
        ("absent.edgeclin", "no such file"),
        ("text", "neither a folder nor a readable zip file"),
        ("text/below", "cannot be read"),
        ("pipe", "not a regular file but a named pipe"),
        ("empty", "is it a bundle?"),
        ("long" * 100, "cannot be read"),
        ("nul\0", "cannot be read"),
    ):
        refused(tmp_path / name, [], name[:20], reason, allow_unsigned=True)


@pytest.mark.parametrize("inner", ["", "golden.npz", "deeper"])
def test_a_bundle_folder_that_may_not_be_read_is_named(
    inner: str, tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    path = lay(tmp_path, "folder", entries)
    (path / "deeper").mkdir()
    Bundle.open(path, trust)  # an empty folder is no file
    reason = r"cannot be read \(Permission denied\); mend its permissions"
    with closed(path / inner):
        refused(path, trust, str(path), reason)


# Reading


def test_only_listed_files_are_read(bundle: Bundle) -> None:
    for name in (MANIFEST, SIGNATURE, "other", "../fake.edgeclin", "", "/etc/hostname"):
        with pytest.raises(BadBundle, match="not a file of this bundle"):
            bundle.read(name)


@both_forms
def test_a_file_changed_after_the_bundle_was_opened_is_refused_when_read(
    form: Form, tmp_path: Path, key_pair: KeyPair, trust: list[Any], manifest_and_files: Parts
) -> None:
    manifest, files = manifest_and_files
    files = {**files, "noise.bin": NOISE}  # larger than what Python keeps of a file in memory
    made = signed(key_pair, listing(manifest, files), files)
    path = lay(tmp_path, form, made)
    bundle = Bundle.open(path, trust)
    assert bundle.read("noise.bin") == NOISE
    evil = flipped(NOISE, 40_000)
    if form == "folder":
        (path / "noise.bin").write_bytes(evil)
    else:
        other = pack(tmp_path / "other", made | {"noise.bin": evil}).read_bytes()
        with path.open("r+b") as file:  # the same inode, as the opened bundle has it
            file.write(other)
    with pytest.raises(BadBundle, match=r"noise\.bin: "):
        bundle.read("noise.bin")
    assert bundle.read("engine.json") == files["engine.json"]


def test_a_file_lost_or_linked_after_the_bundle_was_opened_is_refused_when_read(
    tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    path = lay(tmp_path, "folder", entries)
    bundle = Bundle.open(path, trust)
    (path / "golden.npz").unlink()
    with pytest.raises(BadBundle, match=r"golden\.npz: no such file"):
        bundle.read("golden.npz")
    (tmp_path / "secret").write_bytes(b"secret")
    (path / "golden.npz").symlink_to(tmp_path / "secret")
    with pytest.raises(BadBundle, match=r"golden\.npz: its bytes are not those"):
        bundle.read("golden.npz")


def test_a_file_that_grew_after_the_bundle_was_opened_is_not_read_whole(
    tmp_path: Path, entries: Entries, trust: list[Any]
) -> None:
    path = lay(tmp_path, "folder", entries)
    bundle = Bundle.open(path, trust)
    os.truncate(path / "golden.npz", 1 << 30)
    with little_memory(), pytest.raises(BadBundle, match=r"golden\.npz: its bytes are not those"):
        bundle.read("golden.npz")


def test_a_bundle_replaced_after_it_was_opened_is_read_as_it_was(
    bundle_path: Path, trust: list[Any], manifest_and_files: Parts
) -> None:
    bundle = Bundle.open(bundle_path, trust)
    pack(bundle_path.with_name("new"), {"x": b""}).replace(bundle_path)
    assert contents(bundle) == manifest_and_files[1]


def test_several_threads_may_read_one_bundle(bundle: Bundle, manifest_and_files: Parts) -> None:
    seen: list[Entries] = []

    def read() -> None:
        seen.extend(contents(bundle) for _ in range(30))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [manifest_and_files[1]] * 120


# Writing


@both_forms
def test_a_full_disk_leaves_nothing_behind(
    form: Form, full_disk: Path, key_pair: KeyPair, manifest_and_files: Parts
) -> None:
    manifest, files = manifest_and_files
    path = full_disk / ("b.edgeclin" if form == "zip" else "b")
    signer = load_signer(key_pair.private)
    with pytest.raises(BadFile, match=r"cannot be written \((No space|File too large)"):
        write_bundle(path, manifest, {**files, "noise": NOISE}, signer)
    assert not list(full_disk.iterdir())


def test_a_full_disk_leaves_the_bundle_that_was_there(
    full_disk: Path, key_pair: KeyPair, manifest_and_files: Parts, sound: bytes
) -> None:
    manifest, files = manifest_and_files
    path = full_disk / "b.edgeclin"
    path.write_bytes(sound)
    with pytest.raises(BadFile, match="cannot be written"):
        signer = load_signer(key_pair.private)
        write_bundle(path, manifest, {**files, "noise": NOISE}, signer)
    assert [entry.name for entry in full_disk.iterdir()] == ["b.edgeclin"]
    assert path.read_bytes() == sound


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder that this process cannot write to, root or not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            os.seteuid(0)
    else:
        yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["b.edgeclin", "b", "new/b.edgeclin", "new/b"])
def test_a_folder_that_is_not_writable_is_one_sentence_and_stays_empty(
    name: str, read_only_folder: Path, manifest_and_files: Parts
) -> None:
    manifest, files = manifest_and_files
    path = read_only_folder / name
    with pytest.raises(BadFile, match=r"cannot be written \(Permission denied\)") as caught:
        write_bundle(path, manifest, files, None)
    assert str(path) in str(caught.value)
    assert not list(read_only_folder.iterdir())


@both_forms
def test_an_interrupt_leaves_nothing_behind(
    form: Form, tmp_path: Path, manifest_and_files: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    manifest, files = manifest_and_files
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(tmp_path / ("b.edgeclin" if form == "zip" else "b"), manifest, files, None)
    assert not list(tmp_path.iterdir())


def test_a_folder_bundle_is_never_mixed_with_what_is_there(
    tmp_path: Path, manifest_and_files: Parts
) -> None:
    manifest, files = manifest_and_files
    path = tmp_path / "b"
    path.mkdir()
    (path / "old").write_bytes(b"old")
    with pytest.raises(BadFile, match=r"cannot be written \(Directory not empty\)"):
        write_bundle(path, manifest, files, None)
    assert [entry.name for entry in tmp_path.rglob("*")] == ["b", "old"]


def test_a_missing_folder_is_made(tmp_path: Path, manifest_and_files: Parts) -> None:
    manifest, files = manifest_and_files
    path = write_bundle(tmp_path / "new" / "folder" / "b.edgeclin", manifest, files, None)
    assert Bundle.open(path, allow_unsigned=True).signed_by is None


@both_forms
@pytest.mark.parametrize("name", [*LEAVING, *UNPLAIN, "", ".", MANIFEST, SIGNATURE])
def test_a_name_that_no_bundle_can_hold_is_not_written(
    form: Form, name: str, tmp_path: Path, manifest_and_files: Parts
) -> None:
    manifest, files = manifest_and_files
    inner = tmp_path / "inner"
    with pytest.raises(EdgeclinError) as caught:
        path = inner / ("b.edgeclin" if form == "zip" else "b")
        write_bundle(path, manifest, {**files, name: b"x"}, None)
    assert name.encode("unicode_escape").decode() in str(caught.value)
    assert not list(tmp_path.iterdir())


@both_forms
def test_a_manifest_that_contradicts_itself_is_not_written(
    form: Form, tmp_path: Path, manifest_and_files: Parts
) -> None:
    manifest, files = manifest_and_files
    without = {name: data for name, data in files.items() if name != "golden.npz"}
    with pytest.raises(EdgeclinError, match=r"golden\.npz"):
        write_bundle(tmp_path / ("b.edgeclin" if form == "zip" else "b"), manifest, without, None)
    assert not list(tmp_path.iterdir())
