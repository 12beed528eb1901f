"""A queue whose tables contradict each other is set aside, and what it holds is delivered."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgeclin.cli import main
from edgeclin.offline_queue import OfflineQueue
from edgeclin.records import Result, State, Tier

MakeResult = Callable[..., Result]

DAMAGES = {
    "the key of the epoch": "UPDATE meta SET key = 'epoci'",
    "the epoch": "UPDATE meta SET value = replace(value, '-', '/')",
    "no epoch": "DELETE FROM meta",
    "no table of epochs": "DROP TABLE meta",
    "no counts": "DELETE FROM usage",
    "no table of what is set aside": "DROP TABLE set_aside",
    "no table of keys": "DROP TABLE sealed",
    "no table of positions": "DROP TABLE positions",
    "a count of no tier": "UPDATE usage SET tier = 7 WHERE tier = 3",
    "a wrong count": "UPDATE usage SET count = count + 64 WHERE tier = 1",
    "a wrong size": "UPDATE usage SET bytes = bytes + (1 << 40) WHERE tier = 1",
    "a wrong count of questions": "UPDATE usage SET count = 0 WHERE tier = 3",
    "a row of no tier": "UPDATE rows SET tier = 3 WHERE seq = 1",
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_what_waits_is_delivered_though_the_tables_contradict_each_other(
    tmp_path: Path, make_result: MakeResult, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "q"
    with OfflineQueue(path) as queue:
        ids = {queue.put(make_result(at, tier=tuple(Tier)[at % 3])).id for at in range(20)}
        ids.add(queue.put(make_result(20, state=State.PROVISIONAL), np.zeros(9)).id)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(DAMAGES[damage])
    config = tmp_path / "device.toml"
    config.write_text(f'schema = 1\nsite = "s"\ndevice = "d"\n[queue]\npath = "{path}"\n')
    said = CliRunner().invoke(main, ["queue", "status", "--config", str(config)])
    assert said.exception is None or isinstance(said.exception, SystemExit)
    assert said.exit_code in (0, 4), said.output
    with caplog.at_level(logging.ERROR), OfflineQueue(path) as queue:
        rows = [row for tier in Tier for row in queue.pending(tier, limit=100)]
        assert ids == {row.id for row in rows if row.kind == "result"}
        assert queue.usage()["questions"].count == 0
    assert "is corrupt" in caplog.text
