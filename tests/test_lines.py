"""Lines on standard output: all of them for who reads, and nothing held up by who does not."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from polling import wait_until

from edgeclin.cli import lines, main
from edgeclin.cli.lines import Lines
from edgeclin.keys import KeyPair


@pytest.fixture
def config(tmp_path: Path, bundle_path: Path) -> Path:
    path = tmp_path / "device.toml"
    path.write_text(
        f'schema = 1\nsite = "ward"\ndevice = "bed"\nbundle = "{bundle_path}"\n'
        f'[queue]\npath = "{tmp_path / "q.sqlite"}"\n'
    )
    return path


def status(config: Path) -> str:
    return CliRunner().invoke(main, ["queue", "status", "--config", str(config)]).output


class Pipe:
    """Where lines go, `reader` to where they can be read, and who writes them."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        self._stream = open(writer, "w")  # noqa: PTH123, SIM115
        self._told: list[Lines] = []

    def lines(self, *, waits: bool) -> Lines:
        self._told.append(Lines(self._stream, "standard output", waits=waits))
        return self._told[-1]

    def close(self) -> None:
        os.close(self.reader)
        for told in self._told:
            told._thread.join(10)
        self._stream.close()


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    monkeypatch.setattr(lines, "_WAITING", 10)
    opened = Pipe()
    yield opened
    opened.close()


def never() -> bool:
    return False


def test_lines_are_given_up_when_nobody_takes_any(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lines, "_PATIENCE_S", 0.6)
    told = pipe.lines(waits=True)
    began = time.monotonic()
    for _ in range(40):
        told.say(b"x" * 5000)
        told.wait(never)
    assert 0.6 <= time.monotonic() - began < 3
    told.close(never)
    assert told.unread == "nobody has read for 0.6 s"
    assert caplog.text.count("ALARM") == 1


