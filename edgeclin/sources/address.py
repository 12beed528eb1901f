"""What `--source` and `source` in device.toml may say."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from edgeclin.datasets import open_dataset
from edgeclin.errors import BadFile, EdgeclinError
from edgeclin.runtime import Runtime
from edgeclin.sources.camera import Camera
from edgeclin.sources.json_lines import JsonLinesSource
from edgeclin.sources.replay import ReplaySource
from edgeclin.sources.source import Origin
from edgeclin.sources.video import VideoFile
from edgeclin.sources.watch import FolderWatch

_NETWORK = ("rtsp://", "rtsps://", "http://", "https://")


def open_sources(
    addresses: Iterable[str], runtime: Runtime, rate_hz: float | None = None, live: bool = False
) -> list[Origin]:
    """Open each of them; raises as `open_source`, and where two are the same.

    Raises:
        EdgeclinError: the same source twice: its samples would be judged twice.
    """
    opened: dict[str, Origin] = {}
    for address in addresses:
        source = open_source(address, runtime, rate_hz, live)
        kind, _, rest = address.partition(":")
        place = f"watch:{os.path.realpath(rest)}" if kind == "watch" else source.name
        if place in opened:
            raise EdgeclinError(f"{source.name} is given twice as a source; name it once")
        opened[place] = source
    return list(opened.values())


def open_source(
    address: str, runtime: Runtime, rate_hz: float | None = None, live: bool = False
) -> Origin:
    """Open a source.

    Args:
        address: `-` for standard input, `watch:FOLDER`, `camera:NUMBER` or `camera:DEVICE`,
            `video:FILE`, an address of the network (rtsp, http), or a data set's path.
        rate_hz: samples a second of a data set, frames a second of a camera or video.
        live: what writes to standard input cannot wait.

    Raises:
        BadFile: nothing there, or not what the model is described for.
        EdgeclinError: standard input is closed, or a model that takes no frames.
        MissingExtra: what reads such a source is not installed.
    """
    kind, _, rest = address.partition(":")
    preprocess = runtime.preprocess
    if not address:
        raise EdgeclinError("the source has an empty name: name a data set or a device")
    if address == "-":
        return _standard_input(runtime, live)
    if address.startswith(_NETWORK):
        return Camera(address, preprocess, rate_hz)
    if kind in ("watch", "camera", "video") and not rest:
        raise EdgeclinError(f"the source {address!r} names nothing after the colon")
    if kind == "watch":
        folder = Path(rest)
        if folder.exists() and not folder.is_dir():
            raise BadFile(folder, "not a folder", "watch the folder that it is in")
        pictures = runtime.bundle.manifest.inputs[0].kind == "image"
        return FolderWatch(folder, preprocess, runtime.require_fit, pictures=pictures)
    if kind == "camera":
        return Camera(rest, preprocess, rate_hz)
    if kind == "video":
        return VideoFile(Path(rest), preprocess, rate_hz)
    if rest and kind.isalpha() and not os.path.lexists(address):
        known = "watch:, camera:, video:, rtsp://, rtsps://, http:// and https://"
        raise EdgeclinError(f"{address!r} is no file, and no source is of that kind: {known} are")
    dataset = open_dataset(Path(address))
    runtime.require_fit(dataset)
    return ReplaySource(dataset, preprocess, rate_hz)


def _standard_input(runtime: Runtime, live: bool) -> JsonLinesSource:
    if sys.stdin is None:
        raise EdgeclinError("standard input is closed: send JSON lines to it, or name a file")
    # Bytes: one that is no text spoils one line only. And a reader of its own: Python locks
    # sys.stdin when it ends, while a thread may still wait there.
    lines = io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False))
    return JsonLinesSource(lines, runtime.preprocess, live=live)
