"""What is said on standard error is there for who reads, and holds nothing up where nobody does."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from polling import wait_until

from edgeclin.cli import lines
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


def test_what_nobody_reads_is_left_out_and_told(
    handler: logging.Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_WAITING", 10)
    monkeypatch.setattr(lines, "_STOPPED_S", 0.2)
    reader, writer = os.pipe()
    with open(writer, "w") as stream:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", stream)
        with Log() as log:
            for _ in range(40):
                logging.getLogger("edgeclin").warning("x" * 5000)
            assert "lines are left out" in log.problem()
        os.close(reader)
        log._lines._thread.join(10)


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
