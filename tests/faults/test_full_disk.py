"""A disk that is full at any moment: what `put` returned for is stored once, all else is told."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from small_disk import take_all_room

from edgeclin import wire
from edgeclin.config import SyncConfig
from edgeclin.errors import QueueFull, QueueUnusable
from edgeclin.offline_queue import OfflineQueue
from edgeclin.records import Result, State, Tier
from edgeclin.sync import SyncAgent
from edgeclin.transport import MemoryBroker

Make = Callable[..., Result]
TOPICS = wire.Topics("ward", "bed")
SEEDS = range(6)


class Disk:
    """A small file system, of which a file takes all but a few bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._filler = folder / "filler"

    def leave(self, free: int) -> None:
        """Leave about so many bytes free, or as few more as there are."""
        self.empty()
        stat = os.statvfs(self._folder)
        size = max(stat.f_bavail * stat.f_frsize - free, 0)
        with suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while size > 0:
                size -= file.write(bytes(min(size, 4096)))

    def empty(self) -> None:
        self._filler.unlink(missing_ok=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_a_full_disk_refuses_nothing_that_was_acknowledged_is_lost_or_doubled(
    small_disk: Path, tmp_path: Path, make_result: Make, seed: int
) -> None:
    pytest.importorskip("pyarrow", reason="the cloud extra is not installed")
    from edgeclin.cloud.ingest import Ingest
    from edgeclin.cloud.store import Store

    chance, disk, now = random.Random(seed), Disk(small_disk), [0.0]
    broker, store = MemoryBroker(), Store(tmp_path / "store")
    Ingest(store, broker.transport()).open()
    acknowledged: list[str] = []
    met: Counter[str] = Counter()

    def start() -> tuple[OfflineQueue, SyncAgent]:
        queue = OfflineQueue(small_disk / "queue.sqlite", uptime=lambda: now[0], boot="this")
        settings = SyncConfig(receipt_timeout_s=5, receipt_most_s=40)
        agent = SyncAgent(queue, broker.transport(), TOPICS, settings, monotonic=lambda: now[0])
        agent.open()
        return queue, agent

    queue, agent = start()
    for position in range(250):
        if chance.random() < 0.3:
            disk.leave(chance.choice([0, 0, 4096, 8192, 20_000, 60_000, 200_000]))
        elif chance.random() < 0.2:
            disk.empty()
        now[0] += chance.choice([0.1, 1.0])
        tier = chance.choice(list(Tier))
        sample = np.zeros(chance.choice([10, 30_000])) if chance.random() < 0.3 else None
        state = State.FINAL if sample is None else State.PROVISIONAL
        try:
            result = make_result(position, tier=tier, state=state, audit=sample is not None)
            acknowledged.append(queue.put(result, sample, deadline_s=5.0).id)
            if chance.random() < 0.4:
                agent.step()
        except QueueFull:
            met["full"] += 1
        except QueueUnusable:
            met["unusable"] += 1
        if chance.random() < 0.03 or met["unusable"] > met["restarts"]:
            with suppress(QueueUnusable):
                queue.close()
            disk.empty()
            met["restarts"] = max(met["restarts"] + 1, met["unusable"])
            queue, agent = start()
    disk.empty()
    for _ in range(200):
        now[0] += 1.0
        agent.step()
    assert agent.idle
    stored = store.tables()["result"].column("id").to_pylist()
    assert len(set(stored)) == len(stored)
    assert set(acknowledged) <= set(stored), "what put returned for is stored"
    assert len(stored) <= 250
    assert met["full"] >= 10, "the disk was full indeed"
    queue.close()
    store.close()


def test_a_log_that_has_taken_the_last_of_the_disk_gives_it_back(
    small_disk: Path, make_result: Make
) -> None:
    with OfflineQueue(small_disk / "queue.sqlite") as queue:
        for position in range(300):
            queue.put(make_result(position, reason="x" * 2000))
    with OfflineQueue(small_disk / "queue.sqlite") as queue:
        for position in range(300):
            stored = queue.put(make_result(position, reason="x" * 500))
        queue.remove(wire.Receipt(epoch=queue.epoch, ranges=((1, stored.seq),)))
        assert (small_disk / "queue.sqlite-wal").stat().st_size > 1_000_000
        take_all_room(small_disk)
        stored_after = 0
        for position in range(300, 700):
            with suppress(QueueFull):
                queue.put(make_result(position, reason="x" * 2000))
                stored_after += 1
    assert stored_after >= 300, "of 400; without it 21"
