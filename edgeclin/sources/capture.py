"""Files, devices and streams of the network as OpenCV opens them."""

from __future__ import annotations

import atexit
import os
import threading
from typing import Any

import numpy as np

from edgeclin.preprocess import Preprocess
from edgeclin.preprocess.image import opencv

SILENCE_MS = 10_000
"""No frame for so long is an outage; OpenCV's own bound for V4L2 devices is the same."""
_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_DEFAULTS = "rtsp_transport;tcp|fflags;discardcorrupt"
"""OpenCV's own, and that a packet which was cut short makes no frame: it would be half noise."""


class Capture:
    """A capture of OpenCV's, read from one thread.

    When the process ends, it waits until that thread is out of OpenCV, at most `SILENCE_MS`: a
    thread that Python stops as it comes back from C++ would abort the process.

    Attributes:
        opened: whether there may be frames.
        frames: how many a file announces, 0 where it does not.
        rate_hz: frames a second, 0 where nobody knows.

    Args:
        address: a file, or what FFmpeg knows by its scheme; a number or a path below `/dev/` is a
            V4L2 device.
        preprocess: knows the order of colours.

    Raises:
        MissingExtra: OpenCV is not installed.
    """

    def __init__(self, address: str, preprocess: Preprocess) -> None:
        cv2 = opencv()
        self._preprocess = preprocess
        self._inside = threading.Lock()
        atexit.register(self._leave)
        with self._inside:
            self._capture = _open(cv2, address)
            self.opened: bool = self._capture.isOpened()
            self.frames = max(0, round(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
            self.rate_hz: float = max(0.0, self._capture.get(cv2.CAP_PROP_FPS))

    def grab(self) -> bool:
        """Wait for the next frame; False when there is none any more."""
        with self._inside:
            grabbed: bool = self._capture.grab()
        return grabbed

    def frame(self) -> np.ndarray | None:
        """The frame that was grabbed, as the step `decode` would give it; None if it is damaged."""
        with self._inside:
            got, frame = self._capture.retrieve()
            return self._preprocess.coloured(frame) if got else None

    def close(self) -> None:
        """Let go of the device."""
        with self._inside:
            self._capture.release()
        atexit.unregister(self._leave)

    def _leave(self) -> None:
        self._inside.acquire(timeout=SILENCE_MS / 1000)


def _open(cv2: Any, address: str) -> Any:
    if address.isdecimal():
        return cv2.VideoCapture(int(address), cv2.CAP_V4L2)
    if address.startswith("/dev/"):
        return cv2.VideoCapture(address, cv2.CAP_V4L2)
    os.environ.setdefault(_OPTIONS, _DEFAULTS)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, SILENCE_MS]
    limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, SILENCE_MS]
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
