"""`edgeclin run --http`: how it begins, what it refuses, and how it ends."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bedsides import stored_results
from click.testing import CliRunner, Result
from conftest import ECG
from polling import wait_until

pytest.importorskip("uvicorn", reason="the http extra is not installed")
from endpoints import JSON, Answered

from edgeclin.bundle import Bundle
from edgeclin.cli import main
from edgeclin.errors import QueueFull
from edgeclin.offline_queue import OfflineQueue
from edgeclin.records import State

BEAT = json.dumps([0.1] * 140)
Write = Callable[[str], Path]


@pytest.fixture
def config(tmp_path: Path, heartbeats: Bundle) -> Write:
    def write(more: str = "") -> Path:
        path = tmp_path / "device.toml"
        path.write_text(
            f'schema = 1\nsite = "w"\ndevice = "b"\nbundle = "{heartbeats.path}"\n'
            f'[queue]\npath = "{tmp_path / "q.sqlite"}"\n{more}'
        )
        return path

    return write


@contextmanager
def running(config: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The real command, and the port at which it serves."""
    command = [sys.executable, "-m", "edgeclin", "run", "--config", str(config)]
    command += ["--allow-unsigned", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        found = None
        while found is None:
            line = process.stderr.readline()
            assert line, "it ended"
            found = re.search(r"serving http://127\.0\.0\.1:(\d+)/", line)
        yield process, int(found[1])
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def predict(port: int) -> Answered:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/predict", BEAT, {"Content-Type": JSON})
    answer = Answered(connection.getresponse())
    connection.close()
    return answer


def test_it_serves_without_any_source_and_ends_with_all_that_it_answered(
    config: Write, tmp_path: Path
) -> None:
    with running(config(), "--http", "0") as (process, port):
        answers = [predict(port) for _ in range(3)]
        assert [answer.status for answer in answers] == [200] * 3
        listener = socket.create_connection(("127.0.0.1", port), timeout=60)
        listener.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert listener.recv(15) == b"HTTP/1.1 200 OK"
        slow = socket.create_connection(("127.0.0.1", port), timeout=60)
        slow.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 2\r\n\r\n["
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        with suppress(ConnectionResetError):
            while listener.recv(65_536):
                pass
        slow.close()
        listener.close()
    with OfflineQueue(tmp_path / "q.sqlite") as queue:
        stored = stored_results(queue)
    assert [json.loads(answer.body)["result"]["position"] for answer in answers] == [0, 1, 2]
    assert [result.position for result in stored] == [0, 1, 2]


def test_it_serves_on_when_a_data_set_has_ended(config: Write) -> None:
    data = str(ECG / "data" / "validation.npz")
    with running(config("[http]\nport = 0\n"), "--source", data) as (_, port):
        wait_until(lambda: newest(port) == 150, "the whole data set")
        answer = predict(port)
        assert (answer.status, answer.json["seq"]) == (200, 151)
        wait_until(lambda: newest(port) == 151, "the sample")


def newest(port: int) -> int:
    """The sequence number of the last result that is shown, 0 before there is one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/results?limit=1")
    results = json.loads(connection.getresponse().read())["results"]
    connection.close()
    return int(results[0]["seq"]) if results else 0


def run(config: Path, *options: str) -> Result:
    command = ["run", "--config", str(config), "--allow-unsigned", *options]
    return CliRunner().invoke(main, command)


def refused(done: Result, code: int, *words: str) -> None:
    assert done.exit_code == code, done.output
    (line,) = [line for line in done.stderr.splitlines() if "warning" not in line]
    for word in words:
        assert word in line


def test_a_port_that_is_taken_is_one_sentence_with_a_remedy(config: Write, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = run(config(), "--http", port)
    refused(done, 1, f"port {port} of 127.0.0.1 cannot be used", "give another with --http")


def test_without_its_extra_it_is_one_sentence(
    config: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("edgeclin.endpoint")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    refused(run(config(), "--http", "0"), 4, "uvicorn", "pip install 'edgeclin[http]'")


def test_without_a_source_and_without_http_there_is_nothing_to_judge(config: Write) -> None:
    refused(run(config()), 1, "names no source")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('host = "0.0.0.0"\n', "set http.beyond_loopback = true if that is meant"),
        ('host = "0.0.0.0"\n', "there are no passwords"),
        ("port = 70000\n", "http.port"),
        ("password = 1\n", "password"),
        ("answer_s = 0\n", "http.answer_s"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(
    config: Write, lines: str, words: str
) -> None:
    refused(run(config(f"[http]\n{lines}")), 1, words)


def test_beyond_loopback_is_warned_of(config: Write) -> None:
    settings = '[http]\nport = 0\nhost = "0.0.0.0"\nbeyond_loopback = true\n'
    command = [sys.executable, "-m", "edgeclin", "run", "--config", str(config(settings))]
    process = subprocess.Popen([*command, "--allow-unsigned"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines: list[str] = []
    while not any("serving" in line for line in lines):
        lines.append(process.stderr.readline())
        assert lines[-1]
    lines.append(process.stderr.readline())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert "warning: other machines can reach it, without any password" in lines[-1]


def test_a_doubtful_answer_becomes_unreviewed_in_time_without_any_agent(config: Write) -> None:
    with running(config("[opinions]\ndeadline_s = 1\n[http]\nport = 0\n")) as (_, port):
        answer = predict(port)
        assert answer.json["result"]["state"] == "provisional"

        def shown() -> str:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/results")
            state: str = json.loads(connection.getresponse().read())["results"][0]["state"]
            connection.close()
            return state

        wait_until(lambda: shown() == "unreviewed", "a person must look")


def test_a_client_whose_answer_finds_no_room_is_told_and_the_program_ends_when_told_to(
    config: Write, tmp_path: Path, make_result: Callable[..., Any]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 10_000, np.uint8)
    with OfflineQueue(tmp_path / "q.sqlite", max_bytes=1 << 20) as queue, suppress(QueueFull):
        while True:
            queue.put(make_result(state=State.PROVISIONAL), noise, 1e6)
    with OfflineQueue(tmp_path / "q.sqlite", max_bytes=1 << 20) as queue, suppress(QueueFull):
        while True:
            queue.put(make_result())
    with running(config("max_mb = 1\n[http]\nport = 0\nanswer_s = 60\n")) as (process, port):
        answer = predict(port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert "its answer cannot be stored: " in answer.json["error"]
