"""What `make soak` fuzzes begins with examples that each decoder takes; here without a fuzzer."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="the cloud extra is not installed")

from fuzz_targets import TARGETS


@pytest.mark.parametrize("name", list(TARGETS))
def test_each_target_takes_its_examples_and_bears_what_is_none(name: str, tmp_path: Path) -> None:
    target = TARGETS[name](tmp_path)
    assert all(target.take(seed) for seed in target.seeds)
    for seed in target.seeds:
        for data in (b"", seed[:1], seed[: len(seed) // 2], seed[:-1] + b"\xff", seed * 2):
            with suppress(*target.errors):
                target.take(data)
