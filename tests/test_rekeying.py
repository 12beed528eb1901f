"""All comes under the first key, killed at any moment or beside others, and nothing is lost."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from polling import wait_until
from test_keyring import write_keys
from test_offline_queue_crashes import command
from test_sealed_queue import MARK, ONE, TWO, every_row, in_plain, live_a_day

from edgeclin import wire
from edgeclin.errors import QueueUnusable
from edgeclin.offline_queue import Keyring, OfflineQueue, Usage
from edgeclin.offline_queue.database import Database
from edgeclin.offline_queue.keyring import key_id
from edgeclin.offline_queue.standing import looking
from edgeclin.records import Result, State, Tier

MakeResult = Callable[..., Result]


def untold(_: float) -> None:
    """Nobody asks how far it is."""


@contextmanager
def opened(folder: Path, *keys: bytes) -> Iterator[OfflineQueue]:
    with OfflineQueue(folder / "q", keyring=Keyring(keys), uptime=lambda: 100.0, boot="b") as queue:
        # Some builds of SQLite overwrite what is deleted, others leave it.
        queue._database._execute("PRAGMA secure_delete = OFF")
        yield queue


def what_it_holds(queue: OfflineQueue) -> tuple[object, ...]:
    rows = [(row.seq, row.id, row.kind, row.body) for row in every_row(queue)]
    asked = [(one.seq, one.result, one.ask) for one in queue.questions(limit=1000)]
    return rows, asked, queue.reviews()


@pytest.mark.parametrize("before", [(), (ONE,)], ids=["plain", "another key"])
def test_all_that_waits_comes_under_the_first_key_and_says_the_same(
    tmp_path: Path, make_result: MakeResult, before: tuple[bytes, ...]
) -> None:
    with opened(tmp_path, *before) as queue:
        live_a_day(queue, make_result)
        wanted = what_it_holds(queue)
        queue.put(make_result(99, reason=MARK))
        newest = queue.last_seq()
        queue.remove(wire.Receipt(queue.epoch, ((newest, newest),)))
    with opened(tmp_path, TWO, *before) as queue:
        assert what_it_holds(queue) == wanted, "before it is done"
        shares: list[float] = []
        found = queue.rekey(shares.append)
        assert what_it_holds(queue) == wanted
        assert found.rows == len(every_row(queue))
        assert (found.questions, found.payloads, found.reviews) == (3, 1, 2)
        assert (found.absent, found.damaged, found.rebuilt) == (0, 0, True)
        for tier in Tier:
            sizes = [len(row.body) + 33 for row in queue.pending(tier, limit=1000)]
            assert queue.usage()[tier.value] == Usage(len(sizes), sum(sizes))
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
        again = queue.rekey(untold)
        assert (again.rows, again.questions, again.payloads, again.reviews) == (0, 0, 0, 0)
        assert queue.put(make_result()).seq == newest + 1
    assert in_plain(tmp_path) == set(), "nor of what was deleted"
    with opened(tmp_path, TWO) as queue:
        assert what_it_holds(queue)[1:] == wanted[1:]
        assert queue.standing().absent == 0


def test_a_label_is_opened_with_the_new_key_alone(tmp_path: Path, make_result: MakeResult) -> None:
    with opened(tmp_path) as queue:
        asked = queue.put(make_result(label="normal", state=State.PROVISIONAL), np.zeros(9))
    with opened(tmp_path, TWO) as queue:
        queue.rekey(untold)
        assert isinstance(queue._database.all("SELECT label FROM questions")[0][0], bytes)
        review = queue.settle(wire.Opinion(asked.id, "m", "normal", 0.9))
        assert review is not None
        assert review.state is State.CONFIRMED


def test_what_lacks_its_key_or_is_damaged_stays_as_it_is(
    tmp_path: Path, make_result: MakeResult
) -> None:
    for key in (ONE, TWO):
        with opened(tmp_path, key) as queue:
            queue.put(make_result())
            queue.put(make_result())
    with opened(tmp_path, TWO) as queue, queue._database.transaction(Tier.BULK) as db:
        db.execute("UPDATE rows SET body = zeroblob(100) WHERE seq = 4")
        db.execute("UPDATE rows SET body = substr(body, 1, length(body) - 1) WHERE seq = 3")
    new = bytes(range(32))
    with opened(tmp_path, new, TWO) as queue:
        found = queue.rekey(untold)
        assert (found.rows, found.absent, found.damaged) == (1, 2, 1)
        assert queue.standing().sealed == {key_id(ONE): 2, key_id(TWO): 1, key_id(new): 1}


def test_a_kill_between_its_transactions_loses_nothing_and_the_next_one_ends_it(
    tmp_path: Path, make_result: MakeResult
) -> None:
    path = tmp_path / "q"
    with opened(tmp_path, ONE) as queue:
        for at in range(400):
            queue.put(make_result(at, tier=list(Tier)[at % 3]))
        for at in range(400, 404):
            queue.put(make_result(at, state=State.PROVISIONAL), np.zeros(20_000))
        wanted = what_it_holds(queue)
    keys = write_keys(tmp_path / "keys", TWO, ONE)
    with subprocess.Popen(
        command("rekey", make_result(), path, keys), stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for _ in range(3):
            assert float(child.stdout.readline()) < 1.0
        child.send_signal(signal.SIGKILL)
    with opened(tmp_path, TWO, ONE) as queue:
        sealed = queue.standing().sealed
        assert sealed[key_id(TWO)] >= 3 * 64
        assert sealed[key_id(ONE)] > 0, "it was killed in the middle"
        assert what_it_holds(queue) == wanted
        assert queue.rekey(untold).rows == sealed[key_id(ONE)]
    with opened(tmp_path, TWO) as queue:
        assert what_it_holds(queue) == wanted


def test_another_process_goes_on_storing_meanwhile(tmp_path: Path, make_result: MakeResult) -> None:
    path = tmp_path / "q"
    with opened(tmp_path) as queue:
        for at in range(3000):
            queue.put(make_result(at, source="before"))
    keys = write_keys(tmp_path / "keys", TWO, ONE)
    with subprocess.Popen(
        command("put", make_result(), path, keys), stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        acknowledged = [child.stdout.readline()]
        with opened(tmp_path, TWO, ONE) as queue, queue.claim("run"):
            first = queue.last_seq()
            found = queue.rekey(untold)
            wait_until(lambda: queue.last_seq() > first + 20, "it stored beside")
            assert found.rows == 3000
            assert not found.rebuilt, "for that `run` would wait too long"
        child.send_signal(signal.SIGKILL)
        acknowledged += child.stdout.read().splitlines()
    with opened(tmp_path, TWO) as queue:
        rows = {row.id: row for row in queue.pending(Tier.ROUTINE, limit=10_000)}
        rows |= {row.id: row for tier in Tier for row in queue.pending(tier, limit=10_000)}
        assert {line.split()[1] for line in acknowledged if line.count(" ") == 2} <= rows.keys()
        assert all(row.sound for row in rows.values())
        assert queue.standing().absent == 0
        assert all(wire.decode(one.ask, wire.Ask) for one in queue.questions(limit=1000))


def test_a_question_that_goes_between_two_transactions_stays_away(
    tmp_path: Path,
    make_result: MakeResult,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Withdrawn by another process after its message, or the name of its file, was read."""
    with opened(tmp_path) as queue:
        asked = [
            queue.put(make_result(at, state=State.PROVISIONAL), np.zeros(9)) for at in range(2)
        ]
        noise = np.random.default_rng(1).integers(0, 256, 100_000, dtype=np.uint8)
        asked.append(queue.put(make_result(2, state=State.PROVISIONAL), noise))
    with opened(tmp_path, TWO) as other, opened(tmp_path, TWO) as queue:
        read = queue._database.all
        withdrawn = {"label, ask FROM questions": asked[0], "SELECT file FROM": asked[2]}

        def overtaken(query: str, parameters: tuple[object, ...] = ()) -> object:
            found = read(query, parameters)
            for part in [part for part in withdrawn if part in query]:
                other.settle(wire.Opinion(withdrawn.pop(part).id, "m", None, 0.9))
            return found

        monkeypatch.setattr(queue._database, "all", overtaken)
        queue.rekey(untold)
        assert not withdrawn
        assert not caplog.messages, "that is no alarm"
        assert [one.result for one in queue.questions()] == [asked[1].id]
        assert queue.usage()["questions"].count == 1
    with opened(tmp_path, TWO) as queue:
        assert queue._database.all("SELECT file FROM questions WHERE ask IS NULL") == [(None,)] * 2
        assert not list((tmp_path / "q.payloads").iterdir())


