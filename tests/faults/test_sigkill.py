"""SIGKILL of any process of the whole way, at random moments: nothing lost, nothing twice.

`EDGECLIN_KILLS` and `EDGECLIN_SEED` set how many and which; `make soak` asks for a thousand.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from broker import find_mosquitto

from edgeclin.keys import KeyPair

pytest.importorskip("pyarrow", reason="the cloud extra is not installed")

from faults.ledger import judge
from faults.scene import ROLES, Scene

KILLS = int(os.environ.get("EDGECLIN_KILLS", "36"))
RATE = 150
FRESH = 50


@pytest.fixture
def scene(
    tmp_path: Path, bundle_path: Path, key_pair: KeyPair, beats: np.ndarray
) -> Iterator[Scene]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    samples = np.resize(beats, (max(len(beats), KILLS * RATE), *beats.shape[1:]))
    made = Scene(tmp_path, bundle_path, key_pair.public.parent, samples, RATE)
    try:
        yield made
    finally:
        made.close()


def test_nothing_is_lost_or_stored_twice_whoever_is_killed(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("EDGECLIN_SEED", random.SystemRandom().randrange(10**6)))
    print(f"seed {seed}")
    for role in ("ingest", "sync", "run"):
        scene.start(role)
    scene.wait_for_fresh(FRESH)
    with capsys.disabled():
        scene.kill_at_random(KILLS, random.Random(seed), progress=KILLS > 100)
    scene.wait_for_fresh(FRESH)
    scene.finish()
    verdict = judge(scene.ledger.entries(), scene.store, scene.issued, scene.expected())
    assert verdict.problems == {}
    assert len(verdict.stored) - len(verdict.acknowledged) <= scene.killed["run"]
    assert all(scene.killed[role] >= KILLS // len(ROLES) for role in ROLES)
    assert scene.spy.resent, "and rows were sent again"
