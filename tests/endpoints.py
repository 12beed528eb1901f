"""The endpoint as `run` has it: a real server on loopback before a real engine and queue."""

from __future__ import annotations

import http.client
import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from edgeclin.bedside import Bedside
from edgeclin.config import DeviceConfig, HTTPConfig, QueueConfig
from edgeclin.endpoint import Endpoint
from edgeclin.offline_queue import OfflineQueue
from edgeclin.runtime import Runtime
from edgeclin.sources import Source

JSON, NPY = "application/json", "application/x-npy"
ANY = HTTPConfig(port=0)
"""Any free port of loopback."""


def npy(sample: np.ndarray) -> bytes:
    """A sample as the bytes of a .npy file."""
    file = io.BytesIO()
    np.save(file, sample)
    return file.getvalue()


class Answered:
    """One answer of the server."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """An endpoint at work, and a client of it."""

    def __init__(self, bedside: Bedside, queue: OfflineQueue, endpoint: Endpoint) -> None:
        self.bedside, self.queue, self.endpoint = bedside, queue, endpoint
        self.port = int(endpoint.address.rstrip("/").rpartition(":")[2])

    def connect(self, timeout: float = 30) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answered:
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            return Answered(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answered:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("GET", path, headers=named)

    def predict(self, body: Any, media_type: str = JSON, path: str = "/predict") -> Answered:
        return self.ask("POST", path, body, {"Content-Type": media_type})


@contextmanager
def serving(
    runtime: Runtime,
    queue: OfflineQueue,
    http: HTTPConfig = ANY,
    sources: Sequence[Source] = (),
    alive: Callable[[], bool] = lambda: True,
    judge: bool = True,
) -> Iterator[Served]:
    """The loop at work in the block, with an endpoint on any free port.

    Args:
        judge: False leaves all samples waiting.
    """
    config = DeviceConfig(1, "ward", "bed-1", QueueConfig(str(queue.path)))
    bedside = Bedside(runtime, queue, 60)
    with Endpoint(bedside, queue, config, http, alive) as endpoint:
        everything = [*sources, endpoint]
        if judge:
            loop = threading.Thread(
                target=bedside.run, args=(everything, endpoint.show), daemon=True
            )
            loop.start()
        else:
            for source in everything:
                bedside.inbox.feed(source)
        try:
            yield Served(bedside, queue, endpoint)
        finally:
            bedside.inbox.stop()
            if judge:
                loop.join(30)
                assert not loop.is_alive()
