"""What takes the cloud's part for a benchmark's queue: `python -m edgeclin.benchmark.delivering`.

A process of its own, as `edgeclin sync` is: within the loop that answers it took up to 90 ms at a
time, which no loop at a bedside ever waits for.
"""

from __future__ import annotations

import select
import sys

from edgeclin import wire
from edgeclin.config import SyncConfig
from edgeclin.lifeline import end_with
from edgeclin.offline_queue import OfflineQueue

READY = "ready"
_TURN_S = 0.02


def main(parent: int, path: str) -> None:
    """Deliver until standard input ends."""
    end_with(parent)
    with OfflineQueue(path) as queue:
        print(READY, flush=True)
        first = 1
        while not select.select([sys.stdin], [], [], _TURN_S)[0]:
            first = deliver(queue, first)


def deliver(queue: OfflineQueue, first: int) -> int:
    """Let the first questions expire whose time is over, and take all rows from `first` on, as
    receipts for whole batches do.

    Returns:
        the row to go on with.
    """
    queue.expire()
    last, batch = queue.last_seq(), SyncConfig().batch_results
    for start in range(first, last + 1, batch):
        rows = (start, min(last, start + batch - 1))
        queue.remove(wire.Receipt(epoch=queue.epoch, ranges=(rows,)))
    return last + 1


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
