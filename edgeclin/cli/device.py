"""`edgeclin run`, `edgeclin sync` and `edgeclin queue`: what stands at the bedside."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from edgeclin.cli.output import (
    FILE,
    Number,
    json_option,
    print_facts,
    print_json,
    print_table,
    trust_options,
)

if TYPE_CHECKING:
    from edgeclin.bedside import Bedside
    from edgeclin.bundle import Bundle
    from edgeclin.config import DeviceConfig, HTTPConfig
    from edgeclin.endpoint import Endpoint
    from edgeclin.health import RunHealth, SyncHealth
    from edgeclin.inbox import Sample
    from edgeclin.offline_queue import OfflineQueue, Stored, Told
    from edgeclin.records import Result
    from edgeclin.runtime import Runtime
    from edgeclin.sources import Source

Value = TypeVar("Value")
_STUCK_S = 10.0
"""A service whose loop has not moved for so long does not feed the watchdog."""

config_option = click.option(
    "--config", "config_path", type=FILE, required=True, help="The device's device.toml."
)


def open_queue(config: DeviceConfig) -> OfflineQueue:
    """The device's queue, with its bounds."""
    from edgeclin.offline_queue import OfflineQueue

    return OfflineQueue(
        config.queue.path,
        max_bytes=config.queue.max_mb << 20,
        routine_sync_s=config.queue.routine_sync_ms / 1000,
    )


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
    type=click.IntRange(min=1),
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
    from edgeclin.cli.bundles import open_bundle
    from edgeclin.cli.signals import on_stop
    from edgeclin.config import IsolationConfig, load_config
    from edgeclin.offline_queue import Telling
    from edgeclin.runtime import Runtime
    from edgeclin.shadow import Shadow
    from edgeclin.sources import open_sources
    from edgeclin.swap import Swap, mark, require_same_samples
    from edgeclin.watchdog import Watchdog

    config = load_config(config_path)
    path = Path(_required(str(bundle or config.bundle or ""), "bundle", config_path))
    http = _http(config, port)
    where = addresses or config.sources
    if http is None:
        _required(where, "source", config_path)
    trusted = trust or tuple(Path(key) for key in config.trusted_keys)
    isolation = config.isolation or (IsolationConfig() if isolate else None)

    def open_now() -> Bundle:
        return open_bundle(path, trusted, allow_unsigned)

    def load(opened: Bundle) -> Runtime:
        return Runtime(opened, threads=threads, isolation=isolation)

    def load_shadow() -> Runtime:
        opened = open_bundle(Path(second), trusted, allow_unsigned)
        require_same_samples(opened, runtime.bundle)
        return load(opened)

    seen = mark(path)
    runtime = load(open_now())
    second = str(shadow or config.shadow or "")
    origins = open_sources(where, runtime, rate, live)
    sources: list[Source] = [*origins]
    tally = _Tally(as_json)
    with open_queue(config) as queue, queue.claim("run"):
        for origin in origins:
            start = queue.next_position(origin.name, runtime.bundle.digest)
            if start and origin.recorded:
                click.echo(
                    f"{origin.name} goes on at sample {start}; this bundle has judged those "
                    "before it",
                    err=True,
                )
        beside = Shadow(load_shadow, queue) if second else None
        bedside = Bedside(runtime, queue, config.opinions.deadline_s, shadow=beside)

        def alive() -> bool:
            since = bedside.busy_since
            return since is None or time.monotonic() - since < _STUCK_S

        def tell(stored: Stored, result: Result, sample: Sample) -> None:
            for listener in listeners:
                listener(stored, result, sample)

        on_stop(bedside.inbox.stop)
        listeners = [tally.count]
        with ExitStack() as stack:
            stack.enter_context(Watchdog(alive))
            stack.enter_context(Telling(queue.notices, bedside.health))
            yields = isolation is None and threads == 1
            stack.enter_context(Swap(path, seen, bedside, open_now, load, yields))
            if beside is not None:
                stack.enter_context(beside)
            if http is not None:
                endpoint = stack.enter_context(_open_endpoint(bedside, queue, config, http, alive))
                sources.append(endpoint)
                listeners.append(endpoint.show)
            bedside.run(sources, tell)
    bedside.runtime.close()
    if not as_json:
        tally.print()
    if beside is not None:
        click.echo(f"shadow: {beside.health()}", err=True)


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
) -> Endpoint:
    from edgeclin.endpoint import Endpoint

    endpoint = Endpoint(bedside, queue, config, http, alive)
    click.echo(f"serving {endpoint.address}", err=True)
    if not http.on_loopback:
        click.echo(
            "warning: other machines can reach it, without any password: see their results, and "
            "have samples judged",
            err=True,
        )
    return endpoint


