"""What is said on standard error is there for who reads, and holds nothing up where nobody does."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path

import numpy as np
import pytest
from polling import wait_until
from small_disk import take_all_room

from edgeclin.cli.log import Log
from edgeclin.keys import KeyPair


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> logging.Handler:
    """As the command line sets it up."""
    made = logging.StreamHandler()
    made.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    monkeypatch.setattr(logging.getLogger(), "handlers", [made])
    return made


def test_what_was_logged_is_written_by_the_end_and_as_before(
    handler: logging.Handler, capfd: pytest.CaptureFixture[str]
) -> None:
    with Log() as log:
        logging.getLogger("edgeclin").warning("%d samples", 3)
        log.tell("serving")
    assert capfd.readouterr().err == "WARNING 3 samples\nserving\n"
    after = logging.getLogger().handlers
    assert handler in after
    assert log not in after


def test_where_standard_error_is_closed_nothing_breaks(
    handler: logging.Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with Log() as log:
        logging.getLogger("edgeclin").warning("unheard")
        assert log.problem() == "standard error cannot be written (it is closed)"


@contextmanager
def unread() -> Iterator[int]:
    """Have standard error be a pipe that is full; gives its other end."""
    reader, writer = os.pipe()
    before = os.dup(2)
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    os.dup2(writer, 2)
    os.close(writer)
    try:
        with open(2, "w", closefd=False) as stream, redirect_stderr(stream):
            yield reader
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(reader)


def test_what_nobody_reads_is_left_out_and_told(handler: logging.Handler) -> None:
    with unread() as reader, Log() as log:
        for _ in range(40):
            logging.getLogger("edgeclin").warning("nobody reads this")
        assert log.problem() == "standard error is not read fast enough: 40 lines are left out"
        os.read(reader, 1 << 20)
        logging.getLogger("edgeclin").warning("this")
        assert os.read(reader, 1 << 20) == b"40 lines were left out\nWARNING this\n"
        assert log.problem() == ""


def test_the_alarm_ends_once_there_is_room_though_nothing_more_is_logged(
    handler: logging.Handler,
) -> None:
    with unread() as reader, Log() as log:
        logging.getLogger("edgeclin").warning("nobody reads this")
        assert "1 lines are left out" in log.problem()
        os.read(reader, 1 << 20)
        assert log.problem() == ""
        assert os.read(reader, 1 << 20) == b"1 lines were left out\n"


def test_a_long_line_is_written_whole(handler: logging.Handler) -> None:
    """A pipe takes what it has room for of what is longer than a page of it."""
    with unread() as reader, Log() as log:
        os.read(reader, 8192)
        long = "x" * 20_000
        log.tell(long)
        log.tell("left out")
        got = os.read(reader, 1 << 20)
        log.tell("this")
        got += os.read(reader, 1 << 20)
    assert got.lstrip(b"\0") == f"{long}\n1 lines were left out\nthis\n".encode()


def test_what_was_left_out_is_told_at_the_end(handler: logging.Handler) -> None:
    with unread() as reader:
        with Log() as log:
            log.tell("nobody reads this")
            timer = threading.Timer(0.2, os.read, (reader, 1 << 20))
            timer.start()
        timer.join()
        assert os.read(reader, 1 << 20) == b"1 lines were left out\n"


def test_after_a_full_disk_lines_are_written_again(
    handler: logging.Handler, small_disk: Path
) -> None:
    path, before = small_disk / "log", os.dup(2)
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    try:
        with open(2, "w", closefd=False) as stream, redirect_stderr(stream), Log() as log:
            log.tell("first")
            ballast = take_all_room(small_disk)
            for _ in range(3):
                log.tell("x" * 5000)
            assert "standard error cannot be written (No space left on device)" in log.problem()
            ballast.unlink()
            logging.getLogger("edgeclin").error("ALARM")
            assert log.problem() == ""
    finally:
        os.dup2(before, 2)
        os.close(before)
    lines = path.read_text().splitlines()
    assert lines[0] == "first"
    assert lines[-1] == "ERROR ALARM"
    assert "lines were left out" in lines[-2]


def test_what_a_library_in_c_writes_waits_for_nobody(handler: logging.Handler) -> None:
    """As libjpeg does of a damaged picture, from the thread that judges."""
    with unread(), Log():
        ctypes.CDLL(None).perror(b"a picture is damaged")


def test_others_that_have_the_same_standard_error_find_it_unchanged(
    handler: logging.Handler,
) -> None:
    with unread():
        other = os.dup(2)
        with Log():
            assert os.get_blocking(other)
            assert not os.get_blocking(2)
        assert os.get_blocking(2)
        os.close(other)


def test_the_last_words_before_a_crash_are_written() -> None:
    code = (
        "import logging, os; logging.basicConfig()\n"
        "from edgeclin.cli.log import Log\n"
        "with Log():\n    logging.error('the last words'); os.abort()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode < 0
    assert "the last words" in done.stderr


def test_a_command_that_fails_ends_though_nobody_reads_why(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    command = [sys.executable, "-m", "edgeclin", "inspect", str(tmp_path / "none.edgeclin")]
    process = subprocess.Popen(command, stderr=writer)
    os.close(writer)
    assert process.wait(30) == 1
    os.close(reader)


def test_run_judges_on_and_ends_though_nobody_reads_what_it_logs(
    tmp_path: Path, bundle_path: Path, key_pair: KeyPair, beats: np.ndarray
) -> None:
    config = tmp_path / "device.toml"
    config.write_text(
        f'schema = 1\nsite = "ward"\ndevice = "bed"\nbundle = "{bundle_path}"\n'
        f'[queue]\npath = "{tmp_path / "q.sqlite"}"\n'
    )
    command = [
        sys.executable, "-m", "edgeclin", "run", "--config", str(config),
        "--source", "-", "--json", "--trust", str(key_pair.public),
    ]  # fmt: skip
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    assert os.write(writer, bytes(1 << 20)) < 1 << 20, "it is full"
    os.set_blocking(writer, True)
    out = tmp_path / "out"
    with out.open("wb") as printed:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=printed, stderr=writer)
    os.close(writer)
    try:
        assert process.stdin is not None
        beat = json.dumps(beats[0].tolist()).encode()
        process.stdin.write(b"[1, NaN]\n" + beat + b"\n")
        process.stdin.flush()
        wait_until(lambda: out.read_bytes().count(b"\n") == 2, "both are judged", 30)
        rejected, answered = (json.loads(line)["result"] for line in out.read_text().splitlines())
        assert rejected["rejected"]
        assert answered["label"]
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reader)
