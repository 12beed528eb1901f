"""A live camera: always the newest frame, and no silence when there is none."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bedsides import PICTURE, bundle_of, judging

pytest.importorskip("cv2", reason="the vision extra is not installed")
from mjpeg import NetworkCamera
from polling import wait_until

from edgeclin.description import Input
from edgeclin.errors import BadInput, EdgeclinError
from edgeclin.inbox import Inbox
from edgeclin.manifest import Manifest
from edgeclin.offline_queue import OfflineQueue
from edgeclin.preprocess import Preprocess
from edgeclin.runtime import Runtime
from edgeclin.sources import Camera
from edgeclin.sources.camera import public

PLAIN = Preprocess(PICTURE)


@pytest.fixture
def network() -> Iterator[NetworkCamera]:
    with NetworkCamera().serving() as camera:
        yield camera


def test_frames_come_in_the_colours_of_the_description(network: NetworkCamera) -> None:
    inbox = Inbox()
    inbox.feed(Camera(network.address, PLAIN))
    arrival = inbox.take()
    while arrival is not None and isinstance(arrival.sample, BadInput):  # of frames that went
        arrival = inbox.take()
    assert arrival is not None
    assert isinstance(arrival.sample, np.ndarray)
    assert arrival.sample.shape == (48, 64, 3)
    assert arrival.sample[20, 30, 0] > 90
    assert arrival.sample[20, 30, 2] < 20
    inbox.stop()


def test_what_waits_is_the_newest_frame_and_what_went_is_told(network: NetworkCamera) -> None:
    inbox = Inbox()
    inbox.feed(Camera(network.address, PLAIN))
    (name,) = {network.address}
    wait_until(lambda: inbox.dropped.get(name, 0) >= 20, "frames that nobody took")
    assert inbox.waiting == 2  # the newest frame, and word of those that went
    told, newest = inbox.take(), inbox.take()
    assert told is not None
    assert newest is not None
    assert isinstance(told.sample, BadInput)
    assert "dropped: " in str(told.sample)
    assert newest.position == told.position + 1
    assert time.monotonic() - newest.at < 1
    inbox.stop()


def test_a_rate_thins_the_frames(network: NetworkCamera) -> None:
    inbox = Inbox()
    inbox.feed(Camera(network.address, PLAIN, rate_hz=5))
    for _ in range(3):
        assert inbox.take() is not None
    assert network.sent >= 15
    assert inbox.dropped == {}
    inbox.stop()


def test_an_outage_is_one_rejected_result_and_then_it_goes_on(
    network: NetworkCamera,
    tmp_path: Path,
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    bundle = bundle_of(tmp_path, manifest_and_files[0], PICTURE, np.full((9, 9, 3), 99, np.uint8))
    runtime = Runtime(bundle)
    camera = Camera(network.address, runtime.preprocess, rate_hz=20, wait_s=0.02)
    with OfflineQueue(tmp_path / "q.sqlite") as queue, judging(runtime, queue, [camera]) as results:

        def judged() -> int:
            return sum(not result.rejected for result in results)

        for outage in (1, 2):
            seen = judged()
            wait_until(lambda n=seen: judged() > n + 3, "frames")  # type: ignore[misc]
            network.on.clear()
            asked = network.asked
            wait_until(lambda n=asked: network.asked >= n + 3, "tries")  # type: ignore[misc]
            told = [result.reason for result in results if "outage" in result.reason]
            assert len(told) == outage
            (away,) = results.away
            assert away.endswith("gives no frames any more: nothing comes from it now")
            network.on.set()
        assert "gives no frames any more" in told[0]
        seen = judged()
        wait_until(lambda: judged() > seen + 3, "frames again")
        assert results.away == []
    assert [result.position for result in results] == list(range(len(results)))
    assert sum("is tried again" in message for message in caplog.messages) == 2
    assert sum("gives frames again" in message for message in caplog.messages) == 2


def test_a_frame_that_is_cut_as_the_link_breaks_is_no_frame() -> None:
    with NetworkCamera(cut_after=5).serving() as network:
        inbox = Inbox()
        inbox.feed(Camera(network.address, PLAIN, wait_s=0.01))
        seen = []
        for _ in range(40):
            arrival = inbox.take()
            assert arrival is not None
            if isinstance(arrival.sample, np.ndarray):
                seen.append(arrival.sample)
        inbox.stop()
    assert network.asked > 2
    for frame in seen:
        assert frame[:, :, 2].max() < 20
        assert frame[10:38, 10:54, 0].min() > 60


@pytest.mark.parametrize("address", ["63", "/dev/video63", "http://127.0.0.1:9/none"])
def test_a_camera_that_is_not_there_is_told_and_waited_for(address: str) -> None:
    inbox = Inbox()
    inbox.feed(Camera(address, PLAIN, wait_s=0.01))
    arrival = inbox.take()
    assert arrival is not None
    assert "outage: " in str(arrival.sample)
    assert "cannot be opened" in str(arrival.sample)
    assert arrival.live, "it holds up nothing where there is no room for it"
    time.sleep(0.3)
    assert inbox.waiting == 0
    inbox.stop()


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("0", "camera:0"),
        ("/dev/video2", "camera:/dev/video2"),
        ("rtsp://me:secret@ward:554/live?token=secret", "rtsp://ward:554/live"),
        ("http://ward/a@b", "http://ward/a@b"),
    ],
)
def test_a_name_holds_no_password(address: str, name: str) -> None:
    assert public(address) == name


def test_a_model_without_colours_is_refused() -> None:
    signal = Preprocess(Input(name="beat", kind="signal", shape=(140,)))
    with pytest.raises(EdgeclinError, match="need the step `decode`"):
        Camera("0", signal)


def test_run_ends_well_in_the_middle_of_a_frame(
    tmp_path: Path, manifest_and_files: tuple[Manifest, dict[str, bytes]]
) -> None:
    """Python stops the thread of a source as it ends, and C++ would abort at that."""
    bundle = bundle_of(tmp_path, manifest_and_files[0], PICTURE, np.full((9, 9, 3), 99, np.uint8))
    config = tmp_path / "device.toml"
    config.write_text(
        f'schema = 1\nsite = "w"\ndevice = "b"\nbundle = "{bundle.path}"\n'
        f'[queue]\npath = "{tmp_path / "q.sqlite"}"\n'
    )
    command = [sys.executable, "-m", "edgeclin", "run", "--config", str(config), "--json"]
    command += ["--allow-unsigned", "--source"]
    with NetworkCamera(rate_hz=100).serving() as network:
        for _ in range(4):
            process = subprocess.Popen([*command, network.address], stdout=subprocess.PIPE)
            assert process.stdout is not None
            for _ in range(40):
                assert process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
            assert process.returncode == 0
