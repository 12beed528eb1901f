"""What is said of calibration and validation data, and when nothing is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeclin.convert.cautions import of_calibration, of_gates, of_validation
from edgeclin.datasets import Dataset
from edgeclin.description import Metric
from edgeclin.gates import Margins
from edgeclin.gates.margins import DecisionMargins


def dataset(count: int, **facts: Any) -> Dataset:
    samples = np.random.default_rng(count).standard_normal((count, 4))
    return Dataset(Path("data"), samples, **facts)


def said(calibration: Dataset, validation: Dataset, **facts: Any) -> list[str]:
    known = {"repeats": 0, "copies": 0, "outside": 0.0, "instability": 0.0, **facts}
    return [
        *of_calibration(calibration, validation, **known),
        *of_validation(calibration, validation),
    ]


def test_nothing_is_said_of_data_that_suffice() -> None:
    calibration = dataset(600, labels=("a", "b") * 300, groups=("p1",) * 600)
    validation = dataset(200, labels=("a", "b") * 100, groups=("p2",) * 200)
    assert said(calibration, validation, outside=0.0005, instability=0.1) == []


@pytest.mark.parametrize(
    ("calibration", "validation", "facts", "words"),
    [
        (dataset(499), dataset(100), {}, "499 calibration samples; the usual guidance"),
        (dataset(500), dataset(99), {}, "99 validation samples; fewer than 100"),
        (dataset(500), dataset(100), {"outside": 0.02}, "2.0% of the validation values"),
        (dataset(500), dataset(100), {"instability": 0.5}, "disagree by 50% about a range"),
        (
            dataset(500, labels=("a",) * 500),
            dataset(100, labels=("a", "b") * 50),
            {},
            "calibration has no sample of b, validation has",
        ),
        (
            dataset(500, groups=("p1", "p2") * 250),
            dataset(100, groups=("p2", "p3") * 50),
            {},
            "share 1 groups, such as 'p2'",
        ),
        (dataset(500), dataset(100), {"repeats": 3}, "3 calibration samples are exact repeats"),
        (dataset(500), dataset(100), {"copies": 4}, "4 calibration samples are nearly copies"),
    ],
    ids=["few", "few held out", "outside", "unstable", "a class", "shared", "repeats", "copies"],
)
def test_each_doubt_is_said_alone(
    calibration: Dataset, validation: Dataset, facts: dict[str, float], words: str
) -> None:
    (only,) = said(calibration, validation, **facts)
    assert words in only


def test_what_the_gates_could_not_know_is_said() -> None:
    expected = Metric(expected=0.9)
    assert list(of_gates(Margins(), expected, labelled=True)) == []
    (unknown,) = of_gates(Margins(), Metric(), labelled=True)
    assert "metric.expected" in unknown
    (unlabelled,) = of_gates(Margins(), expected, labelled=False)
    assert "no labels" in unlabelled


def test_a_limit_other_than_its_default_is_said() -> None:
    loose = Margins(decisions=DecisionMargins(agreement=0.5))
    (said,) = of_gates(loose, Metric(expected=0.9), labelled=True)
    assert said == "gates.toml sets decisions.agreement to 0.5; the default is 0.95"
