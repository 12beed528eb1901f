"""The queue when something dies: its process, the power, the disk, the file."""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from conftest import BUNDLE
from polling import wait_until
from small_disk import take_all_room
from tracing import traced

from edgeclin import wire
from edgeclin.errors import BadFile, EdgeclinError, QueueFull, QueueUnusable
from edgeclin.offline_queue import OfflineQueue, Row, look
from edgeclin.offline_queue.schema import VERSION
from edgeclin.records import Result, State, Tier

MakeResult = Callable[..., Result]
CHILD = Path(__file__).parent / "queue_child.py"
NEVER_S = 1000.0


def command(work: str, result: Result, *arguments: object) -> list[str]:
    """The command line of one work of `queue_child.py`."""
    made = msgspec.json.encode(result).decode()
    return [sys.executable, str(CHILD), work, made, *map(str, arguments)]


def every_row(queue: OfflineQueue) -> list[Row]:
    rows = [row for tier in Tier for row in queue.pending(tier, limit=1_000_000)]
    return sorted(rows, key=lambda row: row.seq)


def noise(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)


# -- SIGKILL ------------------------------------------------------------------------------------


def test_a_sigkill_in_the_middle_of_puts_loses_nothing_acknowledged(
    tmp_path: Path, make_result: MakeResult
) -> None:
    """Five processes in turn go on where the last one was killed, each at another moment."""
    path, result = tmp_path / "q.db", make_result()
    acknowledged: list[tuple[int, str, int]] = []
    for round_number in range(5):
        with subprocess.Popen(command("put", result, path), stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(5 + 9 * round_number)]
            child.kill()
            lines += child.stdout.readlines()
        for line in lines:
            seq, identity, position = line.decode().split()
            acknowledged.append((int(seq), identity, int(position)))
        with OfflineQueue(path) as queue:
            rows, next_position = (
                every_row(queue),
                queue.next_position(result.source, result.bundle),
            )
            asked = {question.result for question in queue.questions(limit=100_000)}
        stored = {row.seq: (row.id, msgspec.json.decode(row.body)["position"]) for row in rows}
        for seq, identity, position in acknowledged:
            assert stored[seq] == (identity, position)
        assert [position for _, position in stored.values()] == list(range(len(rows)))
        assert next_position == len(rows), "no answer twice, none left out"
        assert len(rows) - len(acknowledged) <= round_number + 1, "at most one a kill in between"
        assert {id for id, position in stored.values() if position % 4 == 0} == asked
        assert {file.name for file in Path(f"{path}.payloads").iterdir()} == asked
    assert len(acknowledged) > 100


@pytest.mark.parametrize("statement", [0, 1, 4, 11])
def test_a_process_killed_while_it_makes_the_tables_leaves_a_queue_that_starts(
    tmp_path: Path, make_result: MakeResult, statement: int
) -> None:
    path = tmp_path / "q.db"
    child = subprocess.run(command("die", make_result(), path, statement), check=False)
    assert child.returncode == -9
    assert path.exists()
    with OfflineQueue(path) as queue:
        assert queue.put(make_result()).seq == 1
        assert queue.usage()["routine"].count == 1
    assert not list(tmp_path.glob("*.corrupt-*")), "an unfinished database is not a corrupt one"


@dataclass
class Pair:
    """Two processes that open the same path at the same moment."""

    children: tuple[subprocess.Popen[str], subprocess.Popen[str]]

    def open(self, path: Path) -> list[tuple[str, int, str]]:
        """Epoch, sequence number and id that each got."""
        for child in self.children:
            assert child.stdin is not None
            child.stdin.write(f"{path}\n")
            child.stdin.flush()
        answers = []
        for child in self.children:
            assert child.stdout is not None
            epoch, seq, identity = child.stdout.readline().split()
            answers.append((epoch, int(seq), identity))
        return answers


