"""The whole way with real processes, a real broker and real beats: cut, killed, and all there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from broker import LocalBroker, find_mosquitto, free_port
from conftest import ECG
from link import Link

from edgeclin.bundle import Bundle
from edgeclin.datasets import open_dataset
from edgeclin.keys import KeyPair
from edgeclin.offline_queue import OfflineQueue
from edgeclin.preprocess import Preprocess
from edgeclin.sources import ReplaySource

pytest.importorskip("pyarrow", reason="the cloud extra is not installed")

BEATS = 600
RATE = 150
SERVICES = ("run", "sync", "ingest", "offload")


class Ward:
    """A device behind a link that can be cut, and a cloud behind the same broker."""

    def __init__(self, folder: Path, bundle: Path, keys: Path, broker: LocalBroker) -> None:
        self.folder = folder
        self.link = Link(free_port(), broker.port)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        with np.load(ECG / "data" / "test.npz") as arrays:
            np.savez(folder / "beats.npz", X=arrays["X"][:BEATS])
        opened = Bundle.open(bundle, allow_unsigned=True)
        self.bundle = opened.digest
        preprocess = Preprocess(opened.manifest.inputs[0])
        self.source = ReplaySource(open_dataset(folder / "beats.npz"), preprocess).name
        config = folder / "device.toml"
        config.write_text(
            f'schema = 1\nsite = "ward"\ndevice = "bed"\nbundle = "{bundle}"\n'
            f'source = "{folder / "beats.npz"}"\n[queue]\npath = "{folder / "queue.sqlite"}"\n'
            f"[broker]\nport = {self.link.port}\nreconnect_most_s = 0.5\n"
            "[sync]\nreceipt_timeout_s = 1\n"
        )
        address = f"127.0.0.1:{broker.port}"
        self.commands = {
            "run": ["run", "--config", str(config), "--rate", str(RATE)],
            "sync": ["sync", "--config", str(config)],
            "ingest": ["cloud", "ingest", "--store", str(folder / "store"), "--broker", address,
                       "--compact-every", "0.5"],
            "offload": ["cloud", "offload", str(bundle), "--broker", address],
        }  # fmt: skip
        self.environment = {**os.environ, "EDGECLIN_KEYS": str(keys)}

    def start(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "edgeclin", "-v", *self.commands[name]],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.environment,
            )

    def kill(self, name: str) -> None:
        """SIGKILL, and the same process again."""
        self.processes[name].kill()
        self.processes[name].wait()
        self.start(name)

    def stop(self, name: str) -> int:
        self.processes[name].send_signal(signal.SIGTERM)
        return self.processes[name].wait(timeout=30)

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        self.link.close()


@pytest.fixture(params=["mosquitto", "iotcore"])
def ward(
    request: pytest.FixtureRequest, tmp_path: Path, bundle_path: Path, key_pair: KeyPair
) -> Iterator[Ward]:
    if request.param == "mosquitto" and find_mosquitto() is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    if request.param == "iotcore":
        pytest.importorskip("iotcore", reason="the broker extra is not installed")
    broker = LocalBroker(tmp_path, request.param).start()
    made = Ward(tmp_path, bundle_path, key_pair.public.parent, broker)
    try:
        yield made
    finally:
        made.close()
        broker.stop()


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
        time.sleep(0.1)


@pytest.mark.parametrize("victim", SERVICES)
def test_every_beat_is_stored_once_though_the_network_is_cut_and_a_process_killed(
    ward: Ward, victim: str
) -> None:
    from edgeclin.cloud.store import Store

    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    moments = random.Random(seed)
    for name in SERVICES:
        ward.start(name)
    with OfflineQueue(ward.folder / "queue.sqlite") as queue:
        position = lambda: queue.next_position(ward.source, ward.bundle)  # noqa: E731
        wait_for(lambda: position() > BEATS * 0.2, 30, "the first beats")
        ward.link.cut()
        cut_at = position()
        time.sleep(moments.uniform(0.0, 1.0))
        ward.kill(victim)
        wait_for(lambda: position() > cut_at + BEATS * 0.2, 30, "inference without a network")
        waiting = sum(usage.count for name, usage in queue.usage().items() if name != "questions")
        assert waiting > BEATS * 0.15
        ward.link.mend()
        wait_for(lambda: ward.processes["run"].poll() is not None, 60, "the end of the source")
        assert ward.processes["run"].returncode == 0
        wait_for(
            lambda: not any(usage.count for usage in queue.usage().values()), 60, "full delivery"
        )
    for name in ("sync", "offload", "ingest"):
        assert ward.stop(name) == 0
    store = Store(ward.folder / "store")
    tables = store.tables()
    store.close()
    results = tables["result"].to_pylist()
    assert sorted(row["position"] for row in results) == list(range(BEATS))
    assert len({row["id"] for row in results}) == BEATS
    reviews = {row["result"]: row["state"] for row in tables["review"].to_pylist()}
    provisional = {row["id"] for row in results if row["state"] == "provisional"}
    assert provisional
    assert provisional <= set(reviews)
    assert set(reviews.values()) <= {"confirmed", "amended"}
