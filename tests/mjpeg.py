"""A camera of the network: pictures as JPEG over HTTP on this machine's own address."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import cv2
import numpy as np

BOUNDARY = b"frame"


class NetworkCamera:
    """Serves frames that brighten one by one while `on`; red is bright, blue dark.

    Args:
        cut_after: break each connection in the middle of this frame.

    Attributes:
        sent: frames so far.
        asked: connections so far.
    """

    def __init__(self, rate_hz: float = 50, cut_after: int | None = None) -> None:
        self.on = threading.Event()
        self.on.set()
        self.sent = self.asked = 0
        self.port = 0
        self._interval = 1 / rate_hz
        self._cut_after = cut_after
        self._closing = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/live.mjpg"

    @contextmanager
    def serving(self) -> Iterator[NetworkCamera]:
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.asked += 1
                if not camera.on.is_set():
                    self.send_error(503)
                    return
                self.send_response(200)
                kind = f"multipart/x-mixed-replace; boundary={BOUNDARY.decode()}"
                self.send_header("Content-Type", kind)
                self.end_headers()
                try:
                    for number in count(1):
                        if camera._closing or not camera.on.is_set():
                            return
                        part = camera._part()
                        cut = number == camera._cut_after
                        self.wfile.write(part[: 3 * len(part) // 4] if cut else part)
                        if cut:
                            return
                        time.sleep(camera._interval)
                except OSError:
                    pass

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", self.port), Handler) as server:
            server.daemon_threads = True
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield self
            finally:
                self._closing = True
                server.shutdown()
                thread.join()

    def _part(self) -> bytes:
        frame = np.zeros((48, 64, 3), np.uint8)
        frame[8:40, 8:56, 2] = 100 + self.sent % 100
        self.sent += 1
        jpeg = cv2.imencode(".jpg", frame)[1].tobytes()
        head = b"--%b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
        return head % (BOUNDARY, len(jpeg)) + jpeg + b"\r\n"
