"""Children for the tests that need a second process with a store, or one that is killed.

Run as `python store_child.py WORK RESULT [FOLDER]`; RESULT is the JSON of the result to add.
"""

from __future__ import annotations

import os
import signal
import sys

import msgspec

from edgeclin import batches, wire
from edgeclin.cloud.store import Store
from edgeclin.records import Result

TOPICS = wire.Topics("ward-3", "bed-12")


def mark(text: str) -> None:
    """One line, written at once."""
    os.write(1, f"{text}\n".encode())


def batch_of(result: Result, *seqs: int) -> batches.Batch:
    items = (
        batches.Item(
            seq=seq,
            id=f"e-{seq}",
            kind="result",
            body=msgspec.Raw(msgspec.json.encode(msgspec.structs.replace(result, position=seq))),
        )
        for seq in seqs
    )
    return batches.Batch(epoch="e", items=tuple(items))


def share(result: Result) -> None:
    """For each folder on standard input: open, add the same rows as the other, compact midway."""
    mark("ready")
    for line in sys.stdin:
        store = Store(line.strip())
        stored = duplicates = 0
        for first in range(0, 40, 4):
            added = store.add(TOPICS, batch_of(result, *range(first, first + 4)))
            stored += added.stored
            duplicates += added.duplicates
            if first % 16 == 0:
                store.compact()
        store.close()
        mark(f"{stored} {duplicates}")


def die_while_compacting(result: Result, folder: str) -> None:
    """Be killed between a Parquet file and the index that would list it."""
    store = Store(folder)
    store.add(TOPICS, batch_of(result, *range(10)))
    write = store._write_part

    def write_and_die(*arguments: object) -> str:
        write(*arguments)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")

    store._write_part = write_and_die  # type: ignore[method-assign]
    store.compact()


def compact_with_marks(result: Result, folder: str) -> None:
    """Add and compact between marks that a trace of system calls shows."""
    store = Store(folder)
    mark("begin add")
    store.add(TOPICS, batch_of(result, 1))
    mark("end add")
    mark("begin compact")
    store.compact()
    mark("end compact")


if __name__ == "__main__":
    work, sample, *rest = sys.argv[1:]
    made = msgspec.json.decode(sample, type=Result)
    if work == "share":
        share(made)
    elif work == "die":
        die_while_compacting(made, *rest)
    elif work == "marks":
        compact_with_marks(made, *rest)
