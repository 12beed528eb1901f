"""What is said on standard error is there for who reads, and holds nothing up where nobody does."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path

import numpy as np
import pytest
from polling import wait_until

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