def test_a_file_that_another_process_still_reads_is_not_said_to_be_written_anew(
    tmp_path: Path, make_result: MakeResult
) -> None:
    with opened(tmp_path) as queue:
        queue.put(make_result())
    with opened(tmp_path, TWO) as queue:
        with looking(tmp_path / "q") as reader:
            assert reader.execute("SELECT COUNT(*) FROM rows").fetchone() == (1,)
            assert not queue.rekey(untold).rebuilt
        assert queue.rekey(untold).rebuilt


def test_whoever_starts_while_the_file_is_written_anew_is_told_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with opened(tmp_path, ONE) as queue, opened(tmp_path, ONE) as other:

        def start(_: Database) -> bool:
            with pytest.raises(QueueUnusable) as refused, other.claim("run"):
                pass
            told.append(str(refused.value))
            return True

        monkeypatch.setattr(Database, "rebuild", start)
        queue.rekey(untold)
    assert "`edgeclin queue rekey`" in told[0]


def test_one_at_a_time(tmp_path: Path) -> None:
    with (
        opened(tmp_path, ONE) as queue,
        queue.claim("rekey"),
        opened(tmp_path, ONE) as other,
        pytest.raises(QueueUnusable, match="edgeclin rekey"),
    ):
        other.rekey(untold)
