"""Files, devices and streams of the network as OpenCV opens them."""

from __future__ import annotations

import os
from typing import Any

from edgeclin.preprocess.image import opencv

SILENCE_MS = 10_000
"""No frame for so long is an outage; OpenCV's own bound for V4L2 devices is the same."""
_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_DEFAULTS = "rtsp_transport;tcp|fflags;discardcorrupt"
"""OpenCV's own, and that a packet which was cut short makes no frame: it would be half noise."""


def open_capture(address: str) -> Any:
    """An `cv2.VideoCapture`, which may not be opened.

    Args:
        address: a file, or what FFmpeg knows by its scheme; a number or a path below `/dev/` is a
            V4L2 device.

    Raises:
        MissingExtra: OpenCV is not installed.
    """
    cv2 = opencv()
    if address.isdecimal():
        return cv2.VideoCapture(int(address), cv2.CAP_V4L2)
    if address.startswith("/dev/"):
        return cv2.VideoCapture(address, cv2.CAP_V4L2)
    os.environ.setdefault(_OPTIONS, _DEFAULTS)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, SILENCE_MS]
    limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, SILENCE_MS]
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
