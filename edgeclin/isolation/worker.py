"""The process in which an engine runs: `python -m edgeclin.isolation.worker`.

It ends with the process that started it, also where the engine hangs, and not before: SIGINT and
SIGTERM, which a terminal and systemd send to all processes of a service, are for the other one.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import sys
from pathlib import Path

import msgspec
import numpy as np

from edgeclin.backends import load_backend
from edgeclin.backends.base import misshapen
from edgeclin.errors import EngineFailed, in_words
from edgeclin.isolation.board import ASKED, LOADED, REFUSED, Board, Loaded
from edgeclin.isolation.model import read_model
from edgeclin.lifeline import end_with

_MOST_WORDS = 2000


def main(
    parent: int, channel: socket.socket, memory: int, model: int, backend: str, threads: int
) -> None:
    """Load the engine and answer until the other side closes the channel or an error ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold patient data
    with contextlib.suppress(OSError):  # where memory ends, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        engine = load_backend(backend, read_model(model), threads)
        engine.run(np.zeros(engine.input.shape, np.float32))  # the first is slow, often
    except Exception as exc:
        channel.send(REFUSED + _words(exc))
        return
    loaded = Loaded(engine.input, engine.output, engine.version)
    channel.send(LOADED + msgspec.json.encode(loaded))
    board = None
    while asked := channel.recv(ASKED.size):
        own, _ = ASKED.unpack(asked)
        board = board or Board(memory, loaded)
        try:
            answer = engine.run(board.own if own else board.real)
            if np.shape(answer) != board.answer.shape:  # which NumPy would repeat to fit
                raise EngineFailed(f"it {misshapen(answer, board.answer.shape)}")
            board.answer[...] = answer
        except Exception as exc:  # whatever it was, this engine is not asked again
            channel.send(_words(exc))
            return
        channel.send(asked)


def _words(exc: Exception) -> bytes:
    return " ".join(in_words(exc).split()).encode()[:_MOST_WORDS]


if __name__ == "__main__":
    parent, channel, memory, model = map(int, sys.argv[1:5])
    main(parent, socket.socket(fileno=channel), memory, model, sys.argv[5], int(sys.argv[6]))
