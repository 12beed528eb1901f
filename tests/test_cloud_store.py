"""The store keeps each id once, whatever dies when."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_disk import take_all_room
from tracing import traced

from edgeclin import batches, wire
from edgeclin.errors import BadFile, EdgeclinError, StoreUnusable
from edgeclin.records import Drop, Latency, Record, Result, Review, State, Tier

pytest.importorskip("pyarrow", reason="the cloud extra is not installed")

from edgeclin.cloud.store import Added, Store

CHILD_FILE = Path(__file__).parent / "store_child.py"
TOPICS = wire.Topics("ward-3", "bed-12")
DAY = 86_400.0
Make = Callable[..., Result]


def batch(make: Make, *seqs: int, epoch: str = "e") -> batches.Batch:
    return batches.Batch(
        epoch=epoch,
        items=tuple(
            batches.Item(
                seq, f"{epoch}-{seq}", "result", msgspec.Raw(msgspec.json.encode(make(seq)))
            )
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
    item = batches.Item(7, "id-7", "result", msgspec.Raw(msgspec.json.encode(result)))
    store.add(TOPICS, batches.Batch(epoch="e", items=(item,)))
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


def with_position(number: int) -> bytes:
    result = Result("b", "e", "p", "s", number, 1.0, State.FINAL, "r", Tier.ROUTINE)
    return msgspec.json.encode(result)


@pytest.mark.parametrize(
    "body",
    [
        b'{"no": "result"}',
        b"[]",
        b'{"bundle": 3}',
        b'{"bundle": "\xff\xfe"}',
        with_position(2**63),
        with_position(-(2**70)),
    ],
)
def test_a_body_that_cannot_be_read_is_set_aside_once_and_harms_no_other(
    tmp_path: Path, make_result: Make, body: bytes
) -> None:
    store = Store(tmp_path)
    bad = batches.Item(9, "bad", "result", msgspec.Raw(body))
    good = batch(make_result, 1).items
    assert store.add(TOPICS, batches.Batch(epoch="e", items=(bad, *good))) == Added(1, 0, 1)
    assert store.add(TOPICS, batches.Batch(epoch="e", items=(bad,))) == Added(0, 1, 0)
    store.compact()
    assert positions(store) == [1]
    store.close()


CHILD = """
import sys, msgspec
from edgeclin import batches, wire
from edgeclin.cloud.store import Store
from edgeclin.records import Result, State, Tier
store = Store(sys.argv[1])
for number in range(100_000):
    result = Result("b", "e", "p", "s", number, 1.0, State.FINAL, "r", Tier.ROUTINE)
    item = batches.Item(number, f"id-{number}", "result", msgspec.Raw(msgspec.json.encode(result)))
    store.add(wire.Topics("w", "d"), batches.Batch("e", (item,)))
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


def command(work: str, make: Make, *arguments: object) -> list[str]:
    """The command line of one work of `store_child.py`."""
    return [
        sys.executable,
        str(CHILD_FILE),
        work,
        msgspec.json.encode(make()),
        *map(str, arguments),
    ]


def test_a_sigkill_between_a_parquet_file_and_the_index_counts_nothing_twice(
    tmp_path: Path, make_result: Make
) -> None:
    child = subprocess.run(command("die", make_result, tmp_path), check=False)
    assert child.returncode == -9
    (orphan,) = parts(tmp_path)
    store = Store(tmp_path)
    assert positions(store) == list(range(10))
    assert store.compact() == 10
    assert positions(store) == list(range(10))
    assert orphan not in parts(tmp_path)
    assert store.compact() == 0
    store.close()


