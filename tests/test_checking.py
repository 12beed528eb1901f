"""A large queue starts at once and is checked while it is in use; a small one before."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from polling import wait_until

from edgeclin.errors import QueueUnusable
from edgeclin.offline_queue import OfflineQueue, checking
from edgeclin.records import Result, Tier

MakeResult = Callable[..., Result]


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every queue counts as a large one."""
    monkeypatch.setattr(checking, "AT_ONCE", 0)


def fill(path: Path, make_result: MakeResult, count: int = 1500) -> set[str]:
    with OfflineQueue(path) as queue:
        return {queue.put(make_result(position)).id for position in range(count)}


def ids(queue: OfflineQueue) -> set[str]:
    return {row.id for tier in Tier for row in queue.pending(tier, limit=100_000)}


def lose_an_entry(path: Path) -> None:
    """Have the index of tiers name one row less than there are, as SQLite alone would not."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        (root,) = db.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'rows_by_tier'"
        ).fetchone()
        (page, at) = db.execute(
            "SELECT pageno, pgoffset FROM dbstat WHERE name = 'rows_by_tier' "
            "AND pagetype = 'leaf' LIMIT 1"
        ).fetchone()
        assert page != root, "of more than one page"
    data = bytearray(path.read_bytes())
    count = int.from_bytes(data[at + 3 : at + 5], "big")
    data[at + 3 : at + 5] = (count - 1).to_bytes(2, "big")
    path.write_bytes(data)


def miscount(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE usage SET count = count + 1 WHERE tier = 1")


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("damage", [lose_an_entry, miscount])
def test_damage_is_found_in_use_and_mended_at_the_next_start(
    tmp_path: Path,
    make_result: MakeResult,
    damage: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, go_on, check = tmp_path / "q", threading.Event(), checking.require_whole
    known = fill(path, make_result)
    damage(path)
    monkeypatch.setattr(
        checking, "require_whole", lambda connection: go_on.wait() and check(connection)
    )
    with OfflineQueue(path) as queue:
        meanwhile = queue.put(make_result(9999)).id
        go_on.set()
        assert queue._database._checking is not None
        wait_until(lambda: queue._database._checking.damage, "the damage is found")
        for act in (lambda: queue.put(make_result(1)), queue.standing, queue.last_seq):
            with pytest.raises(QueueUnusable, match="it is set aside at the next start"):
                act()
    with OfflineQueue(path) as queue:
        assert ids(queue) == {*known, meanwhile}
        queue.put(make_result(1))
    assert (tmp_path / "q.corrupt-1").is_dir()
    assert not (tmp_path / "q.suspect").exists()


@pytest.mark.usefixtures("large")
def test_what_sqlite_finds_first_is_mended_at_the_next_start_too(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "q"
    known = fill(path, make_result)
    with closing(sqlite3.connect(path)) as db:
        ((at,),) = db.execute(
            "SELECT pgoffset FROM dbstat WHERE name = 'rows_by_tier' AND pagetype = 'leaf' "
            "ORDER BY pageno DESC LIMIT 1"
        ).fetchall()
    data = bytearray(path.read_bytes())
    data[at] = 0xEE
    path.write_bytes(data)
    with monkeypatch.context() as patch:
        patch.setattr(checking, "require_whole", lambda _: time.sleep(0.5))
        with pytest.raises(QueueUnusable, match="malformed"), OfflineQueue(path) as queue:
            queue.pending(Tier.ROUTINE, limit=100_000)
    with OfflineQueue(path) as queue:
        assert ids(queue) == known


@pytest.mark.usefixtures("large")
def test_what_opening_itself_meets_is_mended_at_the_next_start(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "q"
    known = fill(path, make_result, 50)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DELETE FROM usage WHERE tier = 1")
    with monkeypatch.context() as patch:
        patch.setattr(checking, "require_whole", lambda _: time.sleep(0.5))
        with pytest.raises(QueueUnusable):
            OfflineQueue(path)
    with OfflineQueue(path) as queue:
        assert ids(queue) == known


@pytest.mark.usefixtures("large")
def test_a_sound_queue_is_used_on(
    tmp_path: Path, make_result: MakeResult, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "q"
    known = fill(path, make_result)
    with OfflineQueue(path) as queue:
        wait_until(lambda: not queue._database._checking._thread.is_alive(), "it is checked")
        assert ids(queue) == known
    for _ in range(20):
        OfflineQueue(path).close()
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert not (tmp_path / "q.suspect").exists()


@pytest.mark.usefixtures("large")
def test_a_suspected_queue_is_checked_before_it_is_used(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path = tmp_path / "q"
    known = fill(path, make_result, 10)
    checking.suspect(path)
    with OfflineQueue(path) as queue:
        assert queue._database._checking is None
        assert ids(queue) == known
    with OfflineQueue(path) as queue:
        assert queue._database._checking is not None, "it is trusted again"


@pytest.mark.usefixtures("large")
def test_a_start_reads_no_more_of_a_larger_backlog(
    tmp_path: Path, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, go_on, read = (500, 20_000), threading.Event(), []
    for count in counts:
        fill(tmp_path / str(count), make_result, count)
    monkeypatch.setattr(checking, "require_whole", lambda _: go_on.wait())
    for count in counts:
        path = tmp_path / str(count)
        before = bytes_read()
        queue = OfflineQueue(path)
        read.append(bytes_read() - before)
        go_on.set()
        queue.close()
        go_on.clear()
    assert read[1] - read[0] < 64 << 10, read


def bytes_read() -> int:
    """By this process so far, from the disk or its cache."""
    facts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(facts["rchar"])
