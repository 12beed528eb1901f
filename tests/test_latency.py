"""Engines side by side on this machine."""

from __future__ import annotations

import numpy as np
import pytest

from edgeclin.convert import latency
from edgeclin.errors import BadInput

SAMPLE = np.zeros((4, 1), np.float32)


class Counting:
    """A backend that writes down who ran."""

    version = "counting"

    def __init__(self, name: str, runs: list[str]) -> None:
        self._name, self._runs = name, runs

    def run(self, sample: np.ndarray) -> np.ndarray:
        if sample.shape != SAMPLE.shape:
            raise BadInput("another shape")
        self._runs.append(self._name)
        return sample

    def close(self) -> None:
        self._runs.append(f"{self._name} closed")


def test_engines_run_in_turn_and_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    monkeypatch.setattr(latency, "load_backend", lambda _, data: Counting(data.decode(), runs))
    took = latency.measure("any", {"one": b"one", "other": b"other"}, SAMPLE)
    assert runs[-2:] == ["one closed", "other closed"]
    turns = runs[:-2]
    assert turns == ["one", "other"] * (len(turns) // 2)
    assert 10 <= took.runs < len(turns) // 2, "the first ones warm up"
    assert set(took.medians) == {"one", "other"}
    assert all(median >= 0 for median in took.medians.values())
