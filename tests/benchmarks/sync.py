"""`make bench-sync`: what the queue and the agent cost here, each beside its target.

Every part runs against bare references in the same run, with results about the examples' real
heartbeats, a real mosquitto and a real `edgeclin cloud ingest`. Read ratios rather than
milliseconds, for machines are noisy and differ.
"""

from __future__ import annotations

import os
import random
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import click
import msgspec
import numpy as np
import uuid6

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "benchmarks"), str(ROOT / "examples/ecg")]

import paho.mqtt.client as mqtt  # noqa: E402
from broker import LocalBroker, free_port  # noqa: E402
from faults.network import PROFILES, Network  # noqa: E402
from litequeue import LiteQueue  # noqa: E402
from paho.mqtt.enums import CallbackAPIVersion  # noqa: E402
from persistqueue import SQLiteQueue  # noqa: E402
from runtime import BUILD, ecg, line, replaced, timed  # noqa: E402

from edgeclin import batches, wire  # noqa: E402
from edgeclin.benchmark.machine import filesystem  # noqa: E402
from edgeclin.benchmark.percentiles import digits, distribution  # noqa: E402
from edgeclin.bundle import Bundle  # noqa: E402
from edgeclin.config import BrokerConfig, SyncConfig  # noqa: E402
from edgeclin.flash import written  # noqa: E402
from edgeclin.offline_queue import OfflineQueue  # noqa: E402
from edgeclin.offline_queue.ids import Ids  # noqa: E402
from edgeclin.records import Result, State, Tier  # noqa: E402
from edgeclin.runtime import Runtime  # noqa: E402
from edgeclin.sync import SyncAgent  # noqa: E402
from edgeclin.transport.mqtt import MQTTTransport  # noqa: E402

SIZES = (1_000, 100_000, 1_000_000)
TOPICS = wire.Topics("ward", "bench")


@cache
def results() -> list[Result]:
    """About 2,000 real heartbeats."""
    runtime = Runtime(Bundle.open(ecg(), allow_unsigned=True))
    with np.load(ROOT / "examples" / "ecg" / "data" / "test.npz") as arrays:
        beats = arrays["X"][:2000]
    return [runtime.predict(beat, "test.npz", at) for at, beat in enumerate(beats)]


def fill(path: Path, count: int, tier: Tier = Tier.ROUTINE) -> None:
    """Put a backlog there at once: with `put` a million rows would take minutes. One heartbeat a
    second or so, each stored some milliseconds later."""
    OfflineQueue(path).close()
    chance, moment, bodies = random.Random(1), time.time() - 86_400, []
    for one in results():
        moment += chance.gauss(0.85, 0.05)
        made = replaced(one, tier=tier, state=State.FINAL, made_at=round(moment, 3))
        bodies.append(
            (round((moment + chance.uniform(0.001, 0.004)) * 1e9), msgspec.json.encode(made))
        )
    moments = (bodies[at % len(bodies)][0] for at in range(count))
    ids = Ids(lambda: next(moments))
    rows = (
        (ids.new(), "result", list(Tier).index(tier), bodies[at % len(bodies)][1])
        for at in range(count)
    )
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA synchronous = OFF")
        with db:
            db.executemany("INSERT INTO rows (id, kind, tier, body) VALUES (?, ?, ?, ?)", rows)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@contextmanager
def cloud(folder: Path) -> Iterator[int]:
    """The port of a broker with an ingest worker behind it."""
    broker = LocalBroker(folder, "mosquitto").start()
    command = [
        sys.executable, "-m", "edgeclin", "cloud", "ingest", "--store", str(folder / "store"),
        "--broker", f"127.0.0.1:{broker.port}", "--compact-every", "3600",
    ]  # fmt: skip
    ingest = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    time.sleep(3)
    try:
        yield broker.port
    finally:
        ingest.kill()
        ingest.wait()
        broker.stop()


def agent_of(queue: OfflineQueue, port: int) -> SyncAgent:
    agent = SyncAgent(queue, MQTTTransport(BrokerConfig(port=port), "bench"), TOPICS, SyncConfig())
    agent.open()
    while not agent.health().connected:
        time.sleep(0.01)
    return agent


# -- the parts -------------------------------------------------------------------------------------


