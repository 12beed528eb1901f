"""The endpoint as a source of the loop: a server in the thread that delivers."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

from edgeclin.bedside import Bedside
from edgeclin.config import DeviceConfig, HTTPConfig
from edgeclin.errors import EdgeclinError, MissingExtra
from edgeclin.inbox import Inbox, Sample
from edgeclin.manifest import Manifest
from edgeclin.offline_queue import OfflineQueue, Stored
from edgeclin.records import Result

try:
    import uvicorn

    from edgeclin.endpoint.application import Rooms, application
    from edgeclin.endpoint.connections import MOST, ImpatientProtocol, listen
    from edgeclin.endpoint.events import Events
    from edgeclin.endpoint.metrics import Metrics
    from edgeclin.endpoint.predictions import Predictions
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] not in ("uvicorn", "starlette", "prometheus_client"):
        raise
    raise MissingExtra(f"{exc.name}, which the endpoint needs,", "http") from exc

from edgeclin.endpoint.health import Watch
from edgeclin.endpoint.history import History

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_TURN_S = 0.1
_END_S = 5.0


class Endpoint:
    """Takes samples by HTTP and shows what was answered, whatever the source.

    It is a source that ends only with the loop. Use it as a context, so that who waits is told
    about the end.

    Args:
        http: where it listens.
        alive: whether the loop moves, as the watchdog is told.

    Attributes:
        address: where it listens, as a URL.

    Raises:
        EdgeclinError: it cannot listen there.
        MissingExtra: what serves is not installed.
    """

    def __init__(
        self,
        bedside: Bedside,
        queue: OfflineQueue,
        config: DeviceConfig,
        http: HTTPConfig,
        alive: Callable[[], bool],
    ) -> None:
        self._http = http
        self._bedside = bedside
        self._judge = bedside.runtime.bundle
        self._history = History()
        self._watch = Watch(bedside, queue, config, self._history, alive)
        self._metrics = Metrics(self._watch.health)
        self._socket = listen(http.host, http.port)
        host, port = self._socket.getsockname()[:2]
        self.address = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
        self._broken: Exception | None = None
        self._closing = threading.Event()
        self._ended = threading.Event()
        self._ended.set()

    def show(self, stored: Stored, result: Result, sample: Sample) -> None:
        """Take in a result; called by the loop, which it neither holds up nor ends."""
        try:
            self._history.add(stored, result, sample, self._manifest(result))
            self._metrics.count(result)
        except Exception as exc:
            self._broken = exc
            self._closing.set()

    def _manifest(self, result: Result) -> Manifest | None:
        """Of the bundle that gave a result; another may have taken over since."""
        now = self._bedside.runtime.bundle
        if now.digest == result.bundle:
            self._judge = now
        return self._judge.manifest if self._judge.digest == result.bundle else None

    def deliver(self, _: Inbox) -> None:
        self._ended.clear()
        try:
            asyncio.run(self._serve())
            if self._broken is not None:  # better nothing than a page without the last results
                raise self._broken
        finally:
            self._socket.close()
            self._ended.set()

    def close(self) -> None:
        """Tell who waits, and wait until they are told."""
        self._closing.set()
        if not self._ended.wait(_END_S):
            log.warning("the endpoint did not end within %g s", _END_S)
        self._socket.close()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def _serve(self) -> None:
        predictions = Predictions(self._bedside, self._http)
        events = Events(self._history, self._watch.health)
        rooms = Rooms(self._history, self._watch, self._metrics, predictions, events)
        server = uvicorn.Server(
            uvicorn.Config(
                application(rooms, self._bedside, self._http),
                http=ImpatientProtocol,
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                log_level="critical",  # it would log a client's mistakes; faults we log ourselves
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=MOST,
                timeout_graceful_shutdown=2,
            )
        )
        looking = asyncio.create_task(self._look_in_time())
        serving = asyncio.create_task(server.serve([self._socket]))
        while not (self._closing.is_set() or serving.done()):
            await asyncio.sleep(_TURN_S)
        events.stopping = True
        predictions.stop()
        looking.cancel()
        server.should_exit = True
        await serving
        if not self._closing.is_set():
            raise EdgeclinError("the endpoint has ended by itself")

    async def _look_in_time(self) -> None:
        while True:
            await asyncio.to_thread(self._watch.look)
            await asyncio.sleep(_LOOK_S)
