"""A recorded video, through OpenCV."""

from __future__ import annotations

import hashlib
from math import floor
from pathlib import Path

from edgeclin.errors import BadInput
from edgeclin.files import reading, require_file
from edgeclin.inbox import Inbox, Part
from edgeclin.preprocess import Preprocess
from edgeclin.preprocess.image import opencv
from edgeclin.sources.landing import plain

_GIVEN = 0.99
"""Share of the announced frames that must come; some containers know only about how many."""


class VideoFile:
    """The frames of a video in a file, each at its number in the video, from 0.

    Attributes:
        name: of its stream; it tells the file's name, size and time of change.

    Args:
        rate_hz: frames that are taken of each second of the video; None for all.

    Raises:
        BadFile: no file that can be read.
        EdgeclinError: no step says which order of colours the model takes.
        MissingExtra: OpenCV is not installed.
    """

    recorded = True

    def __init__(self, path: Path, preprocess: Preprocess, rate_hz: float | None = None) -> None:
        preprocess.require_colours()
        require_file(path)
        with reading(path):
            status = path.stat()
        mark = f"{plain(path.name)} {status.st_size} {status.st_mtime_ns}"
        self.name = f"{plain(path.name)}#{hashlib.sha256(mark.encode()).hexdigest()[:12]}"
        self._path = path
        self._preprocess = preprocess
        self._rate_hz = rate_hz
        self._opencv = opencv()

    def deliver(self, inbox: Inbox) -> None:
        line = inbox.line(self.name)
        cv2 = self._opencv
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        announced, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
        share = min(1.0, self._rate_hz / rate) if self._rate_hz and rate > 0 else 1.0
        frame = 0
        while capture.grab():
            taken = floor(frame * share) != floor((frame - 1) * share)
            if taken and frame >= line.start:
                got, picture = capture.retrieve()
                sample = (
                    self._preprocess.coloured(picture)
                    if got
                    else BadInput(f"frame {frame} cannot be decoded")
                )
                if not line.put(sample, Part(self.name, frame)):
                    return
            elif inbox.stopped.is_set():
                return
            frame += 1
        problem = ""
        if not frame:
            problem = "not a video that OpenCV can read"
        elif frame + 1 < _GIVEN * announced:
            problem = f"ends after {frame} of {announced:.0f} frames: is it cut short or damaged?"
        if problem and frame >= line.start:
            line.put(BadInput(f"{self._path.name}: {problem}"), Part(self.name, frame))
        capture.release()
