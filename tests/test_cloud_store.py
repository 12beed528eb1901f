"""The store keeps each id once, whatever dies when."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edgeclin import wire
from edgeclin.records import Result, State

pytest.importorskip("pyarrow", reason="the cloud extra is not installed")

from edgeclin.cloud.store import Added, Store

TOPICS = wire.Topics("ward-3", "bed-12")
DAY = 86_400.0
Make = Callable[..., Result]


def batch(make: Make, *seqs: int, epoch: str = "e") -> wire.Batch:
    return wire.Batch(
        epoch=epoch,
        items=tuple(
            wire.Item(seq, f"{epoch}-{seq}", "result", msgspec.Raw(msgspec.json.encode(make(seq))))
            for seq in seqs
        ),
    )


def positions(store: Store) -> list[int]:
    return sorted(store.tables()["result"].column("position").to_pylist())


def parts(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


def test_each_id_is_stored_once_across_compaction_and_restart(
    tmp_path: Path, make_result: Make
) -> None:
    store = Store(tmp_path)
    assert store.add(TOPICS, batch(make_result, 1, 2)) == Added(2, 0, 0)
    assert store.add(TOPICS, batch(make_result, 2, 3)) == Added(1, 1, 0)
    assert store.compact() == 3
    assert store.add(TOPICS, batch(make_result, 3, 4)) == Added(1, 1, 0)
    store.close()
    again = Store(tmp_path)
    assert again.add(TOPICS, batch(make_result, 1, 4, 5)) == Added(1, 2, 0)
    assert positions(again) == [1, 2, 3, 4, 5]
    again.close()


def test_a_record_comes_back_as_it_was(tmp_path: Path, make_result: Make) -> None:
    result = make_result(7, state=State.PROVISIONAL, probabilities=(0.25, 0.75), audit=True)
    store = Store(tmp_path, clock=lambda: 5 * DAY)
    item = wire.Item(7, "id-7", "result", msgspec.Raw(msgspec.json.encode(result)))
    store.add(TOPICS, wire.Batch(epoch="e", items=(item,)))
    for compacted in (False, True):
        if compacted:
            store.compact()
        (row,) = store.tables()["result"].to_pylist()
        assert (row["id"], row["site"], row["device"]) == ("id-7", "ward-3", "bed-12")
        assert (row["epoch"], row["seq"], row["received_at"]) == ("e", 7, 5 * DAY)
        assert (row["state"], row["audit"]) == ("provisional", True)
        assert row["probabilities"] == [0.25, 0.75]
        assert row["engine_ms"] is None
    store.close()


def test_partitions_are_named_by_day_and_site(tmp_path: Path, make_result: Make) -> None:
    now = [0.0]
    store = Store(tmp_path, clock=lambda: now[0])
    store.add(TOPICS, batch(make_result, 1))
    now[0] = DAY
    store.add(wire.Topics("ward-4", "bed-1"), batch(make_result, 1, epoch="f"))
    store.compact()
    folders = {str(path.parent.relative_to(tmp_path)) for path in parts(tmp_path)}
    assert folders == {
        "result/day=1970-01-01/site=ward-3",
        "result/day=1970-01-02/site=ward-4",
    }
    store.close()


def test_a_parquet_file_that_a_crash_left_behind_is_not_counted_and_is_removed(
    tmp_path: Path, make_result: Make
) -> None:
    store = Store(tmp_path)
    store.add(TOPICS, batch(make_result, 1, 2))
    store.compact()
    (listed,) = parts(tmp_path)
    orphan = listed.with_name("left-by-a-crash.parquet")
    orphan.write_bytes(listed.read_bytes())
    assert positions(store) == [1, 2]
    store.compact()
    assert parts(tmp_path) == [listed]
    store.close()


@pytest.mark.parametrize("body", [b'{"no": "result"}', b"[]", b'{"bundle": 3}'])
def test_a_body_that_cannot_be_read_is_set_aside_once_and_harms_no_other(
    tmp_path: Path, make_result: Make, body: bytes
) -> None:
    store = Store(tmp_path)
    bad = wire.Item(9, "bad", "result", msgspec.Raw(body))
    good = batch(make_result, 1).items
    assert store.add(TOPICS, wire.Batch(epoch="e", items=(bad, *good))) == Added(1, 0, 1)
    assert store.add(TOPICS, wire.Batch(epoch="e", items=(bad,))) == Added(0, 1, 0)
    store.compact()
    assert positions(store) == [1]
    store.close()


CHILD = """
import sys, msgspec
from edgeclin import wire
from edgeclin.cloud.store import Store
from edgeclin.records import Result, State, Tier
store = Store(sys.argv[1])
for number in range(100_000):
    result = Result("b", "e", "p", "s", number, 1.0, State.FINAL, "r", Tier.ROUTINE)
    item = wire.Item(number, f"id-{number}", "result", msgspec.Raw(msgspec.json.encode(result)))
    store.add(wire.Topics("w", "d"), wire.Batch("e", (item,)))
    print(number, flush=True)
    if number % 7 == 6:
        store.compact()
"""


@pytest.mark.parametrize("after", [0, 6, 13, 40])
def test_a_sigkill_loses_nothing_that_was_receipted_and_doubles_nothing(
    tmp_path: Path, after: int
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    acknowledged = -1
    while acknowledged < after:
        acknowledged = int(process.stdout.readline())
    time.sleep(0.003 * (after % 3))
    process.kill()
    rest = process.stdout.read().split()
    process.wait()
    process.stdout.close()
    acknowledged = int(rest[-1]) if rest else acknowledged
    store = Store(tmp_path)
    for _ in range(2):
        found = positions(store)
        assert found == list(range(len(found)))
        assert acknowledged < len(found) <= acknowledged + 2
        store.compact()
    store.close()


def test_two_processes_share_one_store(tmp_path: Path, make_result: Make) -> None:
    one, other = Store(tmp_path), Store(tmp_path)
    one.add(TOPICS, batch(make_result, 1, 2))
    assert other.add(TOPICS, batch(make_result, 2, 3)) == Added(1, 1, 0)
    one.compact()
    other.compact()
    assert positions(one) == positions(other) == [1, 2, 3]
    one.close()
    other.close()


def test_the_latest_status_of_a_device_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for state in ("online", "lost"):
        store.add_status(TOPICS, "st/state", wire.Status(state, 1.0))  # type: ignore[arg-type]
    ((site, device, topic, _, status),) = store.statuses()
    assert (site, device, topic, status.state) == ("ward-3", "bed-12", "st/state", "lost")
    store.close()
