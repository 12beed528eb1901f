"""The oracle finds what it is there to find."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeclin import batches, wire
from edgeclin.records import Latency, Result, Tier

pytest.importorskip("pyarrow", reason="the cloud extra is not installed")

from edgeclin.cloud.store import Store
from faults.ledger import Ledger, judge

TOPICS = wire.Topics("ward", "bed")
LABELS: dict[int, str | None] = dict.fromkeys(range(10), "normal")


def stored(folder: Path, results: list[tuple[str, Result]], compact: bool) -> Path:
    store = Store(folder / "store")
    items = tuple(
        batches.Item(seq=seq, id=one, kind="result", body=msgspec.Raw(msgspec.json.encode(result)))
        for seq, (one, result) in enumerate(results, 1)
    )
    store.add(TOPICS, batches.Batch(epoch="e", items=items))
    if compact:
        store.compact()
    store.close()
    return folder / "store"


@pytest.mark.parametrize("compact", [False, True])
def test_what_is_all_there_is_no_problem(
    tmp_path: Path, make_result: Callable[..., Result], compact: bool
) -> None:
    results = [(f"r{at}", make_result(at)) for at in range(10)]
    entries = [line(*one) for one in results]
    verdict = judge(entries[:8], stored(tmp_path, results, compact), range(10), LABELS)
    assert verdict.problems == {}
    assert len(verdict.acknowledged) == 8
    assert sorted(verdict.stored) == [f"r{at}" for at in range(10)]


@pytest.mark.parametrize("compact", [False, True])
def test_each_fault_is_found(
    tmp_path: Path, make_result: Callable[..., Result], compact: bool
) -> None:
    results = [(f"r{at}", make_result(at)) for at in range(10)]
    entries = [line(*one) for one in results]
    kept = [*results[1:], ("again", make_result(3)), ("far", make_result(99))]
    kept[4] = ("r5", make_result(5, confidence=0.123))
    kept[5] = ("r6", make_result(6, label="flutter"))
    verdict = judge(entries, stored(tmp_path, kept, compact), range(10), LABELS)
    assert verdict.lost == ["r0"]
    assert verdict.skipped == ["test.npz 0", *(f"test.npz {at}" for at in range(10, 99))]
    assert verdict.twice == ["test.npz 3"]
    assert sorted(verdict.altered) == ["r5", "r6"]
    assert sorted(verdict.strangers) == ["far at 99: normal", "r6 at 6: flutter"]
    with closing(sqlite3.connect(tmp_path / "store" / "index.sqlite")) as index:
        index.execute("INSERT INTO set_aside (id, reason) VALUES ('x', 'not JSON')")
        index.commit()
    assert judge([], tmp_path / "store", range(10), LABELS).problems["set_aside"] == ["not JSON"]


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        {"probabilities": (0.01, 0.99)},
        {"engine": "another"},
        {"degraded": "the primary engine is out"},
        {"audit": True},
        {"rejected": True},
        {"latency_ms": Latency(1.0, 2.0, 3.0, 4.0)},
        {"tier": Tier.URGENT},
    ],
)
def test_whatever_is_altered_is_seen(
    tmp_path: Path, make_result: Callable[..., Result], change: dict[str, Any], compact: bool
) -> None:
    said = line("r", make_result(0))
    kept = stored(tmp_path, [("r", make_result(0, **change))], compact)
    assert judge([said], kept, range(1), LABELS).problems == {"altered": ["r"]}


def test_a_line_that_was_printed_before_a_sigkill_is_on_record(tmp_path: Path) -> None:
    program = 'import os; os.write(1, b\'{"id": 1}\\n{"id": 2}\\n{"id"\'); os.kill(os.getpid(), 9)'
    with Ledger(tmp_path) as ledger:
        for _ in range(2):
            with ledger.pen() as pen:
                subprocess.run([sys.executable, "-c", program], stdout=pen, check=False)
    assert [entry["id"] for entry in ledger.entries()] == [1, 2, 1, 2]


def line(identity: str, result: Result) -> dict[str, Any]:
    """As `edgeclin run --json` prints it."""
    entry: dict[str, Any] = json.loads(msgspec.json.encode({"id": identity, "result": result}))
    return entry
