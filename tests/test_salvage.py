"""Of a damaged queue all is taken over that its pages still hold, once, and nothing else."""

from __future__ import annotations

import logging
import random
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeclin import wire
from edgeclin.offline_queue import OfflineQueue, Row, look, quarantine, schema
from edgeclin.offline_queue.damaged import DamagedDatabase
from edgeclin.offline_queue.write_ahead_log import PAGE
from edgeclin.records import Result, Review, State, Tier

MakeResult = Callable[..., Result]
BUNDLE = "b" * 64


def every_row(queue: OfflineQueue) -> list[Row]:
    rows = [row for tier in Tier for row in queue.pending(tier, limit=1_000_000)]
    return sorted(rows, key=lambda row: row.seq)


def fill(queue: OfflineQueue, make_result: MakeResult, count: int, seed: int = 0) -> None:
    """Results of all tiers, short and long, some of which ask, are settled, or are delivered."""
    draw = random.Random(seed)
    for position in range(count):
        asks = draw.random() < 0.2
        result = make_result(
            position,
            tier=draw.choice(list(Tier)),
            state=State.PROVISIONAL if asks else State.FINAL,
            reason="x" * draw.choice((1, 50, 900, 4000, 9000)),
        )
        stored = queue.put(result, np.zeros(draw.choice((10, 900, 30_000))) if asks else None)
        if draw.random() < 0.2:
            queue.remove(wire.Receipt(queue.epoch, ((stored.seq, stored.seq),)))
        if asks and draw.random() < 0.3:
            queue.settle(wire.Opinion(stored.id, "m", draw.choice(("normal", None)), 0.9))


def spoil(path: Path) -> None:
    """Destroy the first page, without which SQLite reads nothing."""
    path.write_bytes(b"\xff" * PAGE + path.read_bytes()[PAGE:])


def dying(*_: object) -> None:
    """In the place of what is killed half-way."""
    raise KeyboardInterrupt


def held(path: Path) -> set[tuple[object, ...]]:
    """Every value of every row of the queue's own tables, as SQLite reads them."""
    found: set[tuple[object, ...]] = set()
    with closing(sqlite3.connect(path)) as connection:
        for table, rowid in (("rows", "seq"), ("questions", "seq"), ("positions", "NULL")):
            for row in connection.execute(f"SELECT {rowid}, * FROM {table}"):
                found.add((row[0], None, *row[2:]) if rowid == "seq" else row)
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("closed", [False, True])
def test_of_an_undamaged_file_and_its_log_all_is_read_that_sqlite_reads(
    tmp_path: Path, make_result: MakeResult, seed: int, closed: bool
) -> None:
    path, copy = tmp_path / "q", tmp_path / "copy"
    with OfflineQueue(path) as queue:
        fill(queue, make_result, 120, seed)
        if not closed:
            for suffix in ("", "-wal"):
                shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    if closed:
        shutil.copy(path, copy)
    log = Path(f"{copy}-wal").read_bytes() if not closed else b""
    damaged = DamagedDatabase(copy.read_bytes(), log)
    found = {(record.rowid, *record.values) for record in damaged.records()}
    assert held(path) <= found
    assert damaged.unreadable == 0
    questions = {one for one in found if len(one) == 11 and one[0] is not None}
    assert questions <= held(path), (
        "what was deleted stays deleted while the list of free pages holds"
    )


