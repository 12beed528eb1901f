"""Built engines on this device, found by what they were built from and for, never by a name."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import rfc8785

from edgeclin.errors import BadFile, EngineUnavailable
from edgeclin.files import directory_atomic, read_small, reading, write_atomic, writing
from edgeclin.manifest import Difference
from edgeclin.records import Record
from edgeclin.tensorrt.worker import PLAN

SCHEMA = 1
_RECORD = "build.json"
_LOCK = "lock"
_DRAFT = re.compile(r"\.[0-9a-f]{32}(-[0-9a-f]{32}|\.timings)\.\w{8}")
"""What `directory_atomic` and `write_atomic` call an engine, or timings, that are not whole yet."""
_MAX_RECORD = 1 << 20
_HASH = 32
"""Bytes of SHA-256, which stand before the timings in their file."""


class Identity(Record, frozen=True):
    """What a built engine belongs to: with any other of these it must be built anew."""

    model_sha256: str
    tensorrt: str
    device: str
    capability: str
    driver: str
    settings: tuple[str, ...]
    workspace_mb: int

    @property
    def name(self) -> str:
        """Of its folder: the model's hash, so that it is found without a GPU, and the key's."""
        return f"{model_prefix(self.model_sha256)}{_digest(self)[:32]}"


class SelfTest(Record, frozen=True):
    """How far the built engine's outputs are from the bundle's golden ones."""

    bundle: str
    samples: int
    off: Difference
    tolerance: Difference


class Build(Record, frozen=True):
    """What is known of a built engine; `build.json` beside it.

    `flags` are the builder's as TensorRT tells them, `notes` what differs from the profile.
    `timings` says whether an earlier build's were used.
    """

    schema: int
    identity: Identity
    plan_sha256: str
    plan_bytes: int
    flags: tuple[str, ...]
    seconds: float
    timings: bool
    created: str
    edgeclin: str
    self_test: SelfTest
    notes: tuple[str, ...] = ()


class DamagedEngine(BadFile):
    """A built engine, or its record, is not what was accepted; build it anew."""


def model_prefix(model_sha256: str) -> str:
    return f"{model_sha256[:32]}-"


def default_folder() -> Path:
    """`EDGECLIN_ENGINES`, or a folder in the user's cache (XDG Base Directory Specification)."""
    chosen = os.environ.get("EDGECLIN_ENGINES")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeclin" / "engines"


class EngineCache:
    """A folder with a folder for each built engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def knows(self, model_sha256: str) -> bool:
        """Whether an engine of this model was ever built here, on whatever GPU."""
        with reading(self.folder, DamagedEngine):
            return any(self.folder.glob(f"{model_prefix(model_sha256)}*/{_RECORD}"))

    def find(self, identity: Identity) -> tuple[Build, bytes] | None:
        """The engine of that identity, its bytes checked; None when there is none.

        Raises:
            DamagedEngine: its bytes or its record are not what was accepted, or others may write
                them: a plan is a program.
        """
        folder = self.folder / identity.name
        with reading(folder, DamagedEngine):
            if not folder.exists():
                return None
            for path in (self.folder, folder, folder / _RECORD, folder / PLAN):
                _require_own(path)
            plan = (folder / PLAN).read_bytes()
        try:
            build = msgspec.json.decode(read_small(folder / _RECORD, _MAX_RECORD), type=Build)
        except msgspec.MsgspecError as exc:
            raise DamagedEngine(folder / _RECORD, f"damaged ({exc})") from exc
        if build.schema != SCHEMA or build.identity != identity:
            raise DamagedEngine(folder / _RECORD, "tells of another engine or schema")
        if hashlib.sha256(plan).hexdigest() != build.plan_sha256:
            raise DamagedEngine(folder / PLAN, "its bytes are not those that were built")
        return build, plan

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Be the only build on this device until the block ends; clear away what a killed one left.

        Raises:
            EngineUnavailable: another build is at work.
            BadFile: the folder cannot be written.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o755)
            lock = (self.folder / _LOCK).open("a")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise EngineUnavailable(
                    f"{self.folder}: another `edgeclin build` is at work there; wait for its end"
                ) from exc
            self._clear_drafts()
            yield

    def _clear_drafts(self) -> None:
        """Nothing else: whoever names the folder may have other things in it."""
        for draft in self.folder.iterdir():
            if not _DRAFT.fullmatch(draft.name):
                continue
            if draft.is_dir() and not draft.is_symlink():
                shutil.rmtree(draft, ignore_errors=True)
            else:
                draft.unlink(missing_ok=True)

    @contextmanager
    def draft(self, identity: Identity) -> Iterator[Path]:
        """Yield an empty folder that becomes the engine's when the block ends well.

        Raises:
            BadFile: the disk is full, or the folder cannot be written; nothing is left behind.
        """
        target = self.folder / identity.name
        with writing(target), directory_atomic(target) as folder:
            yield folder
            if target.exists():
                shutil.rmtree(target)

    def accept(self, folder: Path, build: Build) -> None:
        """Put the record beside the plan in a draft."""
        text = msgspec.json.format(msgspec.json.encode(build), indent=1) + b"\n"
        (folder / _RECORD).write_bytes(text)
        for name in (PLAN, _RECORD):
            (folder / name).chmod(0o644)  # whatever the umask: `find` refuses what others may write

    def remove(self, identity: Identity) -> None:
        """Take an engine away for good.

        Raises:
            BadFile: the folder cannot be written.
        """
        path = self.folder / identity.name
        with writing(path):
            shutil.rmtree(path)

    def timings(self, identity: Identity) -> bytes:
        """What earlier builds with this TensorRT on this GPU measured; empty when unknown."""
        path = self._timings(identity)
        if not path.exists():
            return b""
        with reading(path):
            _require_own(path)
            data = path.read_bytes()
        if hashlib.sha256(data[_HASH:]).digest() != data[:_HASH]:
            return b""
        return data[_HASH:]

    def keep_timings(self, identity: Identity, timings: bytes) -> None:
        """Keep them for the next build.

        Raises:
            BadFile: the folder cannot be written.
        """
        path = self._timings(identity)
        with writing(path):
            write_atomic(path, hashlib.sha256(timings).digest() + timings)

    def _timings(self, identity: Identity) -> Path:
        """They hold for every model, so they are found by all but the model and its settings."""
        shared = msgspec.structs.replace(identity, model_sha256="", settings=(), workspace_mb=0)
        return self.folder / f"{_digest(shared)[:32]}.timings"


def _digest(identity: Identity) -> str:
    return hashlib.sha256(rfc8785.dumps(msgspec.to_builtins(identity))).hexdigest()


def _require_own(path: Path) -> None:
    facts = path.stat()
    if facts.st_uid not in (0, os.geteuid()) or facts.st_mode & 0o022:
        raise DamagedEngine(
            path,
            "others may write it",
            "it must belong to root or to this user, and be writable by no one else",
        )