def put() -> None:
    """1. Storing one result, beside the disk and a bare SQLite loop of the same durability."""
    rows = results()
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        folder = Path(name)
        kind = filesystem(folder)
        urgent, disk, ours, bare = [], [], [], []
        with OfflineQueue(folder / "q") as queue, (folder / "log").open("wb", 0) as log:
            loop = bare_loop(folder / "bare")
            for at in range(3000):
                own = replaced(rows[at % len(rows)], position=at, state=State.FINAL)
                body = msgspec.json.encode(own)
                disk.append(timed(lambda: (log.write(b"x" * 4096), os.fdatasync(log.fileno()))))
                fast = replaced(own, tier=Tier.URGENT)
                urgent.append(timed(lambda fast=fast: queue.put(fast)))
                slow = replaced(own, tier=Tier.ROUTINE)
                ours.append(timed(lambda slow=slow: queue.put(slow)))
                bare.append(timed(lambda body=body: loop(body)))
        mine, alone = distribution(urgent).at(0.99), distribution(disk).at(0.99)
        a, b = mine.value_ms or 0.0, alone.value_ms or 1.0
        line(f"urgent put, p99, {kind}", f"{digits(a)} ms, fdatasync {digits(b)} ms",
             "<= 2 x fdatasync", a <= 2 * b)  # fmt: skip
        ratio = statistics.median(bare) / statistics.median(ours)
        line("routine put, p50, rows/s against a bare loop", f"{ratio:.2f} of it", ">= 0.8",
             ratio >= 0.8)  # fmt: skip
        line(
            "",
            f"{1e3 / statistics.median(ours):.0f} and {1e3 / statistics.median(bare):.0f} a s",
            "",
        )
        wear(folder, rows)
        others(folder, [msgspec.json.encode(one) for one in rows])


def wear(folder: Path, rows: list[Result], count: int = 5000) -> None:
    """What a disk writes for a routine result, while nothing is taken out."""
    spent = {}
    with OfflineQueue(folder / "wear") as queue:
        before = written()
        for at in range(count):
            queue.put(replaced(rows[at % len(rows)], position=at, state=State.FINAL))
        spent["queue"] = written(), before
    loop, before = bare_loop(folder / "bare-wear"), written()
    for at in range(count):
        loop(msgspec.json.encode(rows[at % len(rows)]))
    spent["bare loop"] = written(), before
    for name, (after, start) in spent.items():
        if after is not None and start is not None:
            line(f"written to the disk a routine result, {name}",
                 f"{(after - start) / count:,.0f} bytes", "")  # fmt: skip


def bare_loop(path: Path) -> Callable[[bytes], None]:
    """One row a transaction in a table with the same index, the log flushed every 0.2 s."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("CREATE TABLE rows (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, kind TEXT, "
               "tier INTEGER, body BLOB)")  # fmt: skip
    db.execute("CREATE INDEX rows_by_tier ON rows (tier, seq)")
    flushed = time.monotonic()

    def store(body: bytes) -> None:
        nonlocal flushed
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO rows (id, kind, tier, body) VALUES (?, ?, ?, ?)",
                   (str(uuid6.uuid7()), "result", 1, body))  # fmt: skip
        db.execute("COMMIT")
        if time.monotonic() - flushed > 0.2:
            with Path(f"{path}-wal").open("rb") as log:
                os.fdatasync(log.fileno())
            flushed = time.monotonic()

    return store


def others(folder: Path, bodies: list[bytes]) -> None:
    """What packages of the same purpose store, each by its defaults."""
    queue = SQLiteQueue(str(folder / "persist"), auto_commit=True)
    spent = [timed(lambda body=body: queue.put(body)) for body in bodies[:1000]]
    line("persist-queue, p50", f"{1e3 / statistics.median(spent):.0f} rows/s", "")
    lite = LiteQueue(str(folder / "lite"))
    spent = [timed(lambda body=body: lite.put(body.decode())) for body in bodies[:1000]]
    line("litequeue, p50", f"{1e3 / statistics.median(spent):.0f} rows/s", "")


def drain() -> None:
    """2. From a backlog to stored and receipted, and what a bare paho loop hands to the broker."""
    speeds: dict[int, float] = {}
    for count in SIZES:
        with tempfile.TemporaryDirectory(dir=BUILD) as name:
            folder = Path(name)
            fill(folder / "q", count)
            with cloud(folder) as port, OfflineQueue(folder / "q") as queue:
                agent = agent_of(queue, port)
                began, before = time.monotonic(), time.process_time()
                agent.run(threading.Event(), until_empty=True)
                took = time.monotonic() - began
                agent.close()
                speeds[count] = count / took
                own = (time.process_time() - before) / count
                line(f"drain of {count:,} rows", f"{speeds[count]:,.0f} rows/s",
                     ">= 20,000" if count > 1000 else "",
                     speeds[count] >= 20_000 if count > 1000 else None)  # fmt: skip
                line("", f"{1e6 * own:.0f} us of the agent's CPU a row", "")
                if count == SIZES[1]:
                    line("bare paho, a message a row, to the broker alone",
                         f"{bare_paho(port):,.0f} rows/s", "")  # fmt: skip
    apart = min(speeds[SIZES[1]], speeds[SIZES[2]]) / max(speeds[SIZES[1]], speeds[SIZES[2]])
    line("100,000 and 1,000,000 rows apart", f"{1 - apart:.0%}", "<= 20 %", apart >= 0.8)


def bare_paho(port: int, count: int = 10_000) -> float:
    """Messages a second, QoS 1, 20 on their way."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, "bare", protocol=mqtt.MQTTv5)
    room = threading.Semaphore(20)
    client.on_publish = lambda *_: room.release()
    client.connect("127.0.0.1", port)
    client.loop_start()
    bodies = [msgspec.json.encode(one) for one in results()]
    began = time.monotonic()
    for at in range(count):
        room.acquire()
        client.publish("bare", bodies[at % len(bodies)], qos=1)
    for _ in range(20):
        room.acquire()
    took = time.monotonic() - began
    client.disconnect()
    client.loop_stop()
    return count / took


