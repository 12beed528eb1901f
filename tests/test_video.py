"""A recorded video: every frame at its number, in the colours of the description."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bedsides import PICTURE
from delivered import delivered

from edgeclin.description import Input
from edgeclin.errors import BadFile, BadInput, EdgeclinError
from edgeclin.inbox import Arrival
from edgeclin.preprocess import Preprocess
from edgeclin.sources import VideoFile
from edgeclin.steps import Decode

cv2 = pytest.importorskip("cv2", reason="the vision extra is not installed")

FRAMES, RATE = 60, 30
PLAIN = Preprocess(PICTURE)


def filmed(path: Path, codec: str = "MJPG") -> Path:
    """A red square on dark ground that brightens frame by frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), RATE, (64, 48))
    assert writer.isOpened()
    for number in range(FRAMES):
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[8:40, 8:56, 2] = 60 + 3 * number
        writer.write(frame)
    writer.release()
    return path


def level(arrival: Arrival, channel: int = 0) -> float:
    assert isinstance(arrival.sample, np.ndarray)
    return float(arrival.sample[16:32, 16:48, channel].mean())


@pytest.mark.parametrize(("suffix", "codec"), [("avi", "MJPG"), ("mp4", "mp4v"), ("mkv", "MJPG")])
def test_every_frame_is_a_sample_in_order(tmp_path: Path, suffix: str, codec: str) -> None:
    arrivals = delivered(VideoFile(filmed(tmp_path / f"a.{suffix}", codec), PLAIN))
    assert [arrival.position for arrival in arrivals] == list(range(FRAMES))
    for arrival in arrivals:
        assert isinstance(arrival.sample, np.ndarray)
        assert (arrival.sample.shape, arrival.sample.dtype) == ((48, 64, 3), np.uint8)
        assert level(arrival) == pytest.approx(60 + 3 * arrival.position, abs=4)


def test_colours_come_in_the_order_that_the_description_wants(tmp_path: Path) -> None:
    path = filmed(tmp_path / "a.avi")
    for colour, red in (("rgb", 0), ("bgr", 2)):
        spec = Input(
            name="x",
            kind="image",
            shape=(48, 64, 3),
            preprocessing=(Decode(colour=colour),),  # type: ignore[arg-type]
        )
        arrival = delivered(VideoFile(path, Preprocess(spec)))[-1]
        assert level(arrival, red) > 200
        assert level(arrival, 2 - red) < 20
    grey = Input(name="x", kind="image", shape=(48, 64, 1), preprocessing=(Decode(colour="grey"),))
    (first, *_) = delivered(VideoFile(path, Preprocess(grey)))
    assert isinstance(first.sample, np.ndarray)
    assert first.sample.shape == (48, 64, 1)


def test_it_goes_on_at_the_frame_where_it_was_left(tmp_path: Path) -> None:
    arrivals = delivered(VideoFile(filmed(tmp_path / "a.avi"), PLAIN), 41)
    assert [arrival.position for arrival in arrivals] == list(range(41, FRAMES))
    assert level(arrivals[0]) == pytest.approx(60 + 3 * 41, abs=4)


def test_a_rate_takes_so_many_frames_of_each_second(tmp_path: Path) -> None:
    path = filmed(tmp_path / "a.avi")
    for rate, expected in ((5, range(0, 60, 6)), (15, range(0, 60, 2)), (100, range(60))):
        found = [arrival.position for arrival in delivered(VideoFile(path, PLAIN, rate))]
        assert found == list(expected)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("suffix", ["avi", "mkv"])
def test_a_video_that_is_cut_short_says_so_once(tmp_path: Path, suffix: str, share: float) -> None:
    path = filmed(tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    *frames, last = delivered(VideoFile(path, PLAIN))
    assert 0 < len(frames) < FRAMES
    assert isinstance(last.sample, BadInput)
    assert f"ends after {len(frames)} whole frames of 60" in str(last.sample)
    for arrival in frames:
        assert level(arrival) == pytest.approx(60 + 3 * arrival.position, abs=4)
    assert last.position == len(frames)
    assert not delivered(VideoFile(path, PLAIN), last.position + 1)


@pytest.mark.parametrize("content", [b"", b"no video", b"RIFF\0\0\0\0AVI LIST"])
def test_what_is_no_video_is_one_rejected_sample(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.avi"
    path.write_bytes(content)
    (arrival,) = delivered(VideoFile(path, PLAIN))
    assert "not a video that OpenCV can read" in str(arrival.sample)


def test_an_mp4_without_its_index_is_one_rejected_sample(tmp_path: Path) -> None:
    path = filmed(tmp_path / "a.mp4", "mp4v")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (arrival,) = delivered(VideoFile(path, PLAIN))
    assert isinstance(arrival.sample, BadInput)


def test_other_contents_make_another_stream(tmp_path: Path) -> None:
    path = filmed(tmp_path / "a.avi")
    first = VideoFile(path, PLAIN).name
    assert VideoFile(path, PLAIN).name == first
    path.write_bytes(path.read_bytes()[:-1])
    assert VideoFile(path, PLAIN).name != first


def test_a_missing_file_and_a_model_without_colours_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no such file"):
        VideoFile(tmp_path / "a.avi", PLAIN)
    signal = Preprocess(Input(name="beat", kind="signal", shape=(140,)))
    with pytest.raises(EdgeclinError, match="need the step `decode`"):
        VideoFile(filmed(tmp_path / "a.avi"), signal)
