"""The oracle of the fault tests: what a device said was stored, held against what the cloud has.

It shares no code with edgeclin: it reads the lines that `edgeclin run --json` prints once a result
is stored, and the files of the store as their documentation has them. The lines go into a socket of
a process of its own (`python ledger.py SOCKET FILE`), which no fault touches: what was printed
before a SIGKILL is on record.
"""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow.parquet as pq

Answer = dict[str, Any]
"""A result as JSON has it."""
DEFAULTS: Answer = {
    "label": None,
    "confidence": 0.0,
    "probabilities": [],
    "latency_ms": None,
    "audit": False,
    "rejected": False,
    "degraded": "",
    "unsigned_bundle": False,
    "shadow_of": "",
}
"""What a result's JSON leaves out where it is so."""
LATENCIES = ("preprocess", "engine", "postprocess", "queue")
ENVELOPE = {"site", "device", "epoch", "seq", "received_at"}
"""Columns of the store that are not a result's."""


@dataclass
class Verdict:
    """What became of results; every list but the first two must be empty.

    Attributes:
        acknowledged, stored: ids, in the order in which they were.
        lost: acknowledged and not stored.
        twice: ids, or positions of a source, that are stored more than once.
        altered: stored with another content than was acknowledged.
        strangers: stored without having been issued.
        skipped: positions of a source that have no answer, before others that have.
        set_aside: what the cloud could not read.
    """

    acknowledged: list[str] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    set_aside: list[str] = field(default_factory=list)

    @property
    def problems(self) -> dict[str, list[str]]:
        """The lists that should be empty and are not, the first few of each."""
        names = ("lost", "twice", "altered", "strangers", "skipped", "set_aside")
        return {name: getattr(self, name)[:5] for name in names if getattr(self, name)}


class Ledger:
    """The ledger's process, as who drives the faults sees it.

    Args:
        folder: for its socket and its file.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ledger.jsonl"
        self._socket = folder / "ledger.socket"
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(self._socket), str(self._path)], stdin=subprocess.PIPE
        )
        while not self._socket.exists():
            assert self._process.poll() is None, "the ledger does not start"
            time.sleep(0.01)

    def pen(self) -> socket.socket:
        """What a process may write its lines to."""
        pen = socket.socket(socket.AF_UNIX)
        pen.connect(str(self._socket))
        return pen

    def entries(self) -> list[Answer]:
        """The lines so far, whole ones."""
        text = self._path.read_text() if self._path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]

    def close(self) -> None:
        """Wait until every pen is put down, and end the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self.close()


def judge(
    entries: list[Answer], store: Path, issued: range, expected: Mapping[int, str | None]
) -> Verdict:
    """Hold a device's word against the store's files.

    Args:
        entries: lines of `edgeclin run --json`.
        store: the store's folder, which nobody is writing into.
        issued: positions that the device's source has.
        expected: the label of the sample at each position.
    """
    verdict = Verdict(acknowledged=[entry["id"] for entry in entries])
    said = {entry["id"]: entry["result"] for entry in entries}
    if len(said) < len(entries):
        verdict.twice += [one for one, n in Counter(verdict.acknowledged).items() if n > 1]
    places: Counter[tuple[str, int]] = Counter()
    for identity, answer in stored_results(store):
        verdict.stored.append(identity)
        places[answer["source"], answer["position"]] += 1
        position = answer["position"]
        if position not in issued or answer.get("label") != expected[position]:
            verdict.strangers.append(f"{identity} at {position}: {answer.get('label')}")
        if identity in said and {**DEFAULTS, **answer} != {**DEFAULTS, **said[identity]}:
            verdict.altered.append(identity)
    for source in {source for source, _ in places}:
        judged = {at for whose, at in places if whose == source}
        verdict.skipped += [f"{source} {at}" for at in range(max(judged)) if at not in judged]
    there = Counter(verdict.stored)
    verdict.lost = [identity for identity in said if identity not in there]
    verdict.twice += [identity for identity, n in there.items() if n > 1]
    verdict.twice += [f"{source} {at}" for (source, at), n in places.items() if n > 1]
    with closing(sqlite3.connect(store / "index.sqlite")) as index:
        verdict.set_aside = [row[0] for row in index.execute("SELECT reason FROM set_aside")]
    return verdict


def stored_results(store: Path) -> Iterator[tuple[str, Answer]]:
    """Id and content of each result in a store: what is hot in its index, and its Parquet files."""
    with closing(sqlite3.connect(store / "index.sqlite")) as index:
        hot = index.execute("SELECT id, body FROM hot WHERE kind = 'result'").fetchall()
        parts = index.execute("SELECT path FROM parts WHERE kind = 'result'").fetchall()
    for identity, body in hot:
        yield identity, json.loads(body)
    for (path,) in parts:
        for row in pq.ParquetFile(store / path).read().to_pylist():
            identity = row.pop("id")
            steps = {step: row.pop(f"{step}_ms") for step in LATENCIES}
            answer = {key: value for key, value in row.items() if key not in ENVELOPE}
            yield identity, {**answer, "latency_ms": None if None in steps.values() else steps}


def main(address: str, file: Path) -> None:
    """Write down every line that comes in, until standard input ends and every writer has gone."""
    writing = threading.Lock()
    with file.open("ab", 0) as page, socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()

        def take(pen: socket.socket) -> None:
            with pen, pen.makefile("rb") as lines:
                for line in lines:
                    if line.endswith(b"\n"):
                        with writing:
                            page.write(line)

        def admit() -> None:
            while True:
                pen, _ = door.accept()
                writer = threading.Thread(target=take, args=(pen,))
                writers.append(writer)
                writer.start()

        writers: list[threading.Thread] = []
        threading.Thread(target=admit, daemon=True).start()
        sys.stdin.read()
        for writer in writers:
            writer.join()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
