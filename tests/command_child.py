"""A device that is killed while it carries out a command.

Run as `python command_child.py FOLDER PUBLIC_KEY REQUEST`; REQUEST is a file with its payload.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from edgeclin import wire
from edgeclin.config import SyncConfig
from edgeclin.keys import load_public_key
from edgeclin.offline_queue import OfflineQueue
from edgeclin.sync import SyncAgent
from edgeclin.transport import MemoryBroker, Message

TOPICS = wire.Topics("ward", "bed")


class Stuck(SyncAgent):
    """Says that it has begun, and never ends."""

    def drain(self) -> int:
        os.write(1, b"begun\n")
        threading.Event().wait()
        return 0


def main(folder: str, key: str, request: str) -> None:
    broker = MemoryBroker()
    queue = OfflineQueue(Path(folder) / "queue.sqlite")
    agent = Stuck(
        queue, broker.transport(), TOPICS, SyncConfig(), command_keys=[load_public_key(Path(key))]
    )
    agent.open()
    broker.transport().open((), lambda _: None)
    broker.route(Message(TOPICS.request, Path(request).read_bytes()))
    agent.step()


if __name__ == "__main__":
    main(*sys.argv[1:])