def test_two_processes_that_start_at_once_and_add_the_same_store_each_id_once(
    tmp_path: Path, make_result: Make
) -> None:
    children = [
        subprocess.Popen(
            command("share", make_result),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for number in range(10):
        folder = tmp_path / str(number)
        for child in children:
            assert child.stdin is not None
            child.stdin.write(f"{folder}\n")
            child.stdin.flush()
        answers = [child.stdout.readline().split() for child in children if child.stdout]
        assert sum(int(stored) for stored, _ in answers) == 40
        assert sum(int(duplicates) for _, duplicates in answers) == 80
        store = Store(folder)
        assert positions(store) == list(range(40))
        store.close()
    for child in children:
        child.communicate()


def test_what_is_receipted_or_compacted_survives_a_power_cut(
    tmp_path: Path, make_result: Make
) -> None:
    calls = traced(command("marks", make_result, tmp_path / "store"), tmp_path)

    def between(what: str) -> list[str]:
        begin, end = (
            next(n for n, call in enumerate(calls) if f'"{edge} {what}\\n"' in call)
            for edge in ("begin", "end")
        )
        return calls[begin:end]

    def first(part: list[str], pattern: str) -> int:
        return next(n for n, call in enumerate(part) if re.search(pattern, call))

    index_sync = r"(fsync|fdatasync)\(\d+<[^>]*index\.sqlite-wal>\).*= 0"
    added = between("add")
    assert first(added, r"pwrite64\(\d+<[^>]*-wal>") < first(added, index_sync)
    compacted = between("compact")
    moved = first(compacted, r"rename\w*\(.*\.parquet")
    assert first(compacted, r"fsync\(\d+<[^>]*\.parquet") < moved
    index = first(compacted, r"pwrite64\(\d+<[^>]*-wal>")
    for folder in ("site=ward-3", r"day=\d+-\d+-\d+", "result", "store"):
        assert moved < first(compacted, rf"fsync\(\d+<[^>]*/{folder}>\).*= 0") < index
    assert index < first(compacted, index_sync)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
FINITE = st.floats(-1e12, 1e12)
INT64 = st.integers(-(2**63), 2**63 - 1)
RESULTS = st.builds(
    Result,
    bundle=TEXT,
    engine=TEXT,
    preprocessing=TEXT,
    source=TEXT,
    position=INT64,
    made_at=FINITE,
    state=st.sampled_from(State),
    reason=TEXT,
    tier=st.sampled_from(Tier),
    label=st.none() | TEXT,
    confidence=FINITE,
    probabilities=st.lists(FINITE, max_size=3).map(tuple),
    latency_ms=st.none() | st.builds(Latency, FINITE, FINITE, FINITE, FINITE),
    audit=st.booleans(),
    unsigned_bundle=st.booleans(),
)
REVIEWS = st.builds(
    Review,
    result=TEXT,
    state=st.sampled_from(State),
    label=st.none() | TEXT,
    reason=TEXT,
    made_at=FINITE,
    edge_label=st.none() | TEXT,
    model=st.none() | TEXT,
    confidence=st.none() | FINITE,
    waited_s=st.none() | FINITE,
)
DROPS = st.builds(Drop, st.sampled_from(Tier), INT64, INT64, INT64, FINITE)
KINDS = {Result: "result", Review: "review", Drop: "drop"}


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(records=st.lists(RESULTS | REVIEWS | DROPS, min_size=1, max_size=6), cut=st.integers(0, 6))
def test_the_tables_equal_what_was_added(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = Store(folder, clock=lambda: 7.0)
    expected: dict[str, dict[str, dict[str, Any]]] = {"result": {}, "review": {}, "drop": {}}
    items = []
    for seq, record in enumerate(records):
        kind: Any = KINDS[type(record)]  # type: ignore[index]
        body = msgspec.Raw(msgspec.json.encode(record))
        items.append(batches.Item(seq=seq, id=f"id-{seq}", kind=kind, body=body))
        columns = {name: getattr(record, name) for name in record.__struct_fields__}
        if isinstance(record, Result):
            latency = columns.pop("latency_ms")
            for step in Latency.__struct_fields__:
                columns[f"{step}_ms"] = None if latency is None else getattr(latency, step)
            columns["probabilities"] = list(record.probabilities)
        for name in {"state", "tier"} & columns.keys():
            columns[name] = columns[name].value
        columns |= {"id": f"id-{seq}", "site": TOPICS.site, "device": TOPICS.device}
        expected[kind][f"id-{seq}"] = {**columns, "epoch": "e", "seq": seq, "received_at": 7.0}
    store.add(TOPICS, batches.Batch(epoch="e", items=tuple(items[:cut])))
    store.compact()
    store.add(TOPICS, batches.Batch(epoch="e", items=tuple(items)))
    found = store.tables()
    for kind, rows in expected.items():
        assert {row["id"]: row for row in found[kind].to_pylist()} == rows
        assert len(found[kind]) == len(rows)
    store.close()
    shutil.rmtree(folder)


def test_an_index_that_is_no_database_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(
        EdgeclinError, match=r"the store cannot be used \(index.sqlite: file is not a database\)"
    ):
        Store(tmp_path)


# -- full disks and damaged files ----------------------------------------------------------------


def test_a_full_disk_keeps_what_was_added_and_is_compacted_once_there_is_room(
    small_disk: Path, make_result: Make
) -> None:
    store = Store(small_disk)
    store.add(TOPICS, batch(make_result, *range(1, 50)))
    ballast = take_all_room(small_disk)
    with pytest.raises(StoreUnusable, match=f"{small_disk}: the store cannot be used"):
        store.compact()
    with pytest.raises(StoreUnusable, match="full"):
        for first in range(50, 5_000, 50):
            store.add(TOPICS, batch(make_result, *range(first, first + 50)))
    ballast.unlink()
    held = positions(store)
    assert held[:49] == list(range(1, 50))
    assert store.compact() == len(held)
    assert positions(store) == held
    assert len(parts(small_disk)) == 1, "nothing is left of the attempt that failed"
    store.close()


def test_results_are_stored_while_others_are_compacted(
    tmp_path: Path, make_result: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.add(TOPICS, batch(make_result, 1, 2))
    write_part = store._write_part
    seen: list[Added] = []

    def write_while_another_adds(*arguments: Any) -> str:
        other = threading.Thread(
            target=lambda: seen.append(store.add(TOPICS, batch(make_result, 2, 3)))
        )
        other.start()
        other.join(timeout=10)
        assert seen, "the other did not wait for this one"
        return write_part(*arguments)

    monkeypatch.setattr(store, "_write_part", write_while_another_adds)
    assert store.compact() == 2
    assert seen == [Added(stored=1, duplicates=1, set_aside=0)]
    assert positions(store) == [1, 2, 3]
    store.close()


def one_bit(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    return bytes(changed)


HARMS: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "cut short": lambda part: part.write_bytes(part.read_bytes()[:-20]),
    "one bit": lambda part: part.write_bytes(one_bit(part.read_bytes())),
    "text": lambda part: part.write_text("no table"),
    "a folder": lambda part: (part.unlink(), part.mkdir()),
}


@pytest.mark.parametrize("harm", list(HARMS))
def test_a_parquet_file_that_was_harmed_is_named(
    tmp_path: Path, make_result: Make, harm: str
) -> None:
    store = Store(tmp_path)
    store.add(TOPICS, batch(make_result, 1))
    store.compact()
    (part,) = parts(tmp_path)
    HARMS[harm](part)
    with pytest.raises(BadFile, match=f"^{part}: (its bytes are not|no such file|a folder)"):
        store.tables()
    store.close()


def test_the_index_of_another_program_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as connection:
        connection.execute("CREATE TABLE patients (name TEXT)")
    before = (tmp_path / "index.sqlite").read_bytes()
    with pytest.raises(
        StoreUnusable, match=r"^\S+: index\.sqlite is not that of an edgeclin store"
    ):
        Store(tmp_path)
    assert (tmp_path / "index.sqlite").read_bytes() == before