def size() -> None:
    """3. Bytes of a routine result on the wire, in full batches."""
    settings, sent = SyncConfig(), 0
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        fill(Path(name) / "q", 2000)
        with OfflineQueue(Path(name) / "q") as queue:
            rows = queue.pending(Tier.ROUTINE, limit=2000)
            for start in range(0, len(rows), settings.batch_results):
                items = tuple(
                    batches.Item(one.seq, one.id, one.kind, msgspec.Raw(one.body))
                    for one in rows[start : start + settings.batch_results]
                )
                sent += len(batches.encode(batches.Batch(queue.epoch, items)))
    mean = statistics.mean(len(one.body) for one in rows)
    line("a routine result on the wire", f"{sent / len(rows):.1f} bytes of {mean:.0f}", "<= 20",
         sent / len(rows) <= 20)  # fmt: skip


def idle() -> None:
    """4. What the agent takes: memory with a backlog of each size, CPU when there is nothing. And
    what it takes to open a queue."""
    opened = {}
    for count in (0, SIZES[-1]):
        with tempfile.TemporaryDirectory(dir=BUILD) as name:
            folder = Path(name)
            fill(folder / "q", count)
            opened[count] = statistics.median(
                timed(lambda path=folder / "q": OfflineQueue(path).close()) for _ in range(9)
            )
            with cloud(folder) as port:
                config = folder / "device.toml"
                config.write_text(
                    f'schema = 1\nsite = "ward"\ndevice = "bench"\n[queue]\npath = "{folder}/q"\n'
                    f"[broker]\nport = {port}\n"
                )
                command = [sys.executable, "-m", "edgeclin", "sync", "--config", str(config)]
                agent = subprocess.Popen(command, stdout=subprocess.DEVNULL)
                time.sleep(5)
                before, began = cpu_s(agent.pid), time.monotonic()
                time.sleep(15)
                share = (cpu_s(agent.pid) - before) / (time.monotonic() - began)
                memory = peak_mb(agent.pid)
                agent.terminate()
                agent.wait()
                line(f"agent's RSS, backlog of {count:,}", f"{memory:.1f} MB", "<= 60 MB",
                     memory <= 60)  # fmt: skip
                if not count:
                    line("agent's CPU with nothing to do", f"{share:.2%}", "< 1 %", share < 0.01)
    for count, took in opened.items():
        line(f"opening and closing with {count:,} rows waiting", f"{digits(took)} ms", "")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) / 1024


def urgent() -> None:
    """5. An urgent result to its receipt over 3G, with a backlog and bulk behind it."""
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        folder = Path(name)
        fill(folder / "q", SIZES[-1])
        fill(folder / "q", 100_000, Tier.BULK)
        with cloud(folder) as port, OfflineQueue(folder / "q") as queue:
            network = Network(free_port(), port, PROFILES["3g"])
            agent, stop = agent_of(queue, network.port), threading.Event()
            running = threading.Thread(target=agent.run, args=(stop,))
            running.start()
            time.sleep(10)
            waits = []
            for at in range(150):
                fresh = replaced(results()[at], source="urgent", tier=Tier.URGENT)
                stored, began = queue.put(fresh), time.monotonic()
                while queue.pending(Tier.URGENT, after=stored.seq - 1, limit=1):
                    time.sleep(0.01)
                waits.append(1e3 * (time.monotonic() - began))
                time.sleep(0.3)
            stop.set()
            running.join()
            agent.close()
            network.close()
    found = distribution(waits)
    p99 = found.at(0.99).value_ms or found.max_ms
    line("urgent to receipt over 3G, p99", f"{p99:.0f} ms (n = {len(waits)})", "<= 1000 ms",
         p99 <= 1000)  # fmt: skip
    line("", f"p50 {found.at(0.5).said} ms, max {found.max_ms:.0f} ms", "")


PARTS = {"put": put, "drain": drain, "size": size, "idle": idle, "urgent": urgent}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice([*PARTS]))
def main(parts: tuple[str, ...]) -> None:
    """Measure these parts, or all."""
    BUILD.mkdir(parents=True, exist_ok=True)
    line("what", "measured", "target")
    for name in parts or PARTS:
        PARTS[name]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    click.echo(f"this process took {peak:.0f} MB at most")


if __name__ == "__main__":
    main()