@pytest.fixture
def pair(make_result: MakeResult) -> Iterator[Pair]:
    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command("open", make_result()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    children = start(), start()
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    yield Pair(children)
    for child in children:
        child.communicate()


@pytest.mark.parametrize("first", ["nothing", "a corrupt database"])
def test_two_processes_that_start_at_once_share_one_queue(
    tmp_path: Path, pair: Pair, first: str
) -> None:
    for number in range(25):
        path = tmp_path / f"{number}.db"
        if first != "nothing":
            OfflineQueue(path).close()
            path.write_bytes(b"no database" * 1000)
        (epoch, seq, one), (other_epoch, other_seq, other) = pair.open(path)
        assert epoch == other_epoch
        with OfflineQueue(path) as queue:
            assert {row.seq: row.id for row in every_row(queue)} == {seq: one, other_seq: other}
        kept = list(tmp_path.glob(f"{number}.db.corrupt-?"))
        assert len(kept) == (0 if first == "nothing" else 1)


# -- power cuts ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def system_calls(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the process that puts asks of the kernel, in order, with its marks between."""
    folder = tmp_path_factory.mktemp("traced")
    result = Result("b", "e", "p", "s", 0, 1.0, State.FINAL, "test", Tier.ROUTINE)
    return traced(command("marks", result, folder / "q.db"), folder)


def between(calls: list[str], what: str) -> list[str]:
    """The calls from the mark `begin WHAT` to the mark `end WHAT`."""
    begin = next(n for n, call in enumerate(calls) if f'"begin {what}\\n"' in call)
    end = next(n for n, call in enumerate(calls) if f'"end {what}\\n"' in call)
    return calls[begin + 1 : end]


def positions(calls: list[str], pattern: str) -> list[int]:
    return [number for number, call in enumerate(calls) if re.search(pattern, call)]


def test_an_urgent_result_is_on_flash_before_put_returns(system_calls: list[str]) -> None:
    calls = between(system_calls, "urgent")
    writes = positions(calls, r"pwrite64\(\d+<[^>]*-wal>")
    syncs = positions(calls, r"(fsync|fdatasync)\(\d+<[^>]*-wal>\).*= 0")
    assert writes
    assert syncs
    assert syncs[-1] > writes[-1], "what was written last was made durable too"


@pytest.mark.parametrize("tier", ["routine", "bulk"])
def test_a_routine_or_bulk_result_is_handed_to_the_kernel_and_waits_for_no_flash(
    system_calls: list[str], tier: str
) -> None:
    calls = between(system_calls, tier)
    assert positions(calls, r"pwrite64\(\d+<[^>]*-wal>"), "a SIGKILL loses nothing"
    assert not positions(calls, r"(fsync|fdatasync)\(")


def test_a_payload_file_is_durable_under_its_name_before_its_row_is(
    system_calls: list[str],
) -> None:
    calls = between(system_calls, "payload")
    file = positions(calls, r"fsync\(\d+<[^>]*\.payloads/\.[^>]*>\).*= 0")[0]
    name = positions(calls, r"rename\w*\(.*\.payloads/")[0]
    folder = positions(calls, r"fsync\(\d+<[^>]*\.payloads>\).*= 0")[0]
    row = positions(calls, r"pwrite64\(\d+<[^>]*-wal>")[0]
    assert file < name < folder < row


@pytest.fixture
def flushes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When `fdatasync` was called, in monotonic seconds; SQLite's own calls are not among them."""
    times: list[float] = []
    real = os.fdatasync

    def noted(descriptor: int) -> None:
        real(descriptor)
        times.append(time.monotonic())

    monkeypatch.setattr(os, "fdatasync", noted)
    return times


def test_a_routine_result_is_flushed_within_its_bound(
    tmp_path: Path, make_result: MakeResult, flushes: list[float]
) -> None:
    bound_s = 0.6
    with OfflineQueue(tmp_path / "q.db", routine_sync_s=bound_s) as queue:
        for position in range(3):
            flushes.clear()
            queue.put(make_result(position))
            returned = time.monotonic()
            assert not flushes, "the put itself waits for no flash"
            wait_until(lambda: flushes, "a flush")
            assert flushes[0] - returned <= bound_s
        assert len(flushes) == 1
        wait_until(lambda: not queue._database._dirty, "nothing is left to flush", most_s=1)


def test_another_process_that_opens_it_meanwhile_skips_no_numbers(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path, copy = tmp_path / "q.db", tmp_path / "copy/q.db"
    copy.parent.mkdir()
    with OfflineQueue(path) as queue:
        queue.put(make_result(0))
        OfflineQueue(path).close()
        assert queue.put(make_result(1)).seq == 2
        for suffix in ("", "-wal"):  # as after a power cut
            shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    with OfflineQueue(copy) as queue:
        assert queue.put(make_result(2)).seq > 1 << 20


def test_nothing_wakes_the_flusher_while_nothing_is_to_be_flushed(
    tmp_path: Path, make_result: MakeResult
) -> None:
    with OfflineQueue(tmp_path / "q.db", routine_sync_s=0.02) as queue:
        queue.put(make_result(0))
        wait_until(lambda: not queue._database._dirty, "nothing is left to flush")
        wait_until(lambda: not queue._database._due.is_set(), "the flusher rests")
        flusher = Path(f"/proc/self/task/{queue._database._flusher.native_id}/status")
        before = switches(flusher)
        time.sleep(0.3)
        assert switches(flusher) - before <= 2


def switches(status: Path) -> int:
    """How often a thread gave its core away."""
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("voluntary"))
    return int(line.split()[1])


def test_bulk_waits_longer_than_routine_and_an_urgent_result_flushes_for_all(
    tmp_path: Path, make_result: MakeResult, flushes: list[float]
) -> None:
    with OfflineQueue(tmp_path / "q.db", routine_sync_s=0.02) as queue:
        queue.put(make_result(0))
        wait_until(lambda: flushes, "the flush of a routine result")
        flushes.clear()
        queue.put(make_result(1, tier=Tier.BULK))
        assert set(queue._database._dirty) == {Tier.BULK}
        assert not queue._database._closing.wait(0.1), "many turns of the flusher"
        assert not flushes
        queue.put(make_result(2, tier=Tier.URGENT))
        assert not queue._database._dirty
    assert len(flushes) == 1, "one at closing"


def test_a_flush_that_fails_is_told_and_the_next_one_is_tried(
    tmp_path: Path,
    make_result: MakeResult,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried = threading.Semaphore(0)

    def broken(descriptor: int) -> None:
        tried.release()
        raise OSError(5, "Input/output error")

    with OfflineQueue(tmp_path / "q.db", routine_sync_s=0.02) as queue:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", broken)
            for position in range(2):
                queue.put(make_result(position))
                assert tried.acquire(timeout=10)
        wait_until(lambda: "is not safe from a power cut" in caplog.text, "an alarm")
        assert queue._database._flusher.is_alive()


def test_what_another_thread_could_not_make_safe_is_tried_again_in_time(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Semaphore(0)

    def broken(descriptor: int) -> None:
        tried.release()
        time.sleep(0.2)  # the flusher finds nothing to be done meanwhile, and rests
        raise OSError(5, "Input/output error")

    queue = OfflineQueue(tmp_path / "q.db", routine_sync_s=0.05)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        queue.put(make_result())
        with pytest.raises(QueueUnusable, match=r"power cut \(Input/output error\)"):
            queue.flush()
        for _ in range(2):
            assert tried.acquire(timeout=10)
    queue.close()


def test_a_disk_that_fails_at_the_end_is_one_sentence_and_hides_no_other(
    tmp_path: Path,
    make_result: MakeResult,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As a card does that its file system has turned read-only."""

    def broken(descriptor: int) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "fdatasync", broken)
    said = "what was stored last is not safe from a power cut (Read-only file system)"
    with pytest.raises(QueueUnusable) as caught, OfflineQueue(tmp_path / "q.db") as queue:
        queue.put(make_result())
    assert str(caught.value) == f"{tmp_path}/q.db: {said}"
    with pytest.raises(ZeroDivisionError), OfflineQueue(tmp_path / "q.db") as queue:
        raise ZeroDivisionError
    assert f"ALARM: {tmp_path}/q.db: {said}" in caplog.text


def test_a_folder_of_payloads_that_is_gone_is_one_sentence(
    tmp_path: Path, make_result: MakeResult
) -> None:
    with OfflineQueue(tmp_path / "q.db") as queue:
        (tmp_path / "q.db.payloads").rmdir()
        with pytest.raises(QueueUnusable, match=r"q\.db: .*No such file"):
            queue.put(make_result(state=State.PROVISIONAL), noise(100_000))
        assert every_row(queue) == []
    with OfflineQueue(tmp_path / "q.db") as queue:
        queue.put(make_result(state=State.PROVISIONAL), noise(100_000))
        assert len(queue.questions()) == 1


# -- full disks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", list(Tier))
def test_a_full_disk_refuses_whole_results_and_all_is_well_once_there_is_room(
    small_disk: Path, make_result: MakeResult, tier: Tier
) -> None:
    with OfflineQueue(small_disk / "q.db", routine_sync_s=NEVER_S) as queue:
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(1 << 20))
        count = 0
        with pytest.raises(QueueFull, match="the disk is full"):
            while True:
                queue.put(make_result(count, tier=tier))
                count += 1
        assert count > 10
        assert [row.seq for row in every_row(queue)] == list(range(1, count + 1))
        assert queue.next_position("test.npz", BUNDLE) == count
        assert queue.usage()[tier.value].count == count
        ballast.unlink()
        assert queue.put(make_result(count, tier=tier)).seq == count + 1
        receipt = wire.Receipt(epoch=queue.epoch, ranges=((1, count + 1),))
        assert queue.remove(receipt) == count + 1
    with OfflineQueue(small_disk / "q.db") as queue:
        assert every_row(queue) == []
        assert queue.last_seq() == count + 1


def test_a_sample_for_which_the_disk_has_no_room_leaves_nothing_half_written(
    small_disk: Path, make_result: MakeResult
) -> None:
    with OfflineQueue(small_disk / "q.db", routine_sync_s=NEVER_S) as queue:
        queue.put(make_result(0))
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(7 << 20))
        with pytest.raises(QueueFull, match="the disk is full"):
            queue.put(make_result(1, state=State.PROVISIONAL), noise(2_000_000))
        assert list((small_disk / "q.db.payloads").iterdir()) == []
        assert [row.seq for row in every_row(queue)] == [1]
        assert queue.questions() == []
        ballast.unlink()
        queue.put(make_result(1, state=State.PROVISIONAL), noise(1_000_000))
        assert len(queue.questions()) == 1


def test_a_queue_opens_on_a_full_disk_and_can_be_read(
    small_disk: Path, make_result: MakeResult
) -> None:
    with OfflineQueue(small_disk / "q.db") as queue:
        stored = queue.put(make_result())
        # The log of a process that still runs is there already, as after a crash.
        take_all_room(small_disk)
        with OfflineQueue(small_disk / "q.db") as second:
            assert [row.id for row in every_row(second)] == [stored.id]


def test_a_disk_without_any_room_is_said_to_be_unusable(small_disk: Path) -> None:
    take_all_room(small_disk)
    with pytest.raises(QueueUnusable, match="cannot be opened"):
        OfflineQueue(small_disk / "q.db")


# -- damaged files ------------------------------------------------------------------------------


def _overwritten(start: float, stop: float, with_noise: bool) -> Callable[[bytes], bytes]:
    """Replace a share of the file."""

    def damage(data: bytes) -> bytes:
        first, last = int(len(data) * start), int(len(data) * stop)
        filler = random.Random(1).randbytes(last - first) if with_noise else bytes(last - first)
        return data[:first] + filler + data[last:]

    return damage


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "random bytes": _overwritten(0, 1, with_noise=True),
    "all NULs, as after a power cut": _overwritten(0, 1, with_noise=False),
    "random bytes in the middle": _overwritten(0.3, 0.7, with_noise=True),
    "NULs in the middle": _overwritten(0.3, 0.7, with_noise=False),
    "NULs after the first page": _overwritten(0.04, 1, with_noise=False),
    "random first page": _overwritten(0, 0.02, with_noise=True),
    "half of it": lambda data: data[: len(data) // 2],
    "half of it and half a page": lambda data: data[: len(data) // 2 + 2048],
    "without its last page": lambda data: data[:-4096],
    "half a header": lambda data: data[:50],
    "text": lambda data: b"this was never a database\n" * 400,
}


def _on_sound_pages(path: Path, damaged: bytes) -> int:
    """How many results stand on pages that the damage left as they were."""
    whole = path.read_bytes()
    with closing(sqlite3.connect(path)) as connection:
        leaves = connection.execute(
            "SELECT pgoffset, pgsize, ncell FROM dbstat WHERE name = 'rows' AND pagetype = 'leaf'"
        ).fetchall()
    return sum(
        cells
        for first, size, cells in leaves
        if damaged[first : first + size] == whole[first : first + size]
    )


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_database_is_set_aside_and_the_device_starts(
    tmp_path: Path, make_result: MakeResult, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "q.db"
    with OfflineQueue(path) as queue:
        for position in range(500):
            queue.put(make_result(position))
        payload = queue.put(make_result(500, state=State.PROVISIONAL), noise(100_000)).id
        epoch, known = queue.epoch, {row.id for row in every_row(queue)}
    damaged = DAMAGES[damage](path.read_bytes())
    sound = _on_sound_pages(path, damaged)
    path.write_bytes(damaged)
    with caplog.at_level(logging.ERROR), OfflineQueue(path) as queue:
        assert queue.epoch != epoch
        found = {row.id for row in every_row(queue) if row.kind == "result"}
        assert found <= known
        assert len(found) >= sound
        queue.put(make_result())
    assert (tmp_path / "q.db.corrupt-1/q.db").read_bytes() == damaged
    assert (tmp_path / "q.db.corrupt-1/q.db.payloads" / payload).exists(), "kept with it"
    assert "is corrupt" in caplog.text
    assert "q.db.corrupt-1" in caplog.text


def test_each_damaged_database_is_kept_beside_the_ones_before(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    OfflineQueue(path).close()
    epochs = set()
    for number in range(1, 4):
        path.write_bytes(b"damage %d" % number * 100)
        with OfflineQueue(path) as queue:
            epochs.add(queue.epoch)
        kept = tmp_path / f"q.db.corrupt-{number}/q.db"
        assert kept.read_bytes().startswith(b"damage %d" % number)
    assert len(epochs) == 3


def _dying_after(renames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have setting aside end after so many files, as if the process was killed."""
    rename, left = Path.rename, iter(range(renames))

    def dying(self: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dying)


@pytest.mark.parametrize("renames", range(5))
def test_a_process_that_died_while_setting_aside_loses_nothing(
    tmp_path: Path, make_result: MakeResult, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of what is only in the log, while another process has the queue open."""
    path = tmp_path / "q.db"
    with OfflineQueue(path) as queue:
        for position in range(100):
            queue.put(make_result(position))
    with OfflineQueue(path, routine_sync_s=NEVER_S) as other:
        logged = {other.put(make_result(n)).id for n in range(100, 150)}
        with path.open("r+b") as file:
            file.write(b"damage" * 500)
        with monkeypatch.context() as patch:
            _dying_after(renames, patch)
            with suppress(KeyboardInterrupt):
                OfflineQueue(path)
        with OfflineQueue(path) as queue:
            assert logged <= {row.id for row in every_row(queue)}


@pytest.mark.parametrize("renames", range(5))
def test_a_process_that_died_while_setting_aside_leaves_the_payloads(
    tmp_path: Path, make_result: MakeResult, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who opens a new queue sweeps those that have no row there."""
    path = tmp_path / "q.db"
    with OfflineQueue(path) as queue:
        payload = queue.put(make_result(0, state=State.PROVISIONAL), noise(100_000)).id
    path.write_bytes(b"damage" * 500)
    with monkeypatch.context() as patch:
        _dying_after(renames, patch)
        with suppress(KeyboardInterrupt):
            OfflineQueue(path)
    OfflineQueue(path).close()
    assert list(tmp_path.rglob(payload))


@pytest.mark.parametrize("gone", ["emptied", "deleted"])
def test_a_log_without_its_database_is_taken_over(
    tmp_path: Path, make_result: MakeResult, gone: str
) -> None:
    path, left = tmp_path / "q.db", tmp_path / "left/q.db"
    left.parent.mkdir()
    with OfflineQueue(path) as queue:
        ids = {queue.put(make_result(n, tier=Tier.URGENT)).id for n in range(50)}
        shutil.copy(f"{path}-wal", f"{left}-wal")
    if gone == "emptied":
        left.touch()
    with OfflineQueue(left) as queue:
        assert {row.id for row in every_row(queue)} == ids


def _page_of(path: Path, name: str) -> int:
    """The number of a leaf of a table or index."""
    with closing(sqlite3.connect(path)) as connection:
        pages = connection.execute(
            "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf'", (name,)
        ).fetchall()
    return int(pages[len(pages) // 2][0])


def test_damage_in_an_index_hides_nothing(tmp_path: Path, make_result: MakeResult) -> None:
    path, draw = tmp_path / "q.db", random.Random(4)
    with OfflineQueue(path) as queue:
        ids = {queue.put(make_result(position)).id for position in range(1500)}
    start, whole = (_page_of(path, "rows_by_tier") - 1) * 4096, path.read_bytes()
    set_aside = 0
    for number in range(30):
        copy = tmp_path / str(number) / "q.db"
        copy.parent.mkdir()
        spoilt = bytearray(whole)
        spoilt[start + draw.randrange(8, 4096)] ^= 1 << draw.randrange(8)
        copy.write_bytes(spoilt)
        with OfflineQueue(copy) as queue:
            assert {row.id for row in every_row(queue)} == ids
        set_aside += (copy.parent / "q.db.corrupt-1").exists()
    assert set_aside > 5


@pytest.mark.parametrize("at", [21, 47, 60, 63, 68, 71])
def test_a_damaged_head_is_set_aside(tmp_path: Path, make_result: MakeResult, at: int) -> None:
    path = tmp_path / "q.db"
    with OfflineQueue(path) as queue:
        identity = queue.put(make_result()).id
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 0xFF
    path.write_bytes(damaged)
    with OfflineQueue(path) as queue:
        assert [row.id for row in every_row(queue)] == [identity]
    assert (tmp_path / "q.db.corrupt-1/q.db").read_bytes() == damaged


@pytest.mark.parametrize("left", ["nothing", "its payloads", "the second"])
def test_what_somebody_deletes_of_what_was_set_aside_disturbs_nothing(
    tmp_path: Path, make_result: MakeResult, left: str
) -> None:
    path, aside = tmp_path / "q.db", tmp_path / "q.db.corrupt-1"
    for position in range(3 if left == "the second" else 2):
        with OfflineQueue(path) as queue:
            stored = queue.put(make_result(position, state=State.PROVISIONAL), noise(100_000))
        with path.open("r+b") as file:
            file.write(b"damage" * 500)
        if left == "nothing" and not position:
            OfflineQueue(path).close()
            shutil.rmtree(aside)
        elif left == "its payloads" and not position:
            OfflineQueue(path).close()
            (aside / "q.db").unlink()
        elif left == "the second" and position == 1:
            OfflineQueue(path).close()
            shutil.rmtree(aside)
    with OfflineQueue(path) as queue:
        assert stored.id in {row.id for row in every_row(queue)}


def test_a_put_that_another_process_overtakes_with_setting_aside_is_not_called_stored(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "q.db"
    with OfflineQueue(path) as queue:
        queue.put(make_result(0))
    old = OfflineQueue(path)
    insert = old._questions.insert

    def overtaken(*arguments: Any) -> None:
        insert(*arguments)
        with path.open("r+b") as file:
            file.write(b"damage" * 500)
        OfflineQueue(path).close()

    monkeypatch.setattr(old._questions, "insert", overtaken)
    with pytest.raises(QueueUnusable, match="another process has set it aside"):
        old.put(make_result(1, state=State.PROVISIONAL), noise(10), 60.0)
    old.close()
    with OfflineQueue(path) as queue:
        there = {row.kind: row.id for row in every_row(queue)}
        assert queue.next_position("test.npz", BUNDLE) == len(there), "judged again, or there"


@pytest.mark.parametrize("byte", [0x48, 0xC9])
def test_a_damaged_description_of_a_table_is_set_aside_whatever_the_error_says(
    tmp_path: Path, make_result: MakeResult, byte: int
) -> None:
    """SQLite's error names the word, which may be no text."""
    path = tmp_path / "q.db"
    with OfflineQueue(path) as queue:
        identity = queue.put(make_result()).id
    data = bytearray(path.read_bytes())
    data[data.index(b"CREATE INDEX rows_by_tier") + len("CREATE ")] = byte
    path.write_bytes(data)
    with pytest.raises(QueueUnusable, match="salvage"):
        look(path)
    with OfflineQueue(path) as queue:
        assert [row.id for row in every_row(queue)] == [identity]


def test_an_empty_file_is_a_new_queue(tmp_path: Path, make_result: MakeResult) -> None:
    (tmp_path / "q.db").touch()
    with OfflineQueue(tmp_path / "q.db") as queue:
        assert queue.put(make_result()).seq == 1
    assert not list(tmp_path.glob("*.corrupt-*"))


@pytest.mark.parametrize("damage", ["random", "half"])
def test_a_damaged_log_costs_only_what_it_held(
    tmp_path: Path, make_result: MakeResult, damage: str
) -> None:
    """A log torn by a power cut: SQLite reads it up to the first frame that does not fit."""
    path, copy = tmp_path / "q.db", tmp_path / "cut" / "q.db"
    with OfflineQueue(path) as queue:
        queue.put(make_result(0))
    copy.parent.mkdir()
    with OfflineQueue(path) as queue:
        for position in range(1, 20):
            queue.put(make_result(position))
        shutil.copy(path, copy)
        log = Path(f"{path}-wal").read_bytes()
        torn = random.Random(2).randbytes(len(log)) if damage == "random" else log[: len(log) // 2]
        Path(f"{copy}-wal").write_bytes(torn)
        epoch = queue.epoch
    with OfflineQueue(copy) as queue:
        rows = every_row(queue)
        assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
        assert 1 <= len(rows) < 20
        assert (queue.epoch == epoch) is (damage == "half"), "garbage was not left by a power cut"
        assert queue.next_position("test.npz", BUNDLE) == len(rows)


def test_a_process_whose_queue_was_set_aside_stops_rather_than_put_where_nobody_reads(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path = tmp_path / "q.db"
    with OfflineQueue(path) as queue:
        queue.put(make_result(0))
    with OfflineQueue(path) as old:
        path.write_bytes(b"damage" * 10_000)
        with OfflineQueue(path) as new:
            assert new.epoch != old.epoch
            with pytest.raises(QueueUnusable):
                old.put(make_result(1))
            new.put(make_result(1))


@pytest.mark.parametrize("tier", list(Tier))
def test_a_log_that_is_deleted_under_a_process_costs_nothing(
    tmp_path: Path, make_result: MakeResult, tier: Tier
) -> None:
    path = tmp_path / "q.db"
    at_work = OfflineQueue(path, routine_sync_s=NEVER_S)
    stored = {at_work.put(make_result(n, tier=tier)).id for n in range(20)}
    Path(f"{path}-wal").unlink()
    with pytest.raises(QueueUnusable, match="deleted or replaced its log"):
        at_work.put(make_result(20, tier=tier))
    shutil.copytree(tmp_path, tmp_path / "killed")
    with OfflineQueue(tmp_path / "killed/q.db") as queue:
        assert stored <= {row.id for row in every_row(queue)}
        assert queue.next_position("test.npz", BUNDLE) == 21, "it is there, and not judged again"
    with pytest.raises(QueueUnusable, match="deleted or replaced its log"):
        at_work.close()


@pytest.mark.parametrize("gone", ["moved", "deleted"])
def test_a_folder_that_goes_under_a_process_is_said_as_what_is_known(
    tmp_path: Path, make_result: MakeResult, gone: str
) -> None:
    folder = tmp_path / "folder"
    with OfflineQueue(folder / "q.db") as queue:
        queue.put(make_result(0))
        if gone == "moved":
            folder.rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(folder)
        with pytest.raises(QueueUnusable, match="or somebody moved or deleted it"):
            queue.put(make_result(1))


@pytest.mark.parametrize("gone", ["emptied", "deleted"])
def test_a_queue_that_somebody_emptied_is_an_alarm(
    tmp_path: Path, make_result: MakeResult, gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "q.db"
    OfflineQueue(path).close()
    assert not caplog.messages
    path.unlink()
    if gone == "emptied":
        path.touch()
    OfflineQueue(path).close()
    assert "ALARM: queue" in caplog.text
    assert "was deleted or emptied" in caplog.text
    caplog.clear()
    OfflineQueue(path).close()
    assert not caplog.messages


def test_damage_that_shows_only_later_is_one_sentence(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path = tmp_path / "q.db"
    with OfflineQueue(path, routine_sync_s=NEVER_S) as queue:
        for position in range(200):
            queue.put(make_result(position))
    with OfflineQueue(path, routine_sync_s=NEVER_S) as queue:
        path.write_bytes(_overwritten(0.2, 1, with_noise=True)(path.read_bytes()))
        with pytest.raises(QueueUnusable, match=r"q\.db: ") as caught:
            every_row(queue)
        assert isinstance(caught.value, EdgeclinError)
        assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
    with OfflineQueue(path) as queue:
        assert len(every_row(queue)) < 200


def test_a_database_of_a_newer_edgeclin_is_left_as_it_is(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path = tmp_path / "q.db"
    with OfflineQueue(path) as queue:
        queue.put(make_result())
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(QueueUnusable) as caught:
        OfflineQueue(path)
    assert str(caught.value) == (
        f"{path}: schema 99 was written by a newer edgeclin; this one reads up to {VERSION}: "
        "upgrade edgeclin"
    )
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.corrupt-*"))


def test_what_cannot_be_opened_is_said_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a file" / "q.db"
    path.parent.write_bytes(b"")
    with pytest.raises(QueueUnusable, match=r"q\.db: the queue cannot be opened"):
        OfflineQueue(path)


def _database_of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE patients (name TEXT)")
        connection.execute("INSERT INTO patients VALUES ('kept')")
        connection.commit()


FOREIGN: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("a letter\n"),
    "one byte": lambda path: path.write_bytes(b"x"),
    "zeros": lambda path: path.write_bytes(bytes(8192)),
    "a database": _database_of_another_program,
    "a bundle": lambda path: path.write_bytes(b"PK\x03\x04" * 400),
}


@pytest.mark.parametrize("kind", list(FOREIGN))
@pytest.mark.parametrize("opening", [OfflineQueue, look])
def test_a_file_that_is_no_queue_is_refused_and_left_as_it_is(
    tmp_path: Path, kind: str, opening: Callable[[Path], object]
) -> None:
    path = tmp_path / "mine"
    FOREIGN[kind](path)
    before = path.read_bytes()
    with pytest.raises(BadFile) as caught:
        opening(path)
    assert str(caught.value) == (f"{path}: not an edgeclin queue; name another file in queue.path")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_the_database_of_another_program_in_the_place_of_a_queue_is_left_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "q.db"
    OfflineQueue(path).close()
    path.unlink()
    _database_of_another_program(path)
    before = path.read_bytes()
    with pytest.raises(BadFile, match="not an edgeclin queue"):
        OfflineQueue(path)
    assert path.read_bytes() == before


def test_a_queue_has_one_set_of_locks_and_payloads_by_whatever_name_it_is_opened(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path, link = tmp_path / "q.db", tmp_path / "link.db"
    link.symlink_to("q.db")
    with OfflineQueue(link) as queue, queue.claim("run"):
        queue.put(make_result(state=State.PROVISIONAL), noise(100_000))
        with OfflineQueue(path) as other:
            with pytest.raises(QueueUnusable, match="another `edgeclin run`"), other.claim("run"):
                pass
            assert len(other.questions()) == 1
        assert look(link) == look(path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "link.db", "q.db", "q.db.open.lock", "q.db.use.lock", "q.db.run.lock", "q.db.payloads",
    }  # fmt: skip


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["a folder", "a named pipe"])
@pytest.mark.parametrize("opening", [OfflineQueue, look])
def test_what_is_no_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], object], opening: Callable[[Path], object]
) -> None:
    make(tmp_path / "q.db")
    with pytest.raises(BadFile, match="not a regular file"):
        opening(tmp_path / "q.db")
    assert [file.name for file in tmp_path.iterdir()] == ["q.db"]


# -- looking on ---------------------------------------------------------------------------------


def test_looking_at_a_queue_changes_nothing(tmp_path: Path, make_result: MakeResult) -> None:
    path = tmp_path / "q.db"
    with OfflineQueue(path) as queue:
        queue.put(make_result(0))
        queue.put(make_result(1, state=State.PROVISIONAL), noise(100_000))
        assert look(path) == queue.standing(), "beside the process that writes"
        seen = queue.standing()
    (tmp_path / "q.db.payloads" / "left by a crash").write_bytes(b"")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert look(path) == seen
    after = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert after == before


def test_looking_at_a_damaged_queue_says_so_and_leaves_it(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path = tmp_path / "q.db"
    with OfflineQueue(path) as queue:
        queue.put(make_result(0))
    path.write_bytes(b"damage" * 1000)
    with pytest.raises(
        QueueUnusable, match=r"q\.db: the queue cannot be read \(file is not a data"
    ):
        look(path)
    assert path.read_bytes() == b"damage" * 1000


def test_looking_at_a_queue_of_a_newer_edgeclin_says_so(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    OfflineQueue(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(QueueUnusable, match=f"schema 99, this edgeclin reads {VERSION}"):
        look(path)
