"""`edgeclin run`: judges what sources deliver at the bedside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from edgeclin.cli.device import STUCK_S, config_option, open_queue
from edgeclin.cli.loader import Loader
from edgeclin.cli.output import FILE, Number, trust_options
from edgeclin.cli.tally import Tally

if TYPE_CHECKING:
    from edgeclin.bedside import Bedside
    from edgeclin.config import DeviceConfig, HTTPConfig
    from edgeclin.endpoint import Endpoint
    from edgeclin.inbox import Sample
    from edgeclin.offline_queue import OfflineQueue, Stored
    from edgeclin.records import Result
    from edgeclin.sources import Origin, Source

Value = TypeVar("Value")


@click.command()
@config_option
@click.option("--bundle", type=FILE, help="Instead of the one that the configuration names.")
@click.option(
    "--source",
    "addresses",
    multiple=True,
    help="Data set (file or folder), - for JSON lines on standard input, watch:FOLDER, camera:0, "
    "video:FILE, rtsp://… or http://…; may be given several times.",
)
@click.option(
    "--rate",
    type=Number(min=0.001, max=1e6),
    help="Replay a data set at this many samples a second (default: all speed), or take so many "
    "frames a second of a camera or video (default: all).",
)
@click.option(
    "--live",
    is_flag=True,
    help="What writes to standard input cannot wait: the oldest sample of a full stream goes.",
)
@click.option(
    "--http",
    "port",
    type=click.IntRange(min=0, max=65_535),
    help="Serve the bedside page and take samples on this port, 0 for any that is free.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Threads of the engine.",
)
@click.option(
    "--isolate",
    is_flag=True,
    help="Run the engine in a process of its own, which is ended and started again when it hangs.",
)
@click.option(
    "--shadow",
    type=FILE,
    help="A second bundle that judges the same samples: recorded, and shown to nobody.",
)
@trust_options
@click.option("--json", "as_json", is_flag=True, help="Print each result as a line of JSON.")
def run(
    config_path: Path,
    bundle: Path | None,
    addresses: tuple[str, ...],
    rate: float | None,
    live: bool,
    port: int | None,
    threads: int,
    isolate: bool,
    shadow: Path | None,
    trust: tuple[Path, ...],
    allow_unsigned: bool,
    as_json: bool,
) -> None:
    """Judge what the sources deliver.

    Every answer is stored before the next sample is taken.

    Needs no network. After a crash it goes on where the queue says it was.
    """
    from edgeclin.bedside import Bedside
    from edgeclin.cli.log import Log
    from edgeclin.cli.signals import on_stop
    from edgeclin.config import IsolationConfig, load_config
    from edgeclin.errors import BadFile
    from edgeclin.offline_queue import Expiring, Telling
    from edgeclin.priority import short_collections
    from edgeclin.shadow import Shadow
    from edgeclin.sources import open_sources
    from edgeclin.swap import Swap, mark
    from edgeclin.watchdog import Watchdog

    config = load_config(config_path)
    path = Path(_required(str(bundle or config.bundle or ""), "bundle", config_path))
    http = _http(config, port)
    where = addresses or config.sources
    if http is None:
        _required(where, "source", config_path)
    trusted = trust or tuple(Path(key) for key in config.trusted_keys)
    isolation = config.isolation or (IsolationConfig() if isolate else None)
    loader = Loader(path, trusted, allow_unsigned, threads, isolation)
    second = shadow or (Path(config.shadow) if config.shadow else None)
    if shadow is not None and not shadow.exists():
        raise BadFile(shadow, "not there", "name a bundle with --shadow")

    seen = mark(path)
    first = loader.open()
    if shadow is not None:
        loader.open_shadow(shadow, first)
    runtime = loader.load(first)
    origins = open_sources(where, runtime, rate, live)
    sources: list[Source] = [*origins]
    waits = http is None and not any(origin.live for origin in origins)
    tally = Tally(as_json, waits)
    listeners = [tally.count]

    def show(stored: Stored, result: Result, sample: Sample) -> None:
        for listener in listeners:
            listener(stored, result, sample)

    with Log() as log:
        with open_queue(config) as queue, queue.claim("run"), ExitStack() as stack:
            _tell_where(origins, queue, runtime.bundle.digest, log.tell)
            beside = None
            if second is not None:
                beside = Shadow(partial(loader.load_shadow, second, runtime.bundle), queue)
            bedside = Bedside(
                runtime,
                queue,
                config.opinions.deadline_s,
                shadow=beside,
                problems=[tally.problem, log.problem],
            )
            stopped = bedside.inbox.stopped.is_set

            def alive() -> bool:
                since = bedside.busy_since
                return since is None or time.monotonic() - since < STUCK_S

            on_stop(bedside.inbox.stop)
            stack.enter_context(short_collections())
            stack.enter_context(Watchdog(alive))
            stack.enter_context(Telling(queue.notices, bedside.health))
            stack.enter_context(Expiring(queue))
            swap = Swap(path, seen, bedside, loader.open, loader.load_beside, loader.yields)
            stack.enter_context(swap)
            if beside is not None:
                stack.enter_context(beside)
            if http is not None:
                endpoint = stack.enter_context(
                    _open_endpoint(bedside, queue, config, http, alive, log.tell)
                )
                sources.append(endpoint)
                listeners.append(endpoint.show)
            try:
                bedside.run(sources, show, lambda: tally.wait(stopped))
            except BaseException:
                tally.close(lambda: True)
                raise
            printed = tally.close(stopped)
        bedside.runtime.close()
        tally.print()
        if beside is not None:
            log.tell(f"shadow: {beside.health()}")
    if not printed:
        raise SystemExit(1)


def _tell_where(
    origins: Iterable[Origin], queue: OfflineQueue, digest: str, tell: Callable[[str], None]
) -> None:
    """Say which of the sources that are replayed go on in the middle."""
    for origin in origins:
        start = queue.next_position(origin.name, digest)
        if start and origin.recorded:
            tell(f"{origin.name} goes on at sample {start}; those before it are judged")


def _required(value: Value, what: str, config_path: Path) -> Value:
    from edgeclin.errors import BadFile

    if not value:
        raise BadFile(config_path, f"names no {what}", f"set it there, or give --{what}")
    return value


def _http(config: DeviceConfig, port: int | None) -> HTTPConfig | None:
    """The endpoint's settings; None without one."""
    from msgspec.structs import replace

    from edgeclin.config import HTTPConfig

    return config.http if port is None else replace(config.http or HTTPConfig(), port=port)


def _open_endpoint(
    bedside: Bedside,
    queue: OfflineQueue,
    config: DeviceConfig,
    http: HTTPConfig,
    alive: Callable[[], bool],
    tell: Callable[[str], None],
) -> Endpoint:
    from edgeclin.endpoint import Endpoint

    endpoint = Endpoint(bedside, queue, config, http, alive)
    tell(f"serving {endpoint.address}")
    if not http.on_loopback:
        tell(
            "warning: other machines can reach it, without any password: see their results, and "
            "have samples judged"
        )
    return endpoint