def test_what_was_stored_is_delivered_under_its_ids_and_sources_go_on_where_they_were(
    tmp_path: Path, make_result: MakeResult, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "q"
    with OfflineQueue(path) as queue:
        fill(queue, make_result, 150, seed=1)
        before, epoch = every_row(queue), queue.epoch
        following = queue.next_position("test.npz", BUNDLE)
        asked = {question.result for question in queue.questions(limit=1000)}
    spoil(path)
    with caplog.at_level(logging.ERROR), OfflineQueue(path) as queue:
        after = every_row(queue)
        assert queue.epoch != epoch
        assert queue.next_position("test.npz", BUNDLE) == following
        usage = queue.usage()
    there = {row.id: row for row in after}
    assert [(row.id, row.kind, row.body) for row in after[: len(before)]] == [
        (row.id, row.kind, row.body) for row in before
    ]
    reviews = [msgspec.json.decode(row.body, type=Review) for row in after[len(before) :]]
    assert {review.result for review in reviews} == asked
    assert {review.state for review in reviews} == {State.UNREVIEWED}
    assert len(there) == len(after)
    assert sum(usage[tier.value].count for tier in Tier) == len(after)
    assert "taken over of" in caplog.text
    with OfflineQueue(path) as queue:
        assert every_row(queue) == after, "once"


def test_what_is_only_in_the_log_is_taken_over_too(tmp_path: Path, make_result: MakeResult) -> None:
    path = tmp_path / "q"
    with OfflineQueue(path) as queue:
        queue.put(make_result(0))
    with OfflineQueue(path) as queue:
        fill(queue, make_result, 60, seed=2)
        ids = {row.id for row in every_row(queue)}
        log = Path(f"{path}-wal").read_bytes()

    def found(log: bytes) -> set[object]:
        records = DamagedDatabase(bytes(1 << 20), log).records()
        return {record.values[1] for record in records if len(record.values) == 5} & ids

    assert found(log) == ids
    assert set() < found(log[: len(log) // 8]) < ids, "up to the last commit that is whole"
    for at in (*range(0, 96, 5), *range(len(log) // 8, len(log) // 2, 9999)):
        changed = bytearray(log)
        changed[at] ^= 1
        # A row of which that frame has the only copy may be the one that is damaged.
        assert len(ids - found(bytes(changed))) <= 1, "also beyond a frame that is damaged"


def test_a_process_that_dies_while_it_takes_over_is_carried_on(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "q"
    with OfflineQueue(path) as queue:
        fill(queue, make_result, 50, seed=3)
        ids = {row.id for row in every_row(queue)}
    spoil(path)
    with monkeypatch.context() as patch:
        patch.setattr(quarantine, "salvage", dying)
        with pytest.raises(KeyboardInterrupt):
            OfflineQueue(path)
    with OfflineQueue(path) as queue:
        assert ids <= {row.id for row in every_row(queue)}


def test_a_device_starts_though_nothing_can_be_taken_over(
    tmp_path: Path,
    make_result: MakeResult,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "q"
    with OfflineQueue(path) as queue:
        queue.put(make_result())
    spoil(path)

    def failing(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(quarantine, "salvage", failing)
    with OfflineQueue(path) as queue:
        queue.put(make_result(1))
    assert "was not taken over, or not all: OperationalError" in caplog.text


def test_a_process_that_is_killed_each_time_starts_at_last_without(
    tmp_path: Path,
    make_result: MakeResult,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "q"
    with OfflineQueue(path) as queue:
        ids = {queue.put(make_result(at)).id for at in range(10)}
    spoil(path)
    with monkeypatch.context() as patch:
        patch.setattr(quarantine, "salvage", dying)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                OfflineQueue(path)
    for _ in range(2):
        with OfflineQueue(path) as queue:
            assert every_row(queue) == []
    assert "was not taken over: `edgeclin queue salvage` does it" in caplog.text
    with OfflineQueue(path) as queue:
        queue.salvage()
        assert {row.id for row in every_row(queue)} == ids
        caplog.clear()
    OfflineQueue(path).close()
    assert not caplog.messages


def taken_over_late(path: Path, monkeypatch: pytest.MonkeyPatch) -> OfflineQueue:
    """A new queue in the place of a spoilt one, of which nothing was taken over yet."""
    spoil(path)
    with monkeypatch.context() as patch:
        patch.setattr(quarantine, "take_over_all", lambda *_: None)
        patch.setattr(schema, "take_over_all", lambda *_: None)
        return OfflineQueue(path)


def test_what_is_taken_over_late_gets_numbers_that_were_never_given(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receipt of a row that was delivered may come again."""
    path = tmp_path / "q"
    with OfflineQueue(path) as queue:
        old = {queue.put(make_result(at)).id for at in range(5)}
    with taken_over_late(path, monkeypatch) as queue:
        for at in range(5, 8):
            queue.put(make_result(at))
        receipt = wire.Receipt(queue.epoch, ((1, 3),))
        assert queue.remove(receipt) == 3
        queue.salvage()
        assert queue.remove(receipt) == 0
        rows = every_row(queue)
        assert {row.id for row in rows} == old
        assert [row.seq for row in rows] == [4, 5, 6, 7, 8]


def test_every_provisional_answer_is_left_to_a_person_though_its_question_is_gone(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path = tmp_path / "q"
    with OfflineQueue(path) as queue:
        asked = [
            queue.put(make_result(at, state=State.PROVISIONAL), np.zeros(9)) for at in range(6)
        ]
        settled = asked.pop()
        queue.settle(wire.Opinion(settled.id, "m", "normal", 0.9))
        queue.remove(wire.Receipt(queue.epoch, ((7, 7),)))
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'questions'"
        ).fetchone()
    data = bytearray(path.read_bytes())
    data[(root - 1) * PAGE : root * PAGE] = bytes(PAGE)
    path.write_bytes(data)
    with OfflineQueue(path) as queue:
        rows = [row for row in every_row(queue) if row.kind == "review"]
    reviews = [msgspec.json.decode(row.body, type=Review) for row in rows]
    assert {review.result for review in reviews} == {stored.id for stored in asked}
    assert {review.state for review in reviews} == {State.UNREVIEWED}


def test_an_answer_that_was_delivered_and_still_waits_is_left_to_a_person(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path = tmp_path / "q"
    with OfflineQueue(path, spare_bytes=1000) as queue:
        unsure = queue.put(make_result(0, state=State.PROVISIONAL), np.zeros(9))
        assert queue.put(make_result(1), np.zeros(9)).asked
        queue.remove(wire.Receipt(queue.epoch, ((1, 2),)))
    spoil(path)
    with OfflineQueue(path) as queue:
        (row,) = every_row(queue)
    review = msgspec.json.decode(row.body, type=Review)
    assert (review.result, review.state) == (unsure.id, State.UNREVIEWED)


def test_several_damaged_queues_are_taken_over_each_once(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path, ids = tmp_path / "q", set()
    for at in range(3):
        with OfflineQueue(path) as queue:
            ids.add(queue.put(make_result(at)).id)
        spoil(path)
    with OfflineQueue(path) as queue:
        assert {row.id for row in every_row(queue)} == ids
        queue.remove(wire.Receipt(queue.epoch, ((1, 100),)))
    with OfflineQueue(path) as queue:
        assert not every_row(queue), "what was delivered stays away"
        found = queue.salvage()
        assert [folder.name for folder in found] == ["q.corrupt-1", "q.corrupt-2", "q.corrupt-3"]
        assert {row.id for row in every_row(queue)} == ids


def test_only_positions_that_were_taken_over_are_counted(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "q"
    with OfflineQueue(path) as queue:
        for source in ("one", "two"):
            queue.put(make_result(4, source=source))
    with taken_over_late(path, monkeypatch) as queue:
        queue.put(make_result(9, source="one"))
        queue.put(make_result(9, source="three"))
        (found,) = queue.salvage().values()
        assert (found.positions, found.rows["result"]) == (1, 2)


def test_a_list_of_free_pages_that_leads_elsewhere_hides_nothing(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path = tmp_path / "q"
    with OfflineQueue(path) as queue:
        for at in range(300):
            queue.put(make_result(at))
    whole = path.read_bytes()
    wanted = set(DamagedDatabase(whole).records())
    for page in range(2, len(whole) // PAGE + 1):
        damaged = DamagedDatabase(whole[:32] + page.to_bytes(4, "big") + whole[36:])
        assert wanted <= set(damaged.records())
        assert damaged.unreadable


def test_a_source_goes_on_where_its_results_say_though_the_page_of_positions_is_gone(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path = tmp_path / "q"
    with OfflineQueue(path) as queue:
        for at in range(60):
            queue.put(make_result(at))
        queue.put(make_result(99, shadow_of="x", source="shadowed"))
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'positions'"
        ).fetchone()
    data = bytearray(path.read_bytes())
    data[(root - 1) * PAGE : root * PAGE] = b"\xff" * PAGE
    path.write_bytes(data)
    with OfflineQueue(path) as queue:
        assert queue.next_position("test.npz", BUNDLE) == 60
        assert queue.next_position("shadowed", BUNDLE) == 0


def test_pages_that_lost_their_first_sector_are_counted(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path = tmp_path / "q"
    with OfflineQueue(path) as queue:
        fill(queue, make_result, 100, seed=4)
    whole = path.read_bytes()
    wanted = set(DamagedDatabase(whole).records())
    lost = 0
    for number in range(3, len(whole) // PAGE):
        start = number * PAGE
        if whole[start] not in (0x0A, 0x0D):  # a leaf
            continue
        damaged = DamagedDatabase(whole[:start] + bytes(512) + whole[start + 512 :])
        fewer = len(wanted - set(damaged.records()))
        assert not fewer or damaged.unreadable
        lost += bool(fewer)
    assert lost > 10


def leaves(data: bytes) -> list[int]:
    """Where pages with results begin."""
    starts = range(2 * PAGE, len(data), PAGE)
    return [at for at in starts if data[at] == 0x0D and b'"bundle"' in data[at : at + PAGE]]


def spoilt_by(path: Path, damage: Callable[[bytearray], None]) -> None:
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)


def filled(path: Path, make_result: MakeResult, count: int = 120) -> set[str]:
    with OfflineQueue(path) as queue:
        return {queue.put(make_result(at)).id for at in range(count)}


def report(path: Path) -> dict[str, Any]:
    said = msgspec.json.decode(Path(f"{path}.corrupt-1/salvage.json").read_bytes())
    return dict(said["taken_over"])


@pytest.mark.parametrize("bit", [0, 3, 6])
@pytest.mark.parametrize("at", range(0, 24, 3))
def test_whatever_bit_of_the_head_of_a_page_is_flipped_no_row_goes_unsaid(
    tmp_path: Path, make_result: MakeResult, at: int, bit: int
) -> None:
    path = tmp_path / "q"
    ids = filled(path, make_result)

    def flip(data: bytearray) -> None:
        data[leaves(data)[3] + at] ^= 1 << bit

    spoilt_by(path, flip)
    with OfflineQueue(path) as queue:
        lost = ids - {row.id for row in every_row(queue)}
        assert not lost or queue.standing().damage


@pytest.mark.parametrize("damage", ["kind of page", "count of cells"])
def test_a_page_whose_head_is_damaged_is_read_all_the_same(
    tmp_path: Path, make_result: MakeResult, damage: str
) -> None:
    path = tmp_path / "q"
    ids = filled(path, make_result)

    def flip(data: bytearray) -> None:
        at = leaves(data)[3]
        if damage == "kind of page":
            data[at] = 0x05
        else:
            data[at + 4] = 4

    spoilt_by(path, flip)
    with OfflineQueue(path) as queue:
        assert {row.id for row in every_row(queue)} == ids
        assert Path(f"{path}.corrupt-1").exists()


@pytest.mark.parametrize("damaged", ["id", "kind", "type of the id", "type of the kind", "tier"])
def test_a_row_whose_body_is_whole_is_kept_whatever_else_of_it_is_damaged(
    tmp_path: Path, make_result: MakeResult, damaged: str
) -> None:
    path = tmp_path / "q"
    ids = filled(path, make_result)
    with closing(sqlite3.connect(path)) as connection, connection:
        change = {
            "id": "id = replace(id, '-', 'x')",
            "kind": "kind = 'sesult'",
            "type of the id": "id = CAST(id AS BLOB)",
            "type of the kind": "kind = CAST(kind AS BLOB)",
            "tier": "tier = 77",
        }[damaged]
        connection.execute(f"UPDATE rows SET {change} WHERE seq = 50")
    spoil(path)
    with OfflineQueue(path) as queue:
        rows = every_row(queue)
        assert len(rows) == len(ids)
        assert len(ids - {row.id for row in rows}) == (damaged == "id")
        assert all(row.sound for row in rows)
        queue.salvage()
        assert every_row(queue) == rows, "once, under whatever id"


def test_a_page_in_use_that_is_listed_as_free_is_read_and_what_was_deleted_is_not(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path = tmp_path / "q"
    filled(path, make_result, 600)
    with OfflineQueue(path) as queue:
        db = queue._database.connection
        db.execute("PRAGMA secure_delete = OFF")
        queue.remove(wire.Receipt(queue.epoch, ((1, 300),)))
        ids = {row.id for row in every_row(queue)}

    def enlist(data: bytearray) -> None:
        trunk = (int.from_bytes(data[32:36], "big") - 1) * PAGE
        count = int.from_bytes(data[trunk + 4 : trunk + 8], "big")
        assert count > 5
        in_use = leaves(data)[-2] // PAGE + 1
        data[trunk + 8 : trunk + 12] = in_use.to_bytes(4, "big")

    def unlist(data: bytearray) -> None:
        data[32:36] = bytes(4)

    whole = path.read_bytes()
    for damage, most in ((enlist, 20), (unlist, 0)):
        copy = tmp_path / damage.__name__
        copy.write_bytes(whole)
        Path(f"{copy}.open.lock").touch()
        spoilt_by(copy, damage)
        with OfflineQueue(copy) as queue:
            found = {row.id for row in every_row(queue)}
        assert found >= ids
        assert len(found - ids) <= most, "of the page whose place was taken, at most"
        assert Path(f"{copy}.corrupt-1").exists()


def test_rows_that_could_not_be_read_are_an_alarm_until_the_folder_is_deleted(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path = tmp_path / "q"
    filled(path, make_result)

    def destroy(data: bytearray) -> None:
        at = leaves(data)[3]
        data[at : at + PAGE] = bytes(PAGE)

    spoilt_by(path, destroy)
    with OfflineQueue(path) as queue:
        kept = len(every_row(queue))
        (alarm,) = queue.standing().damage
        assert f"{kept} of 120 rows could be read, 1 pages" in alarm
        shutil.rmtree(f"{path}.corrupt-1")
        assert queue.standing().damage == ()


def test_no_row_goes_unsaid_with_a_page_that_the_disk_did_not_write(
    tmp_path: Path, make_result: MakeResult
) -> None:
    """It still is what it was before: whole, and with as many rows that went since as it lacks."""
    path, copy = tmp_path / "q", tmp_path / "copy" / "q"
    copy.parent.mkdir()
    with OfflineQueue(path) as queue:
        for at in range(60):
            queue.put(make_result(at))
    before = path.read_bytes()
    with OfflineQueue(path) as queue:
        queue.remove(wire.Receipt(queue.epoch, ((59, 60),)))
        for at in range(60, 62):
            queue.put(make_result(at))
        ids = {row.id for row in every_row(queue)}
    after, gone = path.read_bytes(), 0
    for start in range(PAGE, len(before), PAGE):
        if before[start : start + PAGE] == after[start : start + PAGE]:
            continue
        copy.write_bytes(after[:start] + before[start : start + PAGE] + after[start + PAGE :])
        with OfflineQueue(copy) as queue:
            lost = ids - {row.id for row in every_row(queue)}
            assert not lost or f"{len(lost)} that an index names" in str(queue.standing().damage)
            gone += len(lost)
        shutil.rmtree(copy.parent)
        copy.parent.mkdir()
    assert gone


def test_what_was_not_taken_over_is_an_alarm_until_it_is(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "q"
    filled(path, make_result)
    with taken_over_late(path, monkeypatch) as queue:
        assert "q.corrupt-1 was not taken over: `edgeclin queue salvage`" in str(look(path).damage)
        queue.salvage()
        assert "120 rows could be read, 2 pages" in str(look(path).damage), "its head, and a list"


def test_a_report_that_is_damaged_is_made_again(tmp_path: Path, make_result: MakeResult) -> None:
    path = tmp_path / "q"
    ids = filled(path, make_result, 5)
    spoil(path)
    OfflineQueue(path).close()
    for said in ('{"attempts": "x"}', '{"attempts": -1}', "[1]", ""):
        Path(f"{path}.corrupt-1/salvage.json").write_text(said)
        with OfflineQueue(path) as queue:
            assert {row.id for row in every_row(queue)} == ids
        assert report(path)["read"] == 5


def test_two_salvages_at_once_take_over_nothing_twice(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "q"
    ids = filled(path, make_result, 3000)
    with taken_over_late(path, monkeypatch) as one, OfflineQueue(path) as other:
        one.remove(wire.Receipt(one.epoch, ((1, 3000),)))
        threads = [threading.Thread(target=queue.salvage) for queue in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rows = every_row(one)
        assert sorted(row.id for row in rows) == sorted(ids)


def test_a_number_that_is_none_is_replaced_so_that_its_row_is_sent(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path = tmp_path / "q"
    ids = filled(path, make_result, 5)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE rows SET seq = 0 WHERE seq = 2")
        connection.execute("UPDATE rows SET seq = -7 WHERE seq = 3")
        connection.execute("UPDATE rows SET seq = 1 << 60 WHERE seq = 4")
    spoil(path)
    with OfflineQueue(path) as queue:
        rows = every_row(queue)
        assert {row.id for row in rows} == ids
        assert all(0 < row.seq < 10 for row in rows)


def test_a_record_that_nothing_can_be_made_of_keeps_back_no_other(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path = tmp_path / "q"
    with OfflineQueue(path) as queue:
        ids = {queue.put(make_result(at)).id for at in range(20)}
        body = make_result((1 << 63) - 2)
        ids.add(queue.put(body).id)
    with closing(sqlite3.connect(path)) as connection, connection:
        change = "CAST(replace(CAST(body AS TEXT), '5806,', '5807,') AS BLOB)"
        assert connection.execute(f"UPDATE rows SET body = {change} WHERE seq = 21").rowcount
        connection.execute("UPDATE rows SET body = CAST('x' || body AS BLOB) WHERE seq = 1")
    spoil(path)
    with OfflineQueue(path) as queue:
        assert len({row.id for row in every_row(queue)} & ids) == 20
        assert queue.next_position("test.npz", BUNDLE) >= 20
    assert report(path)["unreadable"] == 1 + 2, "a record, the first page, and its list"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A queue's bytes."""
    path = tmp_path_factory.mktemp("whole") / "q"
    result = Result(BUNDLE, "e", "p", "test.npz", 0, 1.0, State.FINAL, "r", Tier.ROUTINE, "normal")
    with OfflineQueue(path) as queue:
        fill(queue, lambda at, **other: msgspec.structs.replace(result, position=at, **other), 60)
    return path.read_bytes()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_is_damaged_the_rest_is_read(whole: bytes, data: st.DataObject) -> None:
    spoilt = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(spoilt) - 1))
        noise = data.draw(st.binary(min_size=1, max_size=300))
        spoilt[at : at + len(noise)] = noise
    end = data.draw(st.integers(0, len(spoilt)))
    damaged = DamagedDatabase(bytes(spoilt[:end] if end % 2 else spoilt))
    records = list(damaged.records())
    for record in records:
        assert all(isinstance(value, int | float | str | bytes | None) for value in record.values)
    assert len(records) < 10_000, "no page is read for ever"


@settings(max_examples=300, deadline=None)
@given(database=st.binary(max_size=3 * PAGE), log=st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(database: bytes, log: bytes) -> None:
    list(DamagedDatabase(database, log).records())
    list(DamagedDatabase(b"\x0d" + database, log).records())