def test_who_waits_for_a_reader_says_so_and_hears_a_stop_at_once(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_STALE_S", 0.2)
    told, stopped = pipe.lines(waits=True), threading.Event()
    for _ in range(40):
        told.say(b"x" * 5000)
    waiting = threading.Thread(target=told.wait, args=(stopped.is_set,))
    waiting.start()
    wait_until(lambda: told.problem, "it is told")
    assert told.problem.startswith("the loop waits for the reader of standard output")
    stopped.set()
    waiting.join(5)
    assert not waiting.is_alive()
    assert not told.problem
    monkeypatch.setattr(lines, "_STOPPED_S", 0.2)
    told.close(stopped.is_set)


def test_where_nobody_can_wait_lines_are_left_out_until_the_reader_goes_on(
    pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    told = pipe.lines(waits=False)
    for _ in range(40):
        told.say(b"x" * 5000)
        told.wait(never)
    assert told.left_out > 10
    assert f"{told.left_out} lines are left out" in told.problem
    assert caplog.text.count("ALARM") == 1
    reading = threading.Thread(
        target=lambda: [*iter(lambda: os.read(pipe.reader, 9999), b"last\n")]
    )
    reading.start()
    again = f"standard output is read again; {told.left_out} lines were left out"
    wait_until(lambda: again in caplog.text, "it is read again")
    assert not told.problem
    time.sleep(0.1)  # that it comes by itself
    told.say(b"last")
    told.close(never)
    assert not told.unread
    reading.join(10)
    assert not reading.is_alive()


def test_what_was_left_out_is_told_at_the_end_where_there_was_never_a_pause(
    pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    told = pipe.lines(waits=False)
    for _ in range(40):
        told.say(b"x" * 20_000)
    reading = threading.Thread(target=lambda: [*iter(lambda: len(os.read(pipe.reader, 9999)), 0)])
    closing = threading.Thread(target=told.close, args=(never,))
    closing.start()
    wait_until(lambda: told._waiting.queue and told._waiting.queue[-1] is None, "its end is near")
    reading.start()
    closing.join(10)
    assert "standard output is at its end" in caplog.text
    counts = re.findall(r"(\d+) lines were left out", caplog.text)
    assert sum(map(int, counts)) == told.left_out > 10
    os.write(pipe._stream.fileno(), b"x")
    pipe._stream.close()
    reading.join(10)


def test_the_line_in_hand_is_not_taken_as_written(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_STOPPED_S", 0.3)
    told = pipe.lines(waits=True)
    told.say(b"x" * 100_000)
    wait_until(told._waiting.empty, "the writer has it")
    told.close(lambda: True)
    assert told.unread == "its reader was too slow for the last 1 lines"


def test_a_slow_reader_of_a_socket_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket wakes its writer only when most of it is free."""
    monkeypatch.setattr(lines, "_WAITING", 10)
    monkeypatch.setattr(lines, "_PATIENCE_S", 3.0)
    ours, theirs = socket.socketpair()
    with ours, theirs, theirs.makefile("w") as stream:
        told = Lines(stream, "standard output", waits=True)

        def read() -> None:
            while ours.recv(5001):
                time.sleep(0.2)

        reading = threading.Thread(target=read)
        reading.start()
        for _ in range(60):
            told.say(b"x" * 5000)
            told.wait(never)
        assert not told.unread
        ours.shutdown(socket.SHUT_RD)
        reading.join(10)


@pytest.mark.parametrize("signalled", [True, False])
def test_a_live_stream_is_judged_on_though_nobody_reads(
    tmp_path: Path, config: Path, key_pair: KeyPair, beats: np.ndarray, signalled: bool
) -> None:
    command = [
        sys.executable, "-m", "edgeclin", "run", "--config", str(config), "--live",
        "--source", "-", "--json", "--trust", str(key_pair.public),
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        beat = json.dumps(beats[0].tolist()).encode() + b"\n"

        def left_out() -> bool:
            assert process.stdin is not None
            for _ in range(20):
                process.stdin.write(beat)
                process.stdin.flush()
                time.sleep(0.002)
            return "lines are left out; each result is stored" in status(config)

        wait_until(left_out, "more than a pipe and what waits hold", 50)
        if signalled:
            began = time.monotonic()
            process.terminate()
            assert process.wait(20) == 1
            assert time.monotonic() - began < 10
        else:
            assert process.stdout is not None
            process.stdin.close()
            seqs = [json.loads(line)["seq"] for line in process.stdout]
            assert process.wait(20) == 1
            assert seqs == sorted(seqs)


@pytest.mark.parametrize("reader", ["pauses", "is slow", "is none"])
def test_run_json_loses_no_line_for_a_reader_that_reads(
    tmp_path: Path, config: Path, key_pair: KeyPair, beats: np.ndarray, reader: str
) -> None:
    np.savez(tmp_path / "many.npz", X=beats[:400])
    command = [
        sys.executable, "-m", "edgeclin", "run", "--config", str(config),
        "--source", str(tmp_path / "many.npz"), "--json", "--trust", str(key_pair.public),
    ]  # fmt: skip
    if reader == "is none":
        shell = shlex.join(command) + " >&-"
        done = subprocess.run(shell, shell=True, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert "ALARM: standard output cannot be written (it is closed)" in done.stderr
    else:
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            if reader == "pauses":
                time.sleep(7)
            lines = []
            for line in process.stdout:
                lines.append(line)
                time.sleep(0.01 if reader == "is slow" else 0)
            assert process.wait(30) == 0
        assert [json.loads(line)["seq"] for line in lines] == list(range(1, 401))
    assert "last sequence number  400" in status(config)


def test_run_json_judges_on_and_ends_when_its_reader_stops_reading(
    tmp_path: Path, config: Path, key_pair: KeyPair, beats: np.ndarray
) -> None:
    np.savez(tmp_path / "many.npz", X=beats[:400])
    command = [
        sys.executable, "-m", "edgeclin", "run", "--config", str(config),
        "--source", str(tmp_path / "many.npz"), "--json", "--trust", str(key_pair.public),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_until(lambda: "last sequence number  400" in status(config), "all are stored", 60)
        process.terminate()
        assert process.wait(20) == 1
        assert process.stderr is not None
        assert b"(its reader was too slow for the last " in process.stderr.read()
    assert "last sequence number  400" in status(config)


@pytest.mark.parametrize("where", ["a pipe that nobody reads", "a full disk"])
def test_run_json_judges_on_when_its_output_cannot_be_written(
    tmp_path: Path, config: Path, key_pair: KeyPair, beats: np.ndarray, where: str
) -> None:
    np.savez(tmp_path / "many.npz", X=beats[:200])
    command = [
        sys.executable, "-m", "edgeclin", "run", "--config", str(config),
        "--source", str(tmp_path / "many.npz"), "--json", "--trust", str(key_pair.public),
    ]  # fmt: skip
    with Path("/dev/full").open("wb") as full:
        piped = where == "a pipe that nobody reads"
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE if piped else full, stderr=subprocess.PIPE, text=True
        )
        if process.stdout is not None:
            assert json.loads(process.stdout.readline())["seq"] == 1
            process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        process.wait(60)
    assert said.count("ALARM: standard output cannot be written") == 1
    assert process.returncode == 1
    assert "last sequence number  200" in status(config)
