"""The power fails at any moment: an urgent result that was stored is there, a routine one but for
the last moments, and nothing that nobody put.

`EDGECLIN_CUTS` and `EDGECLIN_SEED` set how many and which; `make soak` asks for thousands.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from bisect import bisect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import msgspec
import pytest

from edgeclin import wire
from edgeclin.offline_queue import OfflineQueue, damaged_queues
from edgeclin.records import Result, Tier
from faults.power_cut import Call, Disk, calls, record, traceable

Make = Callable[..., Result]
CUTS = int(os.environ.get("EDGECLIN_CUTS", "150"))
PUTS = 300
ROUTINE_S = 0.2
SLACK_S = 1.0
"""For a thread that syncs to be scheduled, under strace."""
CHILD = Path(__file__).parent / "power_child.py"


@dataclass
class Promise:
    """One result that was said to be stored."""

    tier: Tier
    position: int
    asked: bool
    at: float


@dataclass
class Promised:
    """What was said to be stored, by its number; what the cloud has receipted may be gone."""

    results: dict[int, Promise] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)

    def take(self, call: Call) -> None:
        seq, *said = call.texts[-1].decode().split()
        if said == ["gone"]:
            self.gone.add(int(seq))
        else:
            tier, position, asked = said
            self.results[int(seq)] = Promise(Tier(tier), int(position), asked == "asked", call.at)

    def kept(self, tier: Tier, until: float = inf) -> set[int]:
        """Positions that must be there, of those stored before that moment."""
        return {
            one.position
            for seq, one in self.results.items()
            if one.tier is tier and seq not in self.gone and one.at < until
        }


def rows_of(queue: OfflineQueue) -> dict[int, Result]:
    """Every result that waits, by its position, none twice and each as it was put."""
    found: dict[int, Result] = {}
    for tier in Tier:
        for row in queue.pending(tier, limit=10_000):
            if row.kind == "result":
                result = msgspec.json.decode(row.body, type=Result)
                assert result.position not in found
                assert set(result.reason) <= set(f"{result.position:04d}")
                assert result.tier is tier
                found[result.position] = result
    return found


def judge(path: Path, promised: Promised, now: float, make_result: Make) -> str:
    """Open what a cut has left; returns what was found of it: `whole` or `salvaged`."""
    with OfflineQueue(path) as queue:
        found = rows_of(queue)
        lost = promised.kept(Tier.URGENT) - found.keys()
        assert not lost, "an urgent result is lost"
        lost = promised.kept(Tier.ROUTINE, now - ROUTINE_S - SLACK_S) - found.keys()
        assert not lost, "a routine result of before the last moments is lost"
        salvaged = bool(damaged_queues(path))
        if not salvaged:
            questions = queue.questions(limit=10_000)
            asked = {one.seq for one in questions if wire.decode(one.ask, wire.Ask)}
            urgent = {
                seq
                for seq, one in promised.results.items()
                if one.asked and one.tier is Tier.URGENT
            }
            assert urgent <= asked, "what was asked about an urgent result is lost"
        new = queue.put(make_result(9_999))
        if not salvaged:
            assert new.seq > max(promised.results, default=0), "no number is given twice"
    return "salvaged" if salvaged else "whole"


@pytest.mark.skipif(not traceable(), reason="strace is not installed, or may not look here")
def test_whenever_the_power_fails_no_urgent_result_is_lost(
    tmp_path: Path, make_result: Make
) -> None:
    seed = int(os.environ.get("EDGECLIN_SEED", random.SystemRandom().randrange(10**6)))
    print(f"seed {seed}")
    chance = random.Random(seed)
    folder, log = tmp_path / "device", tmp_path / "trace"
    folder.mkdir()
    told = tmp_path / "told"
    record(
        [sys.executable, str(CHILD), str(folder / "q.sqlite"), str(told), str(PUTS), str(seed)], log
    )
    everything = list(calls(log))
    times = [call.at for call in everything]
    cuts = set(chance.choices(range(len(everything)), k=CUTS // 2))
    cuts |= {bisect(times, chance.uniform(times[0], times[-1])) - 1 for _ in range(CUTS // 2)}
    disk, promised, verdicts = Disk(folder), Promised(), Counter[str]()
    for number, call in enumerate(everything):
        if call.name == "write" and call.path == str(told):
            promised.take(call)
        else:
            disk.do(call)
        if number in cuts:
            left = tmp_path / "left"
            kept = chance.choice((0.0, 0.5, 1.0))
            disk.after_cut(left, chance, kept)
            verdicts[judge(left / "q.sqlite", promised, call.at, make_result)] += 1
            shutil.rmtree(left)
    print(dict(verdicts))
    assert len(promised.results) == PUTS
    assert verdicts.total() == len(cuts)


@pytest.mark.skipif(not traceable(), reason="strace is not installed, or may not look here")
@pytest.mark.parametrize(
    ("file", "call", "when"),
    [
        ("q.sqlite-wal", "pwrite64", "200..203"),
        ("q.sqlite-wal", "fdatasync", "8..10"),
        ("q.sqlite-wal", "pread64", "9..11"),
        ("q.sqlite", "pwrite64", "10..12"),
        ("q.sqlite", "fdatasync", "2..3"),
        ("q.sqlite", "pread64", "20..22"),
        ("q.sqlite.payloads", "fsync", "2..4"),
    ],
)
def test_a_disk_that_fails_for_a_while_costs_nothing_that_was_stored(
    tmp_path: Path, file: str, call: str, when: str
) -> None:
    queue, told, trace = tmp_path / "q.sqlite", tmp_path / "told", tmp_path / "trace"
    fault = [f"trace={call}", "-e", f"inject={call}:error=EIO:when={when}", "-o", str(trace)]
    command = [sys.executable, str(CHILD), str(queue), str(told), "90", "5"]
    subprocess.run(["strace", "-f", "-P", str(tmp_path / file), "-e", *fault, *command], check=True)
    assert trace.read_text().count("(INJECTED)") > 1
    said = [line.split() for line in told.read_text().splitlines()]
    gone = {seq for seq, *rest in said if rest == ["gone"]}
    failed = [words for words in said if words[1] == "failed"]
    stored = [words for words in said if words[1] in list(Tier)]
    assert all("q.sqlite" in " ".join(words) for words in failed), "each says where"
    assert [int(words[2]) for words in stored] == list(range(90))
    with OfflineQueue(queue) as opened:
        found = rows_of(opened)
    kept = {int(words[2]) for words in stored if words[0] not in gone}
    assert kept <= found.keys()
