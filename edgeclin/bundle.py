"""What is deployed: a folder, or the same as one `*.edgeclin` file (zip), signed and checked.

Nothing of a bundle is executed or believed before its signature, its list of files, every hash
and its own consistency have been checked, in this order.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec

from edgeclin import keys
from edgeclin.errors import BadBundle, BadFile, EdgeclinError, UntrustedBundle
from edgeclin.files import (
    directory_atomic,
    open_file,
    reading,
    require_file,
    require_writable,
    write_atomic,
    writing,
)
from edgeclin.manifest import FileEntry, Manifest, check_file_name, parse_manifest

MANIFEST = "manifest.json"
SIGNATURE = "manifest.dsse.json"
SUFFIX = ".edgeclin"

_MAX_MANIFEST = 8 << 20
_MAX_TOTAL = 4 << 30
_CHUNK = 1 << 20
_FETCH = "fetch the bundle again"
_NO_MANIFEST = (
    f"no {MANIFEST} in it",
    "is it a bundle? `edgeclin convert` makes one of a model",
)
_DOS_1980 = 1 << 5 | 1
"""The first day that a zip file can name."""


class _Archive(Protocol):
    """The files of a bundle, however they are kept. Each method raises BadBundle for damage.

    `sizes` comes first, and judges every byte that belongs to none of the files.
    """

    def sizes(self) -> dict[str, int]: ...

    def open(self, name: str) -> IO[bytes]: ...


class Bundle:
    """A bundle whose every byte has been checked against its manifest.

    Attributes:
        path: the folder or file.
        manifest: what it says of itself.
        digest: SHA-256 of `manifest.json`, which names the bundle in every result.
        signed_by: id of the trusted key that signed it, or None when that was waived.
    """

    def __init__(
        self, path: Path, archive: _Archive, manifest: Manifest, digest: str, signed_by: str | None
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.digest = digest
        self.signed_by = signed_by
        self._archive = archive

    @classmethod
    def open(
        cls, path: Path | str, trust: Sequence[Any] = (), *, allow_unsigned: bool = False
    ) -> Bundle:
        """Check a bundle and open it.

        Args:
            path: a folder or a `*.edgeclin` file.
            trust: public keys (`edgeclin.keys.trusted_keys`) whose signature is accepted.
            allow_unsigned: open it also without such a signature; every result then says so.

        Raises:
            UntrustedBundle: no signature by a key of `trust`.
            BadBundle: damage, a missing, extra or changed file, an unknown schema, a path that
                leaves the bundle, or more data than a bundle may hold. Names the file.
        """
        path = Path(path)
        archive = _archive(path)
        sizes = archive.sizes()
        if MANIFEST not in sizes:
            raise BadBundle(path, *_NO_MANIFEST)
        payload = _read_capped(archive, MANIFEST, _MAX_MANIFEST, path)
        signed_by = _signer(archive, sizes, payload, trust, path, allow_unsigned)
        try:
            manifest = parse_manifest(payload)
        except EdgeclinError as exc:
            raise BadBundle(path / MANIFEST, str(exc)) from exc
        bundle = cls(path, archive, manifest, hashlib.sha256(payload).hexdigest(), signed_by)
        bundle._check_files(sizes)
        return bundle

    def read(self, name: str) -> bytes:
        """The bytes of one file, checked against the manifest once more as they are read.

        Raises:
            BadBundle: the file is not listed, or changed since the bundle was opened.
        """
        if name not in self.manifest.files:
            raise BadBundle(self.path / name, "not a file of this bundle")
        buffer = io.BytesIO()
        self._check_file(name, self.manifest.files[name], buffer)
        return buffer.getvalue()

    def _check_files(self, sizes: Mapping[str, int]) -> None:
        listed = set(self.manifest.files)
        present = set(sizes) - {MANIFEST, SIGNATURE}
        for name in sorted(listed - present):
            raise BadBundle(self.path / name, f"missing, although {MANIFEST} lists it")
        for name in sorted(present - listed):
            raise BadBundle(self.path / name, f"not listed in {MANIFEST}", "remove it")
        for name, entry in self.manifest.files.items():
            self._check_file(name, entry)

    def _check_file(self, name: str, entry: FileEntry, copy: IO[bytes] | None = None) -> None:
        digest, size = hashlib.sha256(), 0
        with self._archive.open(name) as file:
            for chunk in _chunks(file, entry.size + 1, self.path / name):
                digest.update(chunk)
                size += len(chunk)
                if copy is not None:
                    copy.write(chunk)
        if size != entry.size or digest.hexdigest() != entry.sha256:
            raise BadBundle(
                self.path / name,
                f"its bytes are not those that {MANIFEST} lists",
                "the file was changed or damaged: fetch the bundle again",
            )


def require_place_for_bundle(path: Path) -> None:
    """Refuse a place where `write_bundle` could make no bundle.

    Raises:
        BadFile: something else stands there, or no file can be made in the folder.
    """
    absolute = path.absolute()
    require_writable(next(folder for folder in absolute.parents if folder.exists()))
    if absolute.exists() and absolute.is_dir() == (path.suffix == SUFFIX):
        raise BadFile(path, "exists and is another kind of thing", "name another with -o")
    if absolute.is_dir() and any(absolute.iterdir()):
        raise BadFile(path, "exists and is not empty", "name another with -o")


def write_bundle(
    path: Path, manifest: Manifest, files: Mapping[str, bytes], signer: Any | None
) -> Path:
    """Write a bundle in one step: whole and signed, or not at all.

    Args:
        path: ends in `.edgeclin` for one file, else a folder is made.
        manifest: its `files` are filled in here.
        files: name → bytes of everything but manifest and signature.
        signer: from `edgeclin.keys.load_signer`, or None for an unsigned bundle.

    Raises:
        BadFile: the target cannot be written.
        EdgeclinError: the manifest contradicts itself, or a name that no bundle can hold.
    """
    for name in {MANIFEST, SIGNATURE} & set(files):
        raise BadFile(path / name, "a bundle writes this file itself", "name it otherwise")
    entries = {
        name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        for name, data in files.items()
    }
    payload = msgspec.structs.replace(manifest, files=entries).to_json()
    parse_manifest(payload)
    content = {MANIFEST: payload, **dict(sorted(files.items()))}
    if signer is not None:
        content[SIGNATURE] = keys.sign(payload, signer)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == SUFFIX:
            write_atomic(path, _zip(content))
        else:
            with directory_atomic(path) as folder:
                for name, data in content.items():
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).write_bytes(data)
    return path


def _zip(content: Mapping[str, bytes]) -> bytes:
    """A zip file of which every byte is given by the files, so that no other one is sound."""
    entries = [(name, len(data), zlib.crc32(data)) for name, data in content.items()]
    heads, listing, end = _layout(entries)
    files = (head + data for head, data in zip(heads, content.values(), strict=True))
    return b"".join((*files, *listing, end))


def _layout(entries: Sequence[tuple[str, int, int]]) -> tuple[list[bytes], list[bytes], bytes]:
    """What a zip file holds beside its files (APPNOTE.TXT, 4.3): nothing compressed, no dates.

    Args:
        entries: name, size and CRC-32 of each file.

    Returns:
        the head of each file, its entry in the directory that follows, and the last record.
    """
    heads: list[bytes] = []
    listing: list[bytes] = []
    offset = 0
    for name, size, crc in entries:
        encoded = name.encode()
        flags = 0 if name.isascii() else 0x800
        facts = (20, flags, 0, 0, _DOS_1980, crc, size, size, len(encoded))
        heads.append(struct.pack("<4s5H3L2H", b"PK\3\4", *facts, 0) + encoded)
        made_by, rest = 3 << 8 | 20, (0, 0, 0, 0, 0o644 << 16, offset)
        listing.append(struct.pack("<4s6H3L5H2L", b"PK\1\2", made_by, *facts, *rest) + encoded)
        offset += len(heads[-1]) + size
    count, size = len(entries), sum(map(len, listing))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, offset, 0)
    return heads, listing, end


def _signer(
    archive: _Archive,
    sizes: Mapping[str, int],
    payload: bytes,
    trust: Sequence[Any],
    path: Path,
    allow_unsigned: bool,
) -> str | None:
    try:
        if SIGNATURE not in sizes:
            raise UntrustedBundle(
                path, "not signed", "sign it, or accept the risk with --allow-unsigned"
            )
        envelope = _read_capped(archive, SIGNATURE, 2 * _MAX_MANIFEST, path)
        return keys.verify(envelope, payload, trust, path / SIGNATURE)
    except UntrustedBundle:
        if allow_unsigned:
            return None
        raise


def _archive(path: Path) -> _Archive:
    with reading(path, BadBundle):
        if path.is_dir():
            return _Folder(path)
    require_file(path, BadBundle)
    return _Zip(path)


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        with reading(self._path, BadBundle):
            found = [(file, file.lstat()) for file in _walk(self._path)]
        for file, facts in found:
            if stat.S_ISREG(facts.st_mode):
                sizes[file.relative_to(self._path).as_posix()] = facts.st_size
            elif not stat.S_ISDIR(facts.st_mode):
                raise BadBundle(file, "a link or special file has no place in a bundle")
        _check_total(sizes, self._path)
        return sizes

    def open(self, name: str) -> IO[bytes]:
        return open_file(self._path / name, BadBundle)


def _walk(folder: Path) -> Iterator[Path]:
    """All that is in a folder; unlike `rglob` it leaves out nothing that it may not read."""
    for entry in folder.iterdir():
        yield entry
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)


class _Zip:
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except Exception as exc:  # zipfile has no one error for damage
            raise BadBundle(
                path,
                "neither a folder nor a readable zip file",
                "if it is a bundle it is damaged: fetch it again",
            ) from exc

    def sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        found = self._zip.infolist()
        if found and found[0].header_offset:
            # A file in the bundle that is a zip itself, such as golden.npz, found in what is left.
            raise BadBundle(self._path, "damaged: a zip begins only within it", _FETCH)
        if MANIFEST not in {entry.filename for entry in found}:
            raise BadBundle(self._path, *_NO_MANIFEST)
        for entry in found:
            _check_entry(entry, self._path)
            if entry.filename in sizes:
                raise BadBundle(self._path / entry.filename, "stands twice in the zip")
            sizes[entry.filename] = entry.file_size
        _check_total(sizes, self._path)
        self._check_layout(found)
        return sizes

    def open(self, name: str) -> IO[bytes]:
        try:
            return self._zip.open(name)
        except Exception as exc:
            raise BadBundle(self._path / name, f"damaged in the zip ({exc})") from exc

    def _check_layout(self, entries: Sequence[zipfile.ZipInfo]) -> None:
        """Or a lost or renamed entry would look like a file too few, such as the signature."""
        heads, listing, end = _layout([(e.filename, e.file_size, e.CRC) for e in entries])
        with self._path.open("rb") as file:
            for entry, head in zip(entries, heads, strict=True):
                self._expect(file, head, entry.filename)
                file.seek(entry.file_size, os.SEEK_CUR)
            for entry, listed in zip(entries, listing, strict=True):
                self._expect(file, listed, entry.filename)
            self._expect(file, end, "")
            if file.read(1):
                raise BadBundle(self._path, "damaged: something follows its end", _FETCH)

    def _expect(self, file: IO[bytes], expected: bytes, name: str) -> None:
        if file.read(len(expected)) != expected:
            problem = "damaged: what the zip says of it is not as edgeclin writes it"
            raise BadBundle(self._path / name, problem, _FETCH)


def _check_entry(entry: zipfile.ZipInfo, path: Path) -> None:
    name = entry.filename
    if name.endswith("/") or stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        raise BadBundle(path, f"{name!r}: a link or folder has no place in a bundle")
    try:
        # `orig_filename` still has what ZipInfo cleans away: NULs and foreign separators.
        check_file_name(entry.orig_filename)
        check_file_name(name)
    except EdgeclinError as exc:
        raise BadBundle(path, str(exc)) from exc
    if entry.flag_bits & 1:
        raise BadBundle(path / name, "encrypted, which a bundle is not")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise BadBundle(path / name, "compressed, as a zip bomb is and a bundle is not")


def _check_total(sizes: Mapping[str, int], path: Path) -> None:
    if sum(sizes.values()) > _MAX_TOTAL:
        raise BadBundle(path, f"holds more than {_MAX_TOTAL >> 30} GiB")


def _read_capped(archive: _Archive, name: str, limit: int, path: Path) -> bytes:
    with archive.open(name) as file:
        data = b"".join(_chunks(file, limit + 1, path / name))
    if len(data) > limit:
        raise BadBundle(path / name, f"larger than {limit >> 20} MiB")
    return data


def _chunks(file: IO[bytes], limit: int, path: Path) -> Iterator[bytes]:
    """Read at most `limit` bytes, whatever a header promised."""
    while limit > 0:
        try:
            chunk = file.read(min(_CHUNK, limit))
        except Exception as exc:
            raise BadBundle(path, f"damaged ({str(exc) or type(exc).__name__})", _FETCH) from exc
        if not chunk:
            return
        limit -= len(chunk)
        yield chunk
