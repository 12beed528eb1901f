"""The audit log: what it lost, or what was changed in it, is found; nothing is mended unseen."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from click.testing import Result as Done
from conftest import FILE_SIZE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeclin.cli import main
from edgeclin.errors import BadFile, QueueFull
from edgeclin.offline_queue import OfflineQueue
from edgeclin.sync.audit import FIRST, AuditLog, audit_path, examine

LINES = 9


def fill(audit: AuditLog, requests: int = 4) -> None:
    """So many commands that were carried out, and a refused one."""
    for number in range(1, requests + 1):
        audit.append(
            "request", key="k", number=number, digest=f"{number:064x}", command="send result",
            arguments={"seq": number},
        )  # fmt: skip
        audit.append("outcome", digest=f"{number:064x}", command="send result", outcome="done")
    audit.append("refused", reason="no valid signature by a trusted key")


def opened(queue: OfflineQueue) -> AuditLog:
    return AuditLog(queue, lambda: 7.0)


@pytest.fixture
def path(queue: OfflineQueue) -> Path:
    """The log of `queue`, filled."""
    fill(opened(queue))
    return audit_path(queue.path)


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def last_entry(path: Path) -> dict[str, Any]:
    last: dict[str, Any] = json.loads(path.read_bytes().splitlines()[-1])
    return last


def test_each_line_names_the_one_before_and_only_the_owner_reads_them(
    path: Path, queue: OfflineQueue
) -> None:
    before = FIRST
    for line in path.read_bytes().splitlines():
        assert json.loads(line)["before"] == before
        before = hashlib.sha256(line).hexdigest()
    found = examine(queue.path, LINES)
    assert (found.lines, found.head, found.problems) == (LINES, before, [])
    assert found.newest[-1][0] == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_log_goes_on_where_it_ended(path: Path, queue: OfflineQueue) -> None:
    again = opened(queue)
    assert (again.lines, again.numbers, again.problems) == (LINES, {"k": 4}, [])
    again.append("refused", reason="again")
    assert examine(queue.path, 0).problems == []


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_lost_or_changed_byte_is_found(
    path: Path, queue: OfflineQueue, data: st.DataObject
) -> None:
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    how = data.draw(st.sampled_from(["cut", "changed", "removed", "added", "line"]))
    if how == "cut":
        spoilt = whole[:at]
    elif how == "changed":
        byte = data.draw(st.integers(0, 255).filter(lambda one: one != whole[at]))
        spoilt = whole[:at] + bytes([byte]) + whole[at + 1 :]
    elif how == "removed":
        spoilt = whole[:at] + whole[at + 1 :]
    elif how == "added":
        spoilt = whole[:at] + data.draw(st.binary(min_size=1, max_size=3)) + whole[at:]
    else:
        lines = whole.splitlines(keepends=True)
        del lines[at % LINES]
        spoilt = b"".join(lines)
    try:
        if spoilt != whole:
            path.write_bytes(spoilt)
            assert examine(queue.path, LINES).problems
    finally:
        path.write_bytes(whole)
    assert examine(queue.path, LINES).problems == []


def test_a_line_that_is_none_is_found_behind_the_last_that_the_queue_knows(
    path: Path, queue: OfflineQueue
) -> None:
    with path.open("ab") as file:
        file.write(b"rubbish\n")
    assert examine(queue.path, 0).problems == [f"line {LINES + 1} cannot be read"]


def test_a_whole_other_log_is_found_by_what_the_queue_remembers(
    path: Path, queue: OfflineQueue, tmp_path: Path
) -> None:
    with OfflineQueue(tmp_path / "other.sqlite") as other:
        fill(opened(other), requests=5)
        path.write_bytes(audit_path(other.path).read_bytes())
        assert examine(other.path, 0).problems == []
    (problem,) = examine(queue.path, 0).problems
    assert problem.startswith(f"line {LINES} with the SHA-256 ")


@pytest.mark.parametrize("end", [-1, 40])
def test_a_line_that_a_power_cut_took_the_end_of_is_mended_and_told(
    path: Path, queue: OfflineQueue, end: int
) -> None:
    whole = path.read_bytes()
    mark = queue.remembered("audit")
    assert mark is not None
    opened(queue).append("refused", reason="the one that is cut")
    last = path.read_bytes().removeprefix(whole)
    queue.remember("audit", mark)  # as it was: the power went before the queue knew of the line
    path.write_bytes(whole + last[:end])
    assert examine(queue.path, 0).problems == [f"line {LINES + 1} is cut short"]
    opened(queue)
    found = examine(queue.path, LINES)
    assert (found.lines, found.problems) == (LINES + 2, [])
    assert path.read_bytes().startswith(whole + last[:end] + b"\n")
    assert last_entry(path)["what"] == "mended"
    assert f"line {LINES + 1} is cut short" in last_entry(path)["reason"]


def test_lines_that_are_gone_are_told_for_ever_and_their_numbers_stay_known(
    path: Path, queue: OfflineQueue
) -> None:
    head = examine(queue.path, 0).head
    path.unlink()
    again = opened(queue)
    assert again.numbers == {"k": 4}
    assert last_entry(path)["what"] == "missing"
    assert head in last_entry(path)["reason"]
    opened(queue).append("refused", reason="later")
    assert any(head in problem for problem in examine(queue.path, 0).problems)
    assert [entry["what"] for entry in entries(path)] == ["missing", "refused"], "told once"


def test_a_changed_line_is_told_once_and_the_log_goes_on(path: Path, queue: OfflineQueue) -> None:
    path.write_bytes(path.read_bytes().replace(b'"seq":2', b'"seq":3'))
    for _ in range(3):
        opened(queue)
    assert last_entry(path)["what"] == "changed"
    assert len(entries(path)) == LINES + 1
    assert "line 4 does not follow the one before it" in examine(queue.path, 0).problems


def test_a_command_of_which_nobody_wrote_what_became_is_told(queue: OfflineQueue) -> None:
    opened(queue).append("request", key="k", number=1, digest="d", command="drain")
    opened(queue)
    last = last_entry(audit_path(queue.path))
    assert (last["what"], last["outcome"], last["digest"]) == ("outcome", "unknown", "d")
    opened(queue)
    assert examine(queue.path, 0).lines == 2, "told once"


def test_a_lost_queue_takes_no_numbers_along(path: Path, queue: OfflineQueue) -> None:
    queue.close()
    queue.path.unlink()
    Path(f"{queue.path}-wal").unlink(missing_ok=True)
    with OfflineQueue(queue.path) as fresh:
        assert opened(fresh).numbers == {"k": 4}
        assert examine(fresh.path, 0).problems == []


@pytest.fixture
def no_room(path: Path) -> Iterator[Path]:
    """The log, of which no more than ten further bytes can be written."""
    room = path.stat().st_size + 10
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, FILE_SIZE[1]))
    yield path
    resource.setrlimit(resource.RLIMIT_FSIZE, FILE_SIZE)


def test_a_line_that_finds_no_room_leaves_nothing_behind(
    path: Path, queue: OfflineQueue, no_room: Path
) -> None:
    audit, whole = opened(queue), path.read_bytes()
    with pytest.raises(BadFile, match=r"audit\.jsonl: cannot be written"):
        audit.append("request", key="k", number=5)
    assert path.read_bytes() == whole
    assert audit.numbers == {"k": 4}
    resource.setrlimit(resource.RLIMIT_FSIZE, FILE_SIZE)
    audit.append("request", key="k", number=5)
    assert examine(queue.path, 0).problems == []


def test_a_disk_that_does_not_keep_a_line_is_an_error(
    path: Path, queue: OfflineQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, whole = opened(queue), path.read_bytes()

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(BadFile, match="No space left"):
            audit.append("request", key="k", number=5)
    assert path.read_bytes() == whole
    with monkeypatch.context() as patch:
        patch.setattr(queue, "remember", lambda *_: (_ for _ in ()).throw(QueueFull("full")))
        with pytest.raises(QueueFull):
            audit.append("request", key="k", number=5)
    assert opened(queue).numbers == {"k": 5}, "the line stands, and counts"


def test_a_log_is_full_before_the_disk_is(
    path: Path, queue: OfflineQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeclin.sync.audit.MOST_BYTES", path.stat().st_size)
    with pytest.raises(BadFile, match="MiB are full; keep a copy elsewhere"):
        opened(queue).append("request", key="k", number=5)


def test_nothing_is_written_where_a_link_leads(queue: OfflineQueue, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    audit_path(queue.path).symlink_to(elsewhere)
    with pytest.raises(BadFile):
        opened(queue).append("refused", reason="x")
    assert not elsewhere.exists()


def audit_command(queue: OfflineQueue, *arguments: str) -> Done:
    config = queue.path.parent / "device.toml"
    config.write_text(f'schema = 1\nsite = "s"\ndevice = "d"\n[queue]\npath = "{queue.path}"\n')
    return CliRunner().invoke(main, ["queue", "audit", "--config", str(config), *arguments])


def test_queue_audit_lists_the_newest_lines_and_ends_with_1_where_one_was_changed(
    path: Path, queue: OfflineQueue
) -> None:
    shown = audit_command(queue, "--limit", "3")
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["7", "8", "9"]
    assert "1970-01-01 00:00:07  request  4       send result 4" in lines[1]
    facts = json.loads(audit_command(queue, "--json").output)
    assert facts["problems"] == []
    assert facts["newest"][-1]["sha256"] == facts["head"]
    path.write_bytes(path.read_bytes().replace(b'"seq":2', b'"seq":3'))
    spoilt = audit_command(queue)
    assert spoilt.exit_code == 1
    assert spoilt.stderr == (
        f"edgeclin: {path}: the log is not whole: line 4 does not follow the one before it\n"
    )
    path.write_bytes(path.read_bytes().replace(b'"at":7.0', b'"at":1e99', 1))
    assert "unknown" in audit_command(queue).stdout


def test_queue_audit_of_a_device_that_got_no_command_is_empty(queue: OfflineQueue) -> None:
    shown = audit_command(queue)
    assert shown.exit_code == 0, shown.output
    assert f"lines                0\nSHA-256 of the last  {FIRST}\n" in shown.output
    assert not audit_path(queue.path).exists()
