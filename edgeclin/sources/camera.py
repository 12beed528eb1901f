"""A camera, or a stream of pictures from the network, through OpenCV."""

from __future__ import annotations

import logging
import time
from urllib.parse import urlsplit

from edgeclin.errors import BadInput
from edgeclin.inbox import Inbox
from edgeclin.preprocess import Preprocess
from edgeclin.preprocess.image import opencv
from edgeclin.sources.capture import Capture

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 30.0
_NEWEST = 1


class Camera:
    """The newest frame whenever one can be judged; each outage is one sample that says so.

    After an outage it is opened again: after a second, and then after twice as long each time, up
    to `LONGEST_WAIT_S`.

    Args:
        address: a number or a device such as `/dev/video0` of V4L2, or what FFmpeg opens (`rtsp://…`,
            `http://…`).
        rate_hz: frames a second that are taken at most; None for all that come.
        wait_s: before the first try to open it again.

    Raises:
        EdgeclinError: no step says which order of colours the model takes.
        MissingExtra: OpenCV is not installed.
    """

    recorded = False
    live = True

    def __init__(
        self,
        address: str,
        preprocess: Preprocess,
        rate_hz: float | None = None,
        wait_s: float = 1.0,
    ) -> None:
        preprocess.require_colours()
        self.name = public(address)
        self._address = address
        self._preprocess = preprocess
        self._interval = 1 / rate_hz if rate_hz else 0.0
        self._wait_s = wait_s
        opencv()

    def deliver(self, inbox: Inbox) -> None:
        line = inbox.line(self.name, _NEWEST)
        wait = self._wait_s
        out = False
        while True:
            capture = Capture(self._address, self._preprocess)
            problem = "gives no frames any more" if capture.opened else "cannot be opened"
            due = time.monotonic()
            while not inbox.stopped.is_set() and capture.grab():
                if out:
                    log.warning("%s: gives frames again", self.name)
                    out, wait = False, self._wait_s
                    inbox.out.pop(self.name, None)
                if (now := time.monotonic()) >= due:
                    due = max(due + self._interval, now)
                    frame = capture.frame()
                    if frame is None or not line.push(frame):
                        break
            capture.close()
            if inbox.stopped.is_set():
                return
            if not out:
                out = True
                inbox.out[self.name] = problem
                log.error("ALARM: %s: %s; it is tried again", self.name, problem)
                line.push(BadInput(f"outage: {self.name} {problem}"))
            inbox.stopped.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)


def public(address: str) -> str:
    """The name of a camera, without the password or key that an address may hold."""
    if "://" not in address:
        return f"camera:{address}"
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
