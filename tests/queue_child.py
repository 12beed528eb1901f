"""Children for the tests that need a second process with a queue, or one that is killed.

Run as `python queue_child.py WORK RESULT`; RESULT is the JSON of the result to put.
"""

from __future__ import annotations

import os
import sys

import msgspec
import numpy as np

from edgeclin.offline_queue import NO_KEYS, OfflineQueue, load_keyring
from edgeclin.records import Result, State, Tier

LARGE = 100_000
"""Bytes of a sample whose question goes into a file of its own."""


def mark(text: str) -> None:
    """One line, written at once."""
    os.write(1, f"{text}\n".encode())


def put_without_end(result: Result, path: str, keys: str | None = None) -> None:
    """Go on where the queue says; after each put its sequence number, id and position."""
    generator = np.random.default_rng(os.getpid())
    keyring = NO_KEYS if keys is None else load_keyring(keys)
    with OfflineQueue(path, keyring=keyring) as queue:
        position = queue.next_position(result.source, result.bundle)
        while True:
            tier = tuple(Tier)[position % 3]
            changed = msgspec.structs.replace(result, position=position, tier=tier)
            sample = None
            if position % 4 == 0:
                changed = msgspec.structs.replace(changed, state=State.PROVISIONAL)
                sample = generator.integers(0, 256, LARGE, dtype=np.uint8)
            stored = queue.put(changed, sample)
            mark(f"{stored.seq} {stored.id} {position}")
            position += 1


def open_each(result: Result) -> None:
    """For each path on standard input: open, put once, and say epoch, number and id."""
    mark("ready")
    for line in sys.stdin:
        with OfflineQueue(line.strip()) as queue:
            stored = queue.put(result)
            mark(f"{queue.epoch} {stored.seq} {stored.id}")


def put_with_marks(result: Result, path: str) -> None:
    """One put after the other, each between two marks that a trace of system calls shows."""
    sample = np.random.default_rng(1).integers(0, 256, LARGE, dtype=np.uint8)
    with OfflineQueue(path, routine_sync_s=60.0) as queue:
        queue.put(result)  # SQLite makes the head of a new log safe, whatever the tier
        for tier in (Tier.ROUTINE, Tier.BULK, Tier.URGENT):
            mark(f"begin {tier.value}")
            queue.put(msgspec.structs.replace(result, tier=tier))
            mark(f"end {tier.value}")
        mark("begin payload")
        queue.put(msgspec.structs.replace(result, state=State.PROVISIONAL), sample)
        mark("end payload")


def rekey(path: str, keys: str) -> None:
    """Seal all anew; after some rows each the share that is done."""
    with OfflineQueue(path, keyring=load_keyring(keys)) as queue:
        queue.rekey(lambda share: mark(f"{share}"))
    mark("done")


def die_while_migrating(path: str, statement: int) -> None:
    """Be killed just before a statement of the first migration."""
    from edgeclin.offline_queue import schema

    split = schema._statements

    def dying(script: str) -> list[str]:
        class Statements(list[str]):
            def __iter__(self):  # type: ignore[no-untyped-def]
                for number, text in enumerate(super().__iter__()):
                    if number == statement:
                        os.kill(os.getpid(), 9)
                    yield text

        return Statements(split(script))

    schema._statements = dying
    OfflineQueue(path)


if __name__ == "__main__":
    work, sample_result, *rest = sys.argv[1:]
    made = msgspec.json.decode(sample_result, type=Result)
    if work == "put":
        put_without_end(made, *rest)
    elif work == "open":
        open_each(made)
    elif work == "marks":
        put_with_marks(made, *rest)
    elif work == "rekey":
        rekey(*rest)
    elif work == "die":
        die_while_migrating(rest[0], int(rest[1]))
