"""Puts results of all tiers, some with a large sample, and writes down each that was stored.

What fails is written down too, and tried again with the queue opened anew.

Arguments: the queue, the file for what was stored, how many, and a seed.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from edgeclin import wire
from edgeclin.errors import EdgeclinError
from edgeclin.offline_queue import OfflineQueue
from edgeclin.records import Result, State, Tier

ROUTINE = (Tier.ROUTINE, Tier.ROUTINE, Tier.ROUTINE, Tier.BULK)


def main(path: str, log: str, count: str, seed: str) -> None:
    chance = random.Random(int(seed))
    told = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    queue: OfflineQueue | None = None
    for position in range(int(count)):
        # For a while nothing is urgent, and the queue syncs by its clock alone.
        quiet = int(count) // 3 <= position < int(count) // 2
        put = result(position, chance, ROUTINE if quiet else list(Tier))
        sample = np.frombuffer(chance.randbytes(90_000), np.uint8)
        asks = chance.random() < 0.15
        while True:
            try:
                queue = queue or OfflineQueue(Path(path))
                seq = queue.put(put, sample if asks else None, 3600.0).seq
                break
            except EdgeclinError as exc:
                os.write(told, f"0 failed {' '.join(str(exc).split())}\n".encode())
                with suppress(EdgeclinError):
                    if queue is not None:
                        queue.close()
                queue = None
        asked = "asked" if asks else "-"
        os.write(told, f"{seq} {put.tier.value} {position} {asked}\n".encode())
        if chance.random() < 0.1:
            gone = chance.randint(1, seq)
            os.write(told, f"{gone} gone\n".encode())
            with suppress(EdgeclinError):
                queue.remove(wire.Receipt(queue.epoch, ((gone, gone),)))
        if quiet or chance.random() < 0.1:
            time.sleep(0.05)
    if queue is not None:
        queue.close()


def result(position: int, chance: random.Random, tiers: Sequence[Tier]) -> Result:
    return Result(
        bundle="b" * 64,
        engine="fake",
        preprocessing="p" * 64,
        source="power",
        position=position,
        made_at=float(position),
        state=State.PROVISIONAL,
        reason=f"{position:04d}" * chance.randint(1, 400),
        tier=chance.choice(tiers),
        label="normal",
        confidence=0.5,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
