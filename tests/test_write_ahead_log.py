"""What was committed to the log is there after a crash, whatever the disk did to a part of it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeclin import wire
from edgeclin.offline_queue import OfflineQueue
from edgeclin.offline_queue.write_ahead_log import PAGE, WriteAheadLog, log_is_damaged
from edgeclin.records import Result, Tier

MakeResult = Callable[..., Result]
FRAME = PAGE + 24
COUNT = 60


def ids(queue: OfflineQueue) -> set[str]:
    return {row.id for tier in Tier for row in queue.pending(tier, limit=1_000_000)}


def numbers(queue: OfflineQueue) -> set[int]:
    return {row.seq for tier in Tier for row in queue.pending(tier, limit=1_000_000)}


@pytest.fixture
def crashed(tmp_path: Path, make_result: MakeResult) -> tuple[Path, set[str], str]:
    """A queue as a killed process leaves it, what it had acknowledged, and its epoch."""
    path, copy = tmp_path / "at work" / "q", tmp_path / "q"
    with OfflineQueue(path) as queue:
        queue.put(make_result(0))
    with OfflineQueue(path) as queue:
        for at in range(1, COUNT):
            queue.put(make_result(at, tier=tuple(Tier)[at % 3]))
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
        return copy, ids(queue), queue.epoch


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "at", [3, 9, 17, 25, 32 + 3, 32 + 6, 32 + 8, *(32 + n * FRAME + 2000 for n in (0, 10, 99))]
)
def test_a_flipped_bit_in_the_log_costs_nothing_that_follows(
    crashed: tuple[Path, set[str], str], at: int, caplog: pytest.LogCaptureFixture
) -> None:
    path, stored, epoch = crashed
    flip(Path(f"{path}-wal"), at)
    with OfflineQueue(path) as queue:
        assert ids(queue) == stored
        assert queue.epoch != epoch
    assert "its log is damaged" in caplog.text
    assert Path(f"{path}.corrupt-1/q-wal").exists()


def test_a_frame_that_the_disk_cannot_give_costs_what_only_it_held(
    crashed: tuple[Path, set[str], str],
) -> None:
    path, stored, _ = crashed
    log = Path(f"{path}-wal")
    data = bytearray(log.read_bytes())
    data[32 + 20 * FRAME : 32 + 25 * FRAME] = bytes(5 * FRAME)
    log.write_bytes(data)
    with OfflineQueue(path) as queue:
        assert ids(queue) == stored, "later frames hold the same pages"


@pytest.mark.parametrize("left", [0.8, 0.3])
def test_numbers_of_what_a_power_cut_took_are_not_given_again(
    crashed: tuple[Path, set[str], str],
    left: float,
    make_result: MakeResult,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, stored, epoch = crashed
    log = Path(f"{path}-wal")
    frames = log.stat().st_size // FRAME
    with log.open("r+b") as file:
        file.truncate(32 + int(frames * left) * FRAME + 999)
    with OfflineQueue(path) as queue:
        there = ids(queue)
        assert set() < there < stored
        assert queue.epoch == epoch, "what was not made safe may go with the power: no damage"
        new = queue.put(make_result(100))
        assert new.seq > COUNT
        queue.remove(wire.Receipt(epoch, ((1, COUNT),)))
        assert ids(queue) == {new.id}, "a receipt for what went deletes nothing else"
    assert not caplog.messages


def test_numbers_are_not_given_again_where_an_older_log_was_put_back(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path, copy = tmp_path / "at work" / "q", tmp_path / "q"
    with OfflineQueue(path) as queue:
        queue.put(make_result(0))
        shutil.copy(f"{path}-wal", f"{copy}-wal")
        given = max(queue.put(make_result(at)).seq for at in range(1, COUNT))
        shutil.copy(path, copy)
    with OfflineQueue(copy) as queue:
        assert queue.put(make_result(100)).seq > given


def test_numbers_go_on_by_one_after_a_proper_end(tmp_path: Path, make_result: MakeResult) -> None:
    for number in range(1, 4):
        with OfflineQueue(tmp_path / "q") as queue:
            assert queue.put(make_result(number)).seq == number


def test_what_was_undone_is_neither_damage_nor_taken_over(
    tmp_path: Path, make_result: MakeResult
) -> None:
    """A long transaction writes to the log before it ends."""
    path, copy = tmp_path / "at work" / "q", tmp_path / "q"
    with OfflineQueue(path) as queue:
        queue.put(make_result(0))
        db = queue._database.connection
        db.execute("PRAGMA cache_size = 10")
        db.execute("BEGIN")
        db.executemany(
            "INSERT INTO rows (id, kind, tier, body) VALUES (?, 'result', 1, zeroblob(3000))",
            [(str(number),) for number in range(200)],
        )
        db.execute("ROLLBACK")
        queue.put(make_result(1))
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
        stored = ids(queue)
    assert Path(f"{copy}-wal").stat().st_size > 100 * FRAME
    assert not log_is_damaged(copy)
    with OfflineQueue(copy) as queue:
        assert ids(queue) == stored


def test_a_log_that_another_process_writes_is_not_called_damaged(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path, done = tmp_path / "q", threading.Event()
    with OfflineQueue(path) as queue:
        queue.put(make_result(0))
        queue._database.connection.execute("PRAGMA wal_autocheckpoint = 20")

        def write() -> None:
            for at in range(1, 400):
                queue.put(make_result(at))
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        while not done.is_set():
            assert not log_is_damaged(path)
        writer.join()


@pytest.mark.parametrize("log", [b"", b"\0" * 32, b"\0" * 99_999, b"\1" * 31])
def test_a_log_that_was_never_begun_is_no_damage(log: bytes) -> None:
    assert not WriteAheadLog(log).damaged
