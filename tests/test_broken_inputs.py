"""A broken input is one rejected result with its reason, from whichever source, and the next good
sample is judged."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from bedsides import PICTURE, bundle_of, judging
from delivered import delivered
from polling import wait_until
from test_dicom import header, shipped
from test_video import filmed
from test_wfdb_records import record
from unprivileged import closed

from edgeclin.bundle import Bundle
from edgeclin.datasets import open_dataset
from edgeclin.description import Input
from edgeclin.manifest import Manifest
from edgeclin.offline_queue import OfflineQueue
from edgeclin.records import Result, State
from edgeclin.runtime import Runtime
from edgeclin.sources import FolderWatch, JsonLinesSource, ReplaySource, Source, VideoFile
from edgeclin.steps import Window

cv2 = pytest.importorskip("cv2", reason="the vision extra is not installed")

BEAT = Input(
    name="beat", kind="signal", shape=(8, 2), leads=("I", "II"), sampling_hz=250.0,
    preprocessing=(Window(length=8, hop=8),),
)  # fmt: skip
GOOD = np.stack([np.sin(np.arange(8)), np.cos(np.arange(8))], axis=1).astype(np.float32)
WAITS = {"poll_s": 0.01, "rest_s": 0.05, "missing_s": 0.15}


@dataclass
class Place:
    """A runtime, and a folder for what it is to judge."""

    runtime: Runtime
    folder: Path
    queue: OfflineQueue

    def judged(self, source: Source, count: int) -> list[Result]:
        """What is recorded of a source, once that is `count` results and stays so."""
        with judging(self.runtime, self.queue, [source]) as results:
            wait_until(lambda: len(results) >= count, f"{count} results")
            wait_until(lambda: True, "nothing more", 0.2)
        return results

    def watch(self) -> FolderWatch:
        return FolderWatch(self.folder, self.runtime.preprocess, self.runtime.require_fit, **WAITS)

    def replay(self) -> ReplaySource:
        return ReplaySource(open_dataset(self.folder), self.runtime.preprocess)


@pytest.fixture
def place(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
) -> Place:
    spec: Input = request.param
    sample = GOOD if spec is BEAT else np.full((9, 9, 3), 99, np.uint8)
    bundle: Bundle = bundle_of(tmp_path, manifest_and_files[0], spec, sample)
    folder = tmp_path / "in"
    folder.mkdir()
    with OfflineQueue(tmp_path / "q.sqlite") as queue:
        yield Place(Runtime(bundle), folder, queue)


pictures = pytest.mark.parametrize("place", [PICTURE], indirect=True, ids=["pictures"])
signals = pytest.mark.parametrize("place", [BEAT], indirect=True, ids=["signals"])


def one_is_rejected(results: Sequence[Result], reason: str, good: int = 1) -> None:
    rejected = [result for result in results if result.rejected]
    assert len(rejected) == 1, results
    assert rejected[0].reason.startswith("rejected: ")
    assert reason in rejected[0].reason
    assert (rejected[0].state, rejected[0].label) == (State.UNREVIEWED, None)
    assert sum(result.label is not None for result in results) == good


# -- pictures ----------------------------------------------------------------------------------


def picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, (32, 32, 3), np.uint8)


def jpeg() -> bytes:
    data: bytes = cv2.imencode(".jpg", picture())[1].tobytes()
    return data


def bomb(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel, all black: a thousand times smaller than its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(height * (1 + -(-width // 8))), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


PICTURES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "truncated JPEG": ("jpg", lambda: jpeg()[:-50], "not an image that OpenCV can decode"),
    "half a JPEG": ("jpg", lambda: jpeg()[: len(jpeg()) // 2], "not an image"),
    "half written JPEG": ("jpg", lambda: jpeg()[:500].ljust(len(jpeg()), b"\0"), "not an image"),
    "empty file": ("jpg", lambda: b"", "not an image"),
    "text": ("jpg", lambda: b"a text that somebody named so", "not an image"),
    "truncated PNG": ("png", lambda: bomb(64, 64)[:-20], "not an image"),
    "black picture": ("png", lambda: bomb(64, 64), "a picture without contrast"),
}


@pictures
@pytest.mark.parametrize("source", ["replay", "watch"])
@pytest.mark.parametrize(("suffix", "content", "reason"), PICTURES.values(), ids=PICTURES)
def test_a_broken_picture(
    place: Place, source: str, suffix: str, content: Callable[[], bytes], reason: str
) -> None:
    (place.folder / f"a.{suffix}").write_bytes(content())
    (place.folder / "b.jpg").write_bytes(jpeg())
    one_is_rejected(place.judged(getattr(place, source)(), 2), reason)


@pictures
@pytest.mark.parametrize("source", ["replay", "watch"])
def test_a_dicom_file_without_its_codec(place: Place, source: str) -> None:
    """JPEG 2000 and JPEG-LS need plug-ins; the one for JPEG-LS is not installed with ours."""
    from pydicom.pixels.decoders import JPEGLSLosslessDecoder

    shutil.copy(shipped("MR_small_jpeg_ls_lossless.dcm"), place.folder / "a.dcm")
    shutil.copy(shipped("examples_rgb_color.dcm"), place.folder / "b.dcm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JPEGLSLosslessDecoder, "_available", {})
        results = place.judged(getattr(place, source)(), 2)
    one_is_rejected(results, "no installed codec reads JPEG-LS Lossless")


@pictures
def test_a_dicom_file_that_is_none(place: Place) -> None:
    for number, (name, reason) in enumerate(
        (
            ("MR_truncated.dcm", "missing, cut short"),
            ("no_meta.dcm", "not a DICOM file"),
            ("reportsi.dcm", "holds no image"),
        )
    ):
        shutil.copy(shipped(name), place.folder / f"{number}.dcm")
        one_is_rejected(place.judged(place.watch(), 1), reason, good=0)


@pictures
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Rows": 60_000, "Columns": 60_000}, "frames of 3600000000 pixels"),
        ({"NumberOfFrames": 2_000_000_000}, "holds 2000000000 frames"),
    ],
)
def test_a_dicom_header_that_claims_too_much(
    place: Place, changes: dict[str, int], reason: str
) -> None:
    made = header(np.zeros((4, 4), np.uint8))
    made.update(changes)
    made.save_as(place.folder / "a.dcm", enforce_file_format=True)
    (place.folder / "b.jpg").write_bytes(jpeg())
    one_is_rejected(place.judged(place.watch(), 2), reason)


@pictures
def test_a_symlink_loop(place: Place) -> None:
    (place.folder / "a.jpg").symlink_to("b.jpg")
    (place.folder / "b.jpg").symlink_to("c.jpg")
    (place.folder / "c.jpg").symlink_to("a.jpg")
    results = place.judged(place.watch(), 3)
    assert len(results) == 3
    assert all("symbolic links" in result.reason for result in results)
    (place.folder / "d.jpg").write_bytes(jpeg())
    assert [result.rejected for result in place.judged(place.watch(), 1)] == [False]


@pictures
def test_a_pipe_that_would_block_for_ever(place: Place) -> None:
    os.mkfifo(place.folder / "a.jpg")
    (place.folder / "b.jpg").write_bytes(jpeg())
    one_is_rejected(place.judged(place.watch(), 2), "not a regular file but a named pipe")


@pictures
def test_a_file_without_permission(place: Place) -> None:
    (place.folder / "a.jpg").write_bytes(jpeg())
    (place.folder / "b.jpg").write_bytes(jpeg())
    os.chown(place.queue.path, 65534, 65534)
    with closed(place.folder / "a.jpg"):
        results = place.judged(place.watch(), 2)
    one_is_rejected(results, "cannot be read (Permission denied)")
    assert not any(result.rejected for result in place.judged(place.watch(), 1))


def test_a_picture_of_more_pixels_than_a_device_has_memory_for(tmp_path: Path) -> None:
    """A fresh process: OpenCV reads its limit as it is loaded."""
    (tmp_path / "a.png").write_bytes(bomb(20_000, 20_000))
    assert (tmp_path / "a.png").stat().st_size < 100_000
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from bedsides import PICTURE
from edgeclin.datasets import open_one
from edgeclin.errors import BadInput
from edgeclin.preprocess import Preprocess
try:
    Preprocess(PICTURE)(open_one(__import__("pathlib").Path({str(tmp_path / "a.png")!r}))[0])
except BadInput as problem:
    print(problem)
# ru_maxrss would count what this process was before it became another program.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) >> 10)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    reason, peak_mb = done.stdout.splitlines()
    assert "over 67108864 pixels" in reason
    assert int(peak_mb) < 800  # its pixels would take 1,200


@pictures
def test_a_file_beyond_all_bounds(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeclin.sources.watch.MAX_FILE", 10_000)
    (place.folder / "a.jpg").write_bytes(bytes(10_001))
    (place.folder / "b.jpg").write_bytes(jpeg())
    one_is_rejected(place.judged(place.watch(), 2), "a.jpg: larger than")


@pictures
def test_the_cut_end_of_a_video(place: Place, tmp_path: Path) -> None:
    path = filmed(tmp_path / "a.avi")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    count = len(delivered(VideoFile(path, place.runtime.preprocess)))
    results = place.judged(VideoFile(path, place.runtime.preprocess), count)
    one_is_rejected(results, "is it cut short", good=len(results) - 1)


# -- signals -----------------------------------------------------------------------------------


def spoilt(what: str) -> np.ndarray:
    broken = GOOD.copy()
    if what == "NaN":
        broken[3, 1] = np.nan
    elif what == "infinite":
        broken[3, 1] = np.inf
    elif what == "lead off":
        broken[:, 1] = 0.5
    elif what == "flat line":
        broken[:] = 0.5
    elif what == "short":
        broken = broken[:5]
    return broken


SIGNALS = {
    "NaN": "1 of 16 values are not finite",
    "infinite": "1 of 16 values are not finite",
    "lead off": "flat throughout: lead 1 at 0.5",
    "flat line": "flat lines: none of 2 leads varies",
    "short": "5 samples, expected a window of 8",
}


def csv(samples: np.ndarray, leads: str = "I,II") -> str:
    return "\n".join([leads, *(",".join(map(str, row)) for row in samples)])


@signals
@pytest.mark.parametrize("source", ["replay", "watch"])
@pytest.mark.parametrize(("what", "reason"), SIGNALS.items())
def test_a_broken_signal_in_a_file(place: Place, source: str, what: str, reason: str) -> None:
    (place.folder / "a.csv").write_text(csv(spoilt(what)))
    (place.folder / "b.csv").write_text(csv(GOOD))
    one_is_rejected(place.judged(getattr(place, source)(), 2), reason)


@signals
@pytest.mark.parametrize(("what", "reason"), SIGNALS.items())
@pytest.mark.parametrize("chunks", [False, True])
def test_a_broken_signal_on_standard_input(
    place: Place, what: str, reason: str, chunks: bool
) -> None:
    lines: list[object] = [spoilt(what).tolist(), GOOD.tolist()]
    if chunks:
        if what == "short":
            pytest.skip("what comes in pieces waits for the rest")
        lines = [{"stream": "bed", "samples": line} for line in lines]
    text = "\n".join(map(json.dumps, lines)).encode()
    source = JsonLinesSource(io.BytesIO(text), place.runtime.preprocess)
    one_is_rejected(place.judged(source, 2), reason)


@signals
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (csv(GOOD, "I,V1"), "the model is described for I, II"),
        (csv(np.tile(GOOD, 2), "I,II,V1,V2"), "the model is described for I, II"),
        ("", "is empty"),
        ("I,II\n", "holds no samples"),
        ("I,II\n1,2\n3\n", "line 3 has 1 cells, expected 2"),
        ("I,II\n1,2\nx,3\n", "line 3, cell 1 is not a number"),
        ("\0\1\2", "not text but binary data"),
    ],
)
def test_a_table_that_is_no_such_signal(place: Place, text: str, reason: str) -> None:
    (place.folder / "a.csv").write_text(text)
    (place.folder / "b.csv").write_text(csv(GOOD))
    one_is_rejected(place.judged(place.watch(), 2), reason)


@signals
def test_a_record_without_its_samples_or_at_another_rate(place: Place) -> None:
    stored = (200 * GOOD).astype(np.int16)
    record(place.folder / "slow", stored, rate=100)
    one_is_rejected(place.judged(place.watch(), 1), "recorded at 100 Hz", good=0)
    record(place.folder / "lost", stored)
    (place.folder / "lost.dat").rename(place.folder / "lost.tmp")
    one_is_rejected(place.judged(place.watch(), 1), "although lost.hea names it", good=0)
    (place.folder / "lost.tmp").rename(place.folder / "lost.dat")
    assert [result.rejected for result in place.judged(place.watch(), 1)] == [False]
    record(place.folder / "cut", stored)
    data = (place.folder / "cut.dat").read_bytes()
    (place.folder / "cut.dat").write_bytes(data[: len(data) // 2])
    one_is_rejected(place.judged(place.watch(), 1), "cut short", good=0)


@signals
def test_a_picture_for_a_model_of_signals(place: Place) -> None:
    (place.folder / "a.jpg").write_bytes(jpeg())
    (place.folder / "b.csv").write_text(csv(GOOD))
    one_is_rejected(place.judged(place.watch(), 2), "no step of the input 'beat' decodes them")
