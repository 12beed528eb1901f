"""`edgeclin queue`: what waits is listed, carried away, and given up only when somebody says so."""

from __future__ import annotations

import base64
import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from click.testing import Result as Done
from small_disk import take_all_room
from test_keyring import write_keys

from edgeclin import wire
from edgeclin.cli import main
from edgeclin.offline_queue import Keyring, OfflineQueue, waiting
from edgeclin.records import Drop, Result, State, Tier

MakeResult = Callable[..., Result]
DAY_S = 86_400.0


class Ward:
    """A device with a queue, and its commands."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "q.sqlite"
        self.config = folder / "device.toml"
        self.config.write_text(
            f'schema = 1\nsite = "s"\ndevice = "d"\n[queue]\npath = "{self.path}"\n'
        )

    def __call__(self, command: str, *arguments: object, answer: str = "") -> Done:
        words = ["queue", command, "--config", str(self.config), *map(str, arguments)]
        return CliRunner().invoke(main, words, input=answer)


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    return Ward(tmp_path)


def put_days_ago(
    ward: Ward, monkeypatch: pytest.MonkeyPatch, days: float, results: list[Result]
) -> None:
    """Store them with a clock of that day, which their ids are made by."""
    moment = time.time() - days * DAY_S
    with monkeypatch.context() as patch, OfflineQueue(ward.path) as queue:
        patch.setattr("time.time_ns", lambda: int(moment * 1e9))
        for result in results:
            queue.put(result)


def test_what_waits_is_listed_oldest_first(ward: Ward, make_result: MakeResult) -> None:
    with OfflineQueue(ward.path) as queue:
        for position in range(30):
            tier = Tier.URGENT if position % 10 == 9 else Tier.ROUTINE
            queue.put(make_result(position, tier=tier, made_at=1_700_000_000.0))
        queue.put(make_result(30, label=None, rejected=True, reason="rejected: flat"))
    shown = ward("list")
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert len(lines) == 21
    assert lines[1].split() == [
        "1", "routine", "result", "2023-11-14", "22:13:20", "final:", "normal", "(test.npz", "0)",
    ]  # fmt: skip
    urgent = json.loads(ward("list", "--tier", "urgent", "--json").output)
    assert [row["seq"] for row in urgent] == [10, 20, 30]
    assert "rejected: flat (test.npz 30)" in ward("list", "--limit", 100).output


def test_what_waits_is_written_as_json_lines_and_stays(
    ward: Ward, make_result: MakeResult, tmp_path: Path
) -> None:
    with OfflineQueue(ward.path) as queue:
        stored = [queue.put(make_result(position)) for position in range(50)]
        epoch = queue.epoch
    done = ward("export", "-o", tmp_path / "out.jsonl")
    assert done.output == f"50 rows written to {tmp_path}/out.jsonl\n"
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()
    ]
    assert [(row["seq"], row["id"]) for row in rows] == [(one.seq, one.id) for one in stored]
    assert {row["epoch"] for row in rows} == {epoch}
    assert msgspec.convert(rows[7]["body"], Result) == make_result(7)
    assert (tmp_path / "out.jsonl").stat().st_mode & 0o777 == 0o600
    with OfflineQueue(ward.path) as queue:
        assert queue.usage()["routine"].count == 50
    again = ward("export", "-o", tmp_path / "out.jsonl")
    assert (again.exit_code, "exists" in again.stderr) == (1, True)


def test_what_others_said_is_shown_in_its_row_and_moves_no_cursor(
    ward: Ward, make_result: MakeResult
) -> None:
    forged = "normal\n9  urgent  result  confirmed: é\x1b[2K"
    with OfflineQueue(ward.path) as queue:
        queue.put(make_result(0, label=forged))
        queue.set_aside(queue.put(make_result(1)).seq, "the broker refuses it: \x1b]0;x\x07")
    lines = ward("list").output.splitlines()
    assert len(lines) == 3
    assert r"normal\n9  urgent  result  confirmed: é\x1b[2K" in lines[1]
    assert all(line.isprintable() for line in lines)


def test_what_is_too_old_goes_when_somebody_says_so_and_leaves_a_record(
    ward: Ward, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [make_result(at, tier=Tier.URGENT if at % 50 == 0 else Tier.ROUTINE) for at in range(200)]
    put_days_ago(ward, monkeypatch, 40, old)
    put_days_ago(ward, monkeypatch, 20, [make_result(at) for at in range(200, 210)])
    ages = ward("purge", "--older-than", "1e308", "--yes")
    assert (ages.exit_code, "routine rows deleted  0" in ages.output) == (0, True)
    for answer in ("n\n", ""):
        refused = ward("purge", "--older-than", 30, answer=answer)
        assert refused.exit_code == 1
        assert "206 routine, 0 bulk rows wait" in refused.output
    assert len(json.loads(ward("list", "--limit", 1000, "--json").output)) == 210
    done = ward("purge", "--older-than", 30, answer="y\n")
    assert done.exit_code == 0, done.output
    assert "routine rows deleted  196" in done.output
    rows = json.loads(ward("list", "--limit", 1000, "--json").output)
    left = [row for row in rows if row["kind"] == "result"]
    assert [row["tier"] for row in left] == ["urgent"] * 4 + ["routine"] * 10
    drops = [msgspec.convert(row["body"], Drop) for row in rows if row["kind"] == "drop"]
    assert sum(drop.count for drop in drops) == 196
    assert {drop.tier for drop in drops} == {Tier.ROUTINE}
    again = ward("purge", "--older-than", 30, "--yes")
    assert "routine rows deleted  0" in again.output
    assert (
        "urgent rows deleted  4"
        in ward("purge", "--older-than", 30, "--tier", "urgent", "--yes").output
    )


def test_what_damaged_queues_hold_is_taken_over_once_more(
    ward: Ward, make_result: MakeResult
) -> None:
    assert ward("salvage").exit_code == 1
    with OfflineQueue(ward.path) as queue:
        assert "no damaged queue" in ward("salvage").output
        ids = {queue.put(make_result(at)).id for at in range(20)}
    ward.path.write_bytes(b"\xff" * 4096 + ward.path.read_bytes()[4096:])
    with OfflineQueue(ward.path) as queue:
        taken = {row.id for row in queue.pending(Tier.ROUTINE)}
        assert taken == ids
        queue.purge(time.time() + 60, [Tier.ROUTINE])
    shown = ward("salvage")
    assert shown.output.startswith("q.sqlite.corrupt-1  20 results (")
    report = json.loads((ward.path.parent / "q.sqlite.corrupt-1/salvage.json").read_text())
    assert report["taken_over"]["rows"] == {"result": 20}
    with OfflineQueue(ward.path) as queue:
        assert ids <= {row.id for row in queue.pending(Tier.ROUTINE)}


@pytest.mark.parametrize("gone", [False, True], ids=["damaged", "gone"])
def test_salvage_sets_aside_a_damaged_queue_and_needs_no_other(
    ward: Ward, make_result: MakeResult, gone: bool
) -> None:
    with OfflineQueue(ward.path) as queue:
        ids = {queue.put(make_result(at)).id for at in range(20)}
    ward.path.write_bytes(b"\xff" * 4096 + ward.path.read_bytes()[4096:])
    if gone:
        OfflineQueue(ward.path).close()
        ward.path.unlink()
    else:
        for command in ("status", "list"):
            assert "`edgeclin queue salvage` sets it aside" in ward(command).stderr
    said = "20 results (0 were" if gone else "no rows (20 were there already)"
    assert said in ward("salvage").output
    with OfflineQueue(ward.path) as queue:
        assert {row.id for row in queue.pending(Tier.ROUTINE)} == ids


def test_what_another_process_does_meanwhile_does_not_disturb_an_export(
    ward: Ward, make_result: MakeResult
) -> None:
    with OfflineQueue(ward.path) as queue:
        ids = [queue.put(make_result(at)).id for at in range(2000)]
    rows = waiting(ward.path, [Tier.ROUTINE])
    found = [next(rows).row.id for _ in range(10)]
    with OfflineQueue(ward.path) as queue:
        queue.remove(wire.Receipt(queue.epoch, ((1, 1500),)))
        for at in range(2000, 2500):
            queue.put(make_result(at))
    assert found + [one.row.id for one in rows] == ids
    assert not list(ward.path.parent.glob("q.sqlite-*")), "no log is left behind"


def test_a_row_that_the_disk_damaged_keeps_no_command_from_the_others(
    ward: Ward, make_result: MakeResult, tmp_path: Path
) -> None:
    with OfflineQueue(ward.path) as queue:
        for at in range(3):
            queue.put(make_result(at))
    with closing(sqlite3.connect(ward.path)) as connection, connection:
        connection.execute(
            "UPDATE rows SET id = CAST(x'f0' || substr(id, 2) AS TEXT) WHERE seq = 1"
        )
        connection.execute(
            "UPDATE rows SET body = CAST('[' || substr(body, 2) AS BLOB) WHERE seq = 2"
        )
    with OfflineQueue(ward.path) as queue:
        queue.put(make_result(3))
        assert [row.sound for row in queue.pending(Tier.ROUTINE)] == [False, False, True, True]
    assert "routine" in ward("status").output
    listed = ward("list").output.splitlines()
    assert "damaged" in listed[2]
    assert "final: normal (test.npz 2)" in listed[3]
    ward("export", "-o", tmp_path / "rows")
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert base64.b64decode(rows[1].pop("damaged")).startswith(b'["')
    assert [row["body"] is None for row in rows] == [False, True, False, False]


@pytest.mark.parametrize("column", ["id", "kind", "body"])
@pytest.mark.parametrize("kind", ["CAST({} AS BLOB)", "CAST({} AS TEXT)", "7", "x'ff00'"])
def test_a_column_whose_type_is_damaged_keeps_no_command_from_the_others(
    ward: Ward, make_result: MakeResult, tmp_path: Path, column: str, kind: str
) -> None:
    with OfflineQueue(ward.path) as queue:
        for at in range(3):
            queue.put(make_result(at))
    with closing(sqlite3.connect(ward.path)) as connection, connection:
        connection.execute(f"UPDATE rows SET {column} = {kind.format(column)} WHERE seq = 2")
    for command in (["list"], ["list", "--json"], ["export", "-o", tmp_path / "x.jsonl"]):
        done = ward(*command)
        assert done.exit_code == 0, done.output
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 3


def test_a_queue_that_cannot_be_read_is_said_so_by_each_command(
    ward: Ward, make_result: MakeResult, tmp_path: Path
) -> None:
    with OfflineQueue(ward.path) as queue:
        queue.put(make_result())
    ward.path.write_bytes(b"damage" * 1000)
    commands = (["status"], ["list"], ["export", "-o", tmp_path / "x.jsonl"])
    done = [ward(*command) for command in commands]
    assert [one.exit_code for one in done] == [4, 4, 4]
    assert len({one.output for one in done}) == 1
    assert not (tmp_path / "x.jsonl").exists()


def test_what_was_lost_with_a_damaged_queue_is_an_alarm(
    ward: Ward, make_result: MakeResult
) -> None:
    with OfflineQueue(ward.path) as queue:
        for at in range(300):
            queue.put(make_result(at))
    whole = ward.path.read_bytes()
    ward.path.write_bytes(whole[: len(whole) // 2])
    OfflineQueue(ward.path).close()
    assert "of 300 rows could be read" in ward("status").output
    assert "of 300 rows could be read" in json.loads(ward("status", "--json").output)["damage"][0]


@pytest.mark.parametrize("body", ["[1]", "1e5", '{"made_bt": 1}', '{"made_at": 1e300}', "null"])
def test_a_damaged_record_that_is_still_json_is_listed_as_damaged(
    ward: Ward, make_result: MakeResult, tmp_path: Path, body: str
) -> None:
    with OfflineQueue(ward.path) as queue:
        queue.put(make_result())
        sound = json.loads(queue.pending(Tier.ROUTINE)[0].body)
    changed = json.dumps({**sound, "made_at": 1e300}) if "1e300" in body else body
    with closing(sqlite3.connect(ward.path)) as connection, connection:
        connection.execute("UPDATE rows SET body = ?", (changed.encode(),))
    listed = ward("list")
    assert listed.exit_code == 0
    assert "unknown  damaged" in listed.output
    ward("export", "-o", tmp_path / "rows")
    (row,) = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert base64.b64decode(row["damaged"]).decode() == changed


def test_what_is_not_sent_is_listed_with_its_reason_and_an_alarm(
    ward: Ward, make_result: MakeResult, tmp_path: Path
) -> None:
    with OfflineQueue(ward.path) as queue:
        for at in range(3):
            queue.put(make_result(at))
        queue.set_aside(2, "the broker refuses it: Packet too large")
        assert [row.seq for row in queue.pending(Tier.ROUTINE)] == [1, 3]
    assert (
        "alarm  1 rows cannot be delivered: `edgeclin queue list` says why" in ward("status").output
    )
    listed = ward("list").output.splitlines()
    assert "NOT SENT: the broker refuses it: Packet too large" in listed[2]
    assert "final: normal" in listed[3]
    rows = json.loads(ward("list", "--json").output)
    assert [row.get("set_aside") for row in rows] == [
        None, "the broker refuses it: Packet too large", None
    ]  # fmt: skip
    with OfflineQueue(ward.path) as queue:
        queue.remove(wire.Receipt(queue.epoch, ((1, 3),)))
        assert queue.standing().set_aside == 0


def test_listing_sorts_no_backlog(ward: Ward, make_result: MakeResult) -> None:
    with OfflineQueue(ward.path) as queue:
        queue.put(make_result())
    asked: list[str] = []
    connect = sqlite3.connect

    def traced(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **named)
        connection.set_trace_callback(asked.append)
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", traced)
        list(waiting(ward.path))
    (select,) = [statement for statement in asked if "LEFT JOIN set_aside" in statement]
    with closing(sqlite3.connect(ward.path)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {select}").fetchall()
    assert "TEMP B-TREE" not in str(plan)


def test_the_age_of_what_waits_is_shown_and_an_urgent_one_is_an_alarm(
    ward: Ward, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_days_ago(ward, monkeypatch, 1, [make_result(0)])
    put_days_ago(ward, monkeypatch, 0.005, [make_result(1, tier=Tier.URGENT)])
    with OfflineQueue(ward.path) as queue:
        queue.put(make_result(2))
    shown = ward("status").output
    (routine,) = [line for line in shown.splitlines() if line.startswith("routine")]
    assert routine.split()[1] == "2"
    assert int(routine.split()[3]) == pytest.approx(DAY_S, abs=60)
    assert "alarm  an urgent result has waited 7 minutes for the cloud" not in shown
    ward.config.write_text(ward.config.read_text() + "urgent_alarm_s = 300\n")
    assert "alarm  an urgent result has waited 7 minutes for the cloud" in ward("status").output
    ward.config.write_text(ward.config.read_text().replace("= 300", "= 0"))
    assert "alarm" not in ward("status").output


def test_without_a_queue_each_command_says_so(ward: Ward, tmp_path: Path) -> None:
    for command in (("list",), ("export", "-o", tmp_path / "o"), ("purge", "--older-than", 1)):
        done = ward(*command)  # type: ignore[arg-type]
        assert done.exit_code == 1
        assert done.stderr.endswith("no queue there yet; `edgeclin run` makes it\n")
    assert not (tmp_path / "o").exists()


def test_a_review_is_listed_with_what_it_is_about(ward: Ward, make_result: MakeResult) -> None:
    import numpy as np

    from edgeclin import wire

    with OfflineQueue(ward.path) as queue:
        asked = queue.put(make_result(state=State.PROVISIONAL), np.zeros(3))
        queue.settle(wire.Opinion(asked.id, "m", "flutter", 0.9))
    assert f"amended: flutter ({asked.id})" in ward("list").output


# -- sealed queues --------------------------------------------------------------------------------

ONE, TWO = bytes(32), bytes(31) + b"\1"


def name_key(ward: Ward, named: object) -> None:
    ward.config.write_text(f'{ward.config.read_text()}key = "{named}"\n')


def test_status_says_whether_the_queue_is_encrypted(ward: Ward, make_result: MakeResult) -> None:
    with OfflineQueue(ward.path) as queue:
        queue.put(make_result())
    assert "encrypted             no (no rows sealed, 1 plain)" in ward("status").output
    name_key(ward, write_keys(ward.path.parent / "keys", ONE))
    with OfflineQueue(ward.path, keyring=Keyring([ONE])) as queue:
        queue.put(make_result())
    first = Keyring([ONE]).first
    assert f"yes, with key {first} (1 rows with {first}, 1 plain)" in ward("status").output
    facts = json.loads(ward("status", "--json").output)
    assert (facts["sealed"], facts["absent"]) == ({first: 1}, 0)
    write_keys(ward.path.parent / "keys", TWO)
    assert "alarm  1 rows wait for a key that is not there" in ward("status").output
    assert json.loads(ward("status", "--json").output)["absent"] == 1


def test_rows_are_shown_with_their_key_and_as_sealed_without(
    ward: Ward, make_result: MakeResult, tmp_path: Path
) -> None:
    keyring = Keyring([ONE])
    with OfflineQueue(ward.path, keyring=keyring) as queue:
        queue.put(make_result())
    assert f"sealed with the key {keyring.first}, which is not here" in ward("list").output
    assert ward("export", "-o", tmp_path / "one").exit_code == 0
    row = json.loads((tmp_path / "one").read_text())
    assert (row["body"], row["sealed"]) == (None, keyring.first)
    name_key(ward, write_keys(tmp_path / "keys", TWO, ONE))
    assert "final: normal (test.npz 0)" in ward("list").output
    assert ward("export", "-o", tmp_path / "two").exit_code == 0
    row = json.loads((tmp_path / "two").read_text())
    assert msgspec.convert(row["body"], Result) == make_result()
    assert "sealed" not in row


def test_who_has_not_the_keys_that_systemd_hands_out_looks_all_the_same(
    ward: Ward, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with OfflineQueue(ward.path, keyring=Keyring([ONE])) as queue:
        queue.put(make_result())
    name_key(ward, "credential:queue-key")
    shown = ward("status")
    assert "yes, with keys that only the services have (1 rows with" in shown.output
    assert "alarm" not in shown.output, "nobody knows whether it is absent"
    assert json.loads(ward("status", "--json").output)["absent"] is None
    assert "sealed with the key" in ward("list").output
    for command in (["salvage"], ["purge", "--older-than", 1, "--yes"], ["rekey"]):
        refused = ward(*command)
        assert refused.exit_code == 1
        assert "systemd hands no credentials to this process" in refused.stderr


@pytest.mark.parametrize(
    ("mode", "text", "problem"),
    [
        (0o604, "", "others than its owner and group may use it (mode 0604); chmod o= "),
        (0o600, "nonsense", "line 1 is no key"),
        (None, "", "no such file"),
    ],
)
def test_a_file_of_keys_that_is_none_ends_every_command_with_one_line(
    ward: Ward, mode: int | None, text: str, problem: str
) -> None:
    OfflineQueue(ward.path).close()
    keys = ward.path.parent / "keys"
    name_key(ward, keys)
    if mode is not None:
        keys.write_text(text)
        keys.chmod(mode)
    for command in ("status", "list", "salvage", "rekey"):
        done = ward(command)
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.stderr
        assert problem in done.stderr
    done = CliRunner().invoke(main, ["sync", "--config", str(ward.config), "--until-empty"])
    assert (done.exit_code, problem in done.stderr) == (1, True)
    done = CliRunner().invoke(main, ["doctor", "--config", str(ward.config)])
    assert (done.exit_code, problem.split(";")[0] in done.output) == (4, True)


def test_doctor_says_whether_the_queue_is_encrypted(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> dict[str, str]:
        done = CliRunner().invoke(main, ["doctor", "--config", str(ward.config), "--json"])
        (finding,) = [one for one in json.loads(done.stdout) if one["what"] == "queue encryption"]
        return dict(finding)

    assert (found()["status"], found()["detail"]) == ("missing", "what waits is stored in plain")
    plain = ward.config.read_text()
    name_key(ward, write_keys(ward.path.parent / "keys", ONE))
    assert found()["status"] == "ok"
    assert Keyring([ONE]).first in found()["detail"]
    ward.config.write_text(plain)
    name_key(ward, "credential:queue-key")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert (found()["status"], "systemd" in found()["detail"]) == ("missing", True)


def test_rekey_seals_what_is_plain_and_says_what_it_did(
    ward: Ward, make_result: MakeResult
) -> None:
    with OfflineQueue(ward.path) as queue:
        for position in range(70):
            queue.put(make_result(position))
    refused = ward("rekey")
    assert (refused.exit_code, "names no queue.key" in refused.stderr) == (1, True)
    name_key(ward, write_keys(ward.path.parent / "keys", ONE))
    with OfflineQueue(ward.path, keyring=Keyring([ONE])) as queue, queue.claim("run"):
        done = ward("rekey")
    assert done.exit_code == 0, done.output
    first = Keyring([ONE]).first
    assert "rows sealed anew       70" in done.output
    assert f"rows under key {first}  70" in done.output
    assert "end `run`, `sync` and whatever else uses it, and do it once more" in done.output
    again = ward("rekey", "--json")
    facts = json.loads(again.stdout)
    assert (facts["rows"], facts["rebuilt"], facts["sealed"]) == (0, True, {first: 70})


def test_a_full_disk_is_an_alarm_though_run_cannot_say_so(
    small_disk: Path, make_result: MakeResult
) -> None:
    ward = Ward(small_disk)
    told = f"the disk of {ward.path} is full, 0 kB are free: nothing can be stored"
    with OfflineQueue(ward.path) as queue:
        queue.put(make_result())
        assert "is full" not in ward("status").output
        ballast = take_all_room(small_disk)
        done = ward("status")
        assert (done.exit_code, told in done.output) == (0, True)
    ballast.unlink()
    take_all_room(small_disk)
    done = ward("status")
    assert (done.exit_code, told in done.output) == (4, True), "SQLite has no room to read it"
