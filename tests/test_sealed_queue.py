"""With a key nothing of a patient lies readable on the disk; without it, what is sealed waits."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edgeclin import wire
from edgeclin.errors import QueueFull
from edgeclin.offline_queue import NO_KEYS, Keyring, OfflineQueue, Row, look, waiting
from edgeclin.offline_queue.damaged import PAGE
from edgeclin.offline_queue.keyring import key_id
from edgeclin.records import Result, Review, State, Tier

MakeResult = Callable[..., Result]
ONE, TWO = bytes(32), bytes(31) + b"\1"
MARK = "Schmidt"
"""Stands in every text that tells of a patient."""
ZSTD = b"\x28\xb5\x2f\xfd"
"""How every message begins that asks about a sample."""


def every_row(queue: OfflineQueue) -> list[Row]:
    return [row for tier in Tier for row in queue.pending(tier, limit=1000)]


def in_plain(folder: Path) -> set[str]:
    """What can be read in the files of a queue: texts, samples."""
    files = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    found = {"text"} if any(MARK.encode() in file for file in files) else set()
    return found | ({"sample"} if any(ZSTD in file for file in files) else set())


def live_a_day(queue: OfflineQueue, make_result: MakeResult) -> None:
    """Put, ask with short and long samples, settle, let expire, drop."""
    noise = np.random.default_rng(1).integers(0, 256, 100_000, dtype=np.uint8)
    for at in range(12):
        state = State.FINAL if at % 3 else State.PROVISIONAL
        tier = list(Tier)[at % 2 + 1]
        result = make_result(at, label=MARK, reason=MARK, state=state, tier=tier)
        stored = queue.put(result, None if at % 3 else noise[: 300 if at % 2 else None])
        if at == 3:
            queue.settle(wire.Opinion(stored.id, "m", f"{MARK} after all", 0.9))
        if at == 6:
            queue.settle(wire.Opinion(stored.id, "m", None, 0.9, reason=MARK))
    for at in range(40):
        queue.put(make_result(at, tier=Tier.BULK, reason=MARK * 1000))


@pytest.mark.parametrize("keyring", [NO_KEYS, Keyring([ONE])], ids=["plain", "sealed"])
def test_with_a_key_no_answer_and_no_sample_can_be_read_in_any_file(
    tmp_path: Path, make_result: MakeResult, keyring: Keyring
) -> None:
    readable = set() if keyring.first else {"text", "sample"}
    with OfflineQueue(tmp_path / "q", max_bytes=300_000, keyring=keyring) as queue:
        live_a_day(queue, make_result)
        kinds = {row.kind for row in every_row(queue)}
        assert kinds == {"result", "review", "drop"}
        names = {file.name for file in tmp_path.iterdir()}
        assert {"q", "q-wal", "q.payloads"} <= names
        assert list((tmp_path / "q.payloads").iterdir())
        assert in_plain(tmp_path) == readable
    assert in_plain(tmp_path) == readable


def swap(path: Path, table: str, column: str, one: int, other: int) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        values = dict(connection.execute(f"SELECT seq, {column} FROM {table}"))
        for seq, value in ((one, values[other]), (other, values[one])):
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE seq = ?", (value, seq))


def test_bodies_that_changed_places_are_damaged(tmp_path: Path, make_result: MakeResult) -> None:
    keyring = Keyring([ONE])
    with OfflineQueue(tmp_path / "q", keyring=keyring) as queue:
        for at in range(3):
            queue.put(make_result(at))
        swap(tmp_path / "q", "rows", "body", 1, 2)
        assert [row.sound for row in queue.pending(Tier.ROUTINE)] == [False, False, True]
        assert not any(row.absent_key for row in queue.pending(Tier.ROUTINE))


@pytest.mark.parametrize("size", [100, 100_000], ids=["in the database", "in files"])
def test_samples_that_changed_places_are_not_asked_about(
    tmp_path: Path, make_result: MakeResult, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    sample = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    with OfflineQueue(tmp_path / "q", keyring=Keyring([ONE])) as queue:
        stored = [queue.put(make_result(at, state=State.PROVISIONAL), sample) for at in range(3)]
        if size == 100:
            swap(tmp_path / "q", "questions", "ask", 1, 2)
        else:
            one, other = (tmp_path / "q.payloads" / each.id for each in stored[:2])
            contents = one.read_bytes(), other.read_bytes()
            one.write_bytes(contents[1])
            other.write_bytes(contents[0])
        assert [question.seq for question in queue.questions()] == [3]
    assert f"ALARM: the question about {stored[0].id} cannot be asked: damaged" in caplog.text


def test_an_opinion_is_not_held_against_another_answer_s_label(
    tmp_path: Path, make_result: MakeResult
) -> None:
    now = [100.0]
    with OfflineQueue(
        tmp_path / "q", keyring=Keyring([ONE]), uptime=lambda: now[0], boot="b"
    ) as queue:
        asked = [
            queue.put(make_result(at, label=label, state=State.PROVISIONAL), np.zeros(9), 5)
            for at, label in enumerate(("normal", "ectopic"))
        ]
        swap(tmp_path / "q", "questions", "label", 1, 2)
        assert queue.settle(wire.Opinion(asked[0].id, "m", "normal", 0.9)) is None
        now[0] += 10
        expired = queue.expire()
        assert {review.state for review in expired} == {State.UNREVIEWED}
        assert [review.label for review in expired] == [None, None]


def test_without_its_key_what_is_sealed_waits_and_all_else_goes_on(
    tmp_path: Path, make_result: MakeResult, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]

    def opened(keyring: Keyring) -> OfflineQueue:
        return OfflineQueue(tmp_path / "q", keyring=keyring, uptime=lambda: now[0], boot="b")

    with opened(Keyring([ONE])) as queue:
        stored = [queue.put(make_result(at), None) for at in range(3)]
        asked = queue.put(make_result(3, state=State.PROVISIONAL), np.zeros(9), 60)
        reviewed = queue.put(make_result(4, state=State.PROVISIONAL), np.zeros(9), 60)
        queue.settle(wire.Opinion(reviewed.id, "m", "ectopic", 0.9))
    assert not caplog.messages
    for keyring in (NO_KEYS, Keyring([TWO])):
        with opened(keyring) as queue:
            position = queue.next_position("test.npz", make_result().bundle)
            new = queue.put(make_result(position))
            rows = {row.seq: row for row in queue.pending(Tier.ROUTINE)}
            assert {rows[one.seq].absent_key for one in stored} == {key_id(ONE)}
            assert rows[new.seq].record == make_result(position)
            assert queue.questions() == []
            assert queue.reviews() == {}
            assert queue.settle(wire.Opinion(asked.id, "m", "normal", 0.9)) is None
            standing = queue.standing()
            assert standing.absent == standing.sealed[key_id(ONE)] == 6
            assert "6 rows wait for a key that is not there" in standing.absent_alarm()
            assert "ALARM" in caplog.text
            assert look(tmp_path / "q", keyring) == standing
    with opened(Keyring([TWO])) as queue:
        now[0] += 60
        (review,) = queue.expire()
        assert (review.result, review.state, review.label) == (asked.id, State.UNREVIEWED, None)
    with opened(Keyring([TWO, ONE])) as queue:
        assert queue.standing().absent == 0
        assert [row.seq for row in queue.pending(Tier.ROUTINE)] == list(range(1, 10))
        assert all(row.sound for row in queue.pending(Tier.ROUTINE))
        assert queue.reviews()[reviewed.seq].label == "ectopic"


def test_rows_without_their_key_give_way_and_are_given_up_as_all_others(
    tmp_path: Path, make_result: MakeResult
) -> None:
    with OfflineQueue(tmp_path / "q", max_bytes=20_000, keyring=Keyring([ONE])) as queue:
        for at in range(30):
            queue.put(make_result(at, tier=Tier.BULK))
    with OfflineQueue(tmp_path / "q", max_bytes=20_000, keyring=Keyring([TWO])) as queue:
        assert queue.standing().absent == 30
        for at in range(10):
            queue.put(make_result(at, reason="x" * 1000))
        assert queue.standing().absent == 0
        with pytest.raises(QueueFull):
            for at in range(10):
                queue.put(make_result(at, reason="x" * 1000))


def test_who_only_looks_opens_what_there_is_a_key_for(
    tmp_path: Path, make_result: MakeResult
) -> None:
    for keyring in (NO_KEYS, Keyring([ONE]), Keyring([TWO])):
        with OfflineQueue(tmp_path / "q", keyring=keyring) as queue:
            queue.put(make_result())
    rows = [one.row for one in waiting(tmp_path / "q", keyring=Keyring([ONE]))]
    assert [row.absent_key for row in rows] == ["", "", key_id(TWO)]
    assert [row.sound for row in rows] == [True, True, False]


# -- a database that was damaged -----------------------------------------------------------------


def spoil(path: Path) -> None:
    path.write_bytes(b"\xff" * PAGE + path.read_bytes()[PAGE:])


def fill(path: Path, make_result: MakeResult, keyring: Keyring) -> tuple[set[str], str]:
    """The ids of five results, and that of one which is asked about."""
    with OfflineQueue(path, keyring=keyring) as queue:
        ids = {queue.put(make_result(at, label=MARK)).id for at in range(5)}
        asked = queue.put(make_result(5, state=State.PROVISIONAL, label=MARK), np.zeros(9))
    return ids, asked.id


def test_of_a_damaged_queue_sealed_rows_are_taken_over_and_stay_sealed(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path, keyring = tmp_path / "q", Keyring([TWO, ONE])
    ids, asked = fill(path, make_result, Keyring([ONE]))
    spoil(path)
    with OfflineQueue(path, keyring=keyring) as queue:
        rows = every_row(queue)
        assert {row.id for row in rows if row.kind == "result"} == {*ids, asked}
        (review,) = (row.record for row in rows if row.kind == "review")
        assert isinstance(review, Review)
        assert (review.result, review.label) == (asked, MARK)
        assert queue.next_position("test.npz", make_result().bundle) == 6
        assert queue.standing().sealed == {key_id(ONE): 6, key_id(TWO): 1}
    assert in_plain(tmp_path) == set()


def test_of_a_damaged_queue_rows_whose_key_is_absent_are_taken_over_as_they_are(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path = tmp_path / "q"
    ids, asked = fill(path, make_result, Keyring([ONE]))
    spoil(path)
    with OfflineQueue(path, keyring=Keyring([TWO])) as queue:
        rows = every_row(queue)
        assert {row.id for row in rows if row.absent_key} == {*ids, asked}
        (review,) = (row.record for row in rows if row.kind == "review")
        assert isinstance(review, Review)
        assert (review.result, review.state, review.label) == (asked, State.UNREVIEWED, None)
    with OfflineQueue(path, keyring=Keyring([TWO, ONE])) as queue:
        assert all(row.sound for row in every_row(queue))
        (found,) = queue.salvage().values()
        assert (found.there, found.rows) == (7, {}), "all are there, once"


def test_a_sealed_row_that_was_damaged_within_is_not_taken_over(
    tmp_path: Path, make_result: MakeResult, caplog: pytest.LogCaptureFixture
) -> None:
    path, keyring = tmp_path / "q", Keyring([ONE])
    ids, asked = fill(path, make_result, keyring)
    with closing(sqlite3.connect(path)) as connection, connection:
        (body,) = connection.execute("SELECT body FROM rows WHERE seq = 1").fetchone()
    data = path.read_bytes()
    assert data.count(body) == 1
    path.write_bytes(data.replace(body, body[:-1] + bytes([body[-1] ^ 1])))
    spoil(path)
    with caplog.at_level(logging.ERROR), OfflineQueue(path, keyring=keyring) as queue:
        assert len({row.id for row in every_row(queue)} & {*ids, asked}) == 5
    # The page that was spoilt, its list of free pages, and the row.
    assert "3 pages or records are unreadable" in caplog.text