class _Tally:
    """Counts results as they are stored, and prints each one for `--json`."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._states: Counter[str] = Counter()
        self._tiers: Counter[str] = Counter()
        self._latencies: list[float] = []

    def count(self, stored: Stored, result: Result, sample: Sample) -> None:
        import msgspec

        if self._as_json:
            line = {"seq": stored.seq, "id": stored.id, "result": result}
            click.echo(msgspec.json.encode(line))
            return
        self._states[result.state.value] += 1
        self._tiers[result.tier.value] += 1
        if result.latency_ms is not None:
            self._latencies.append(result.latency_ms.total)

    def print(self) -> None:
        import numpy as np

        facts = {"results": sum(self._states.values()), **self._states}
        facts["urgent"] = self._tiers["urgent"]
        print_facts(facts)
        if self._latencies:
            p50, p95 = np.percentile(self._latencies, [50, 95])
            click.echo(f"latency p50 {p50:.3f} ms, p95 {p95:.3f} ms, n = {len(self._latencies)}")


@click.command()
@config_option
@click.option("--until-empty", is_flag=True, help="End when nothing waits any more.")
@json_option
def sync(config_path: Path, until_empty: bool, as_json: bool) -> None:
    """Deliver what waits in the queue.

    Takes in receipts, on which rows are deleted, and opinions, which settle provisional answers.
    """
    from edgeclin import wire
    from edgeclin.cli.signals import stop_event
    from edgeclin.config import load_config
    from edgeclin.offline_queue import Telling
    from edgeclin.sync import SyncAgent
    from edgeclin.transport.mqtt import MQTTTransport
    from edgeclin.watchdog import Watchdog

    config = load_config(config_path)
    transport = MQTTTransport(config.broker, client_id=f"{config.site}.{config.device}")
    stop = stop_event()
    with open_queue(config) as queue, queue.claim("sync"):
        topics = wire.Topics(config.site, config.device)
        agent = SyncAgent(queue, transport, topics, config.sync)
        agent.open()
        watchdog = Watchdog(lambda: time.monotonic() - agent.last_step < _STUCK_S)
        with watchdog, Telling(queue.notices, agent.health):
            agent.run(stop, until_empty)
        agent.close()
    facts = {"delivered": agent.delivered, "reviews": agent.opinions}
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)


@click.group()
def queue() -> None:
    """Look into this device's queue."""


@queue.command()
@config_option
@json_option
def status(config_path: Path, as_json: bool) -> None:
    """What waits for the cloud, and how `run` and `sync` are; changes nothing."""
    import dataclasses

    from edgeclin.config import load_config
    from edgeclin.health import RunHealth, SyncHealth
    from edgeclin.offline_queue import Notices, look

    path = Path(load_config(config_path).queue.path)
    standing = look(path)
    notices = Notices(path)
    run, sync = notices.told(RunHealth), notices.told(SyncHealth)
    if as_json:
        print_json({**dataclasses.asdict(standing), "run": run, "sync": sync})
        return
    print_facts({"epoch": standing.epoch, "last sequence number": standing.last_seq})
    rows = [(name, usage.count, usage.bytes) for name, usage in standing.waiting.items()]
    print_table(("waiting", "count", "bytes"), rows)
    if run is not None:
        print_facts({"run": _age(run), **_facts_of_run(run.health)})
    if sync is not None:
        link = "connected" if sync.health.connected else "no link"
        print_facts({"sync": f"{_age(sync)}, {link}, {sync.health.delivered} delivered"})


def _age(told: Told[RunHealth] | Told[SyncHealth]) -> str:
    if told.age_s is None:
        return "was alive before the last boot"
    return f"{'alive' if told.fresh else 'SILENT since'} {told.age_s:.0f} s ago"


def _facts_of_run(health: RunHealth) -> dict[str, str]:
    states = ", ".join(f"{count} {state}" for state, count in sorted(health.states.items()))
    facts = {
        "answered": states or "nothing yet",
        "in trouble": f"{health.rejected} rejected, {health.late} late, {health.dropped} dropped",
    }
    if health.restarts:
        facts["engine restarts"] = str(health.restarts)
    if health.shadow is not None:
        facts["shadow"] = str(health.shadow)
    if health.degraded:
        facts["degraded"] = health.degraded
    return facts | {f"alarm {number}": text for number, text in enumerate(health.alarms, 1)}
