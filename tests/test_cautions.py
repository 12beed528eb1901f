"""What is said of calibration and validation data, and when nothing is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from conftest import ECG

from edgeclin.convert.cautions import (
    of_calibration,
    of_gates,
    of_judging,
    of_labels,
    of_size,
    of_validation,
    shared_groups,
)
from edgeclin.convert.judging import Judge
from edgeclin.datasets import Dataset
from edgeclin.description import Metric, Output, load_description
from edgeclin.gates import Margins
from edgeclin.gates.margins import DecisionMargins
from edgeclin.profiles import load_profile


def dataset(count: int, **facts: Any) -> Dataset:
    samples = np.random.default_rng(count).standard_normal((count, 4))
    facts.setdefault("groups", patients(count, 50, f"of {count}: "))
    return Dataset(Path("data"), samples, **facts)


def said(calibration: Dataset, validation: Dataset, **facts: Any) -> list[str]:
    repeats = facts.pop("validation_repeats", 0)
    known = {"repeats": 0, "copies": 0, "outside": 0.0, "instability": 0.0, **facts}
    return [
        *of_calibration(calibration, validation, **known),
        *of_validation(calibration, validation, repeats),
    ]


def patients(count: int, of: int, name: str) -> tuple[str, ...]:
    return tuple(f"{name}{index % of}" for index in range(count))


def test_nothing_is_said_of_data_that_suffice() -> None:
    calibration = dataset(600, labels=("a", "b") * 300, groups=patients(600, 50, "p"))
    validation = dataset(200, labels=("a", "b") * 100, groups=patients(200, 30, "q"))
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
            dataset(500, groups=patients(500, 50, "p")),
            dataset(100, groups=("P7 ", *patients(99, 30, "q"))),
            {},
            "share 1 groups, such as 'P7 '",
        ),
        (
            dataset(500, groups=patients(500, 50, "p")),
            dataset(100, groups=patients(100, 29, "q")),
            {},
            "are of 29 groups: other patients may fare otherwise",
        ),
        (
            dataset(500, groups=None),
            dataset(100, groups=None, recordings=patients(100, 2, "r")),
            {},
            "are of 2 recordings: other patients",
        ),
        (
            dataset(500, groups=patients(500, 50, "p")),
            dataset(100, groups=None),
            {},
            "only data says whose its samples are (group)",
        ),
        (
            dataset(500, groups=None),
            dataset(100, groups=None),
            {},
            "nobody says whose the samples are (`group`)",
        ),
        (
            dataset(500, unread=("subject", "filename")),
            dataset(100),
            {},
            "of data nobody reads `subject`, `filename`; patients or subjects are `group`",
        ),
        (dataset(500), dataset(100), {"validation_repeats": 2}, "2 validation samples are exact"),
        (dataset(500), dataset(100), {"repeats": 3}, "3 calibration samples are exact repeats"),
        (dataset(500), dataset(100), {"copies": 4}, "4 calibration samples are nearly copies"),
    ],
    ids=[
        "few",
        "few held out",
        "outside",
        "unstable",
        "a class",
        "shared",
        "few groups",
        "few recordings",
        "groups in one",
        "groups in none",
        "unread",
        "repeats held out",
        "repeats",
        "copies",
    ],
)
def test_each_doubt_is_said_alone(
    calibration: Dataset, validation: Dataset, facts: dict[str, float], words: str
) -> None:
    (only,) = said(calibration, validation, **facts)
    assert words in only


def test_labels_that_are_numbers_are_shown_with_the_names_that_nobody_checked() -> None:
    names = ("VA", "not VA")
    assert list(of_labels(dataset(4), names)) == []
    assert list(of_labels(dataset(4, labels=("VA", "not VA") * 2), names)) == []
    assert list(of_labels(dataset(2, labels=("1", "0")), ("1", "0"))) == []
    (said,) = of_labels(dataset(4, labels=("0", "1", "0", "0")), names)
    first, *table = said.splitlines()
    assert "no gate saw whether output.labels is in the order of the model's outputs" in first
    assert table == ["  0 is VA (n=3),", "  1 is not VA (n=1)"]
    many = tuple(map(str, range(12)))
    (said,) = of_labels(dataset(12, labels=many), tuple("abcdefghijkl"))
    assert said.endswith("  7 is h (n=1),\n  and 4 more")


def test_what_the_gates_could_not_know_is_said() -> None:
    expected = Metric(expected=0.9)
    assert list(of_gates(Margins(), expected, labelled=True)) == []
    (unknown,) = of_gates(Margins(), Metric(), labelled=True)
    assert "metric.expected" in unknown
    (unlabelled,) = of_gates(Margins(), expected, labelled=False)
    assert "no labels" in unlabelled


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("7", "7.0", True),
        ("07", "7", True),
        ("p3", " P3", True),
        ("7", "70", False),
        ("7.5", "7", False),
        ("p3", "p4", False),
    ],
)
def test_a_patient_is_known_however_a_file_spells_it(one: str, other: str, same: bool) -> None:
    shared = shared_groups(dataset(1, groups=(one,)), dataset(1, groups=(other,)))
    assert shared == ([other] if same else [])


def test_a_margin_above_the_default_is_said() -> None:
    (said,) = of_gates(Margins(), Metric(margin=0.5, expected=0.9), labelled=True)
    assert said == "model.toml sets metric.margin to 0.5; the default is 0.02"
    assert not list(of_gates(Margins(), Metric(margin=0.01, expected=0.9), labelled=True))


def judged(n: int, rare: int = 20) -> tuple[Judge, np.ndarray]:
    """A judge of n samples, the last of them rare, and outputs that are right about all."""
    description = load_description(ECG / "edge.toml")
    output = Output(activation="none", labels=("common", "rare"))
    description = msgspec.structs.replace(description, output=output)
    truth = np.array([0] * (n - rare) + [1] * rare)
    outputs = np.eye(2)[truth] * 5
    return Judge(description, Margins(), outputs, truth[:, np.newaxis], None), outputs


def doubts(n: int, rare: int = 20) -> list[str]:
    judge, outputs = judged(n, rare)
    return list(of_judging(judge, outputs, judge.confidence(outputs)))


def test_what_few_validation_samples_cannot_rule_out_is_said() -> None:
    assert doubts(400) == []
    (few,) = doubts(100)
    assert few.startswith("on 100 validation samples a true loss of up to 2.7% cannot be")
    assert few.endswith("the margin is 2.0%, and takes more samples to prove")


def test_a_label_that_is_too_rare_to_be_judged_is_named() -> None:
    (rare,) = doubts(400, rare=9)
    assert rare.endswith("was not judged alone: rare (9)")


def test_a_bundle_that_will_never_be_sure_is_called_that() -> None:
    judge, outputs = judged(400)
    wrong = np.where(np.arange(400)[:, np.newaxis] % 3 == 0, outputs[:, ::-1], outputs)
    *_, said = of_judging(judge, wrong, judge.confidence(wrong))
    assert "EVERY answer of this bundle will be in doubt" in said


def test_an_engine_that_gains_nothing_or_is_too_large_is_said(tmp_path: Path) -> None:
    engine, model = tmp_path / "engine", tmp_path / "model"
    engine.write_bytes(bytes(2_000_000))
    model.write_bytes(bytes(1_900_000))
    profile = load_profile("cpu-x86_64")
    (larger,) = of_size(engine, model, profile)
    assert larger.endswith("no smaller than its float form: 2,000,000 bytes against 1,900,000")
    model.write_bytes(bytes(4_000_000))
    assert not list(of_size(engine, model, profile))
    small = msgspec.structs.replace(profile.limits, max_model_mb=1.5)
    (most,) = of_size(engine, model, msgspec.structs.replace(profile, limits=small))
    assert most == "the engine has 2.0 MB, the profile cpu-x86_64 allows 1.5 MB"


def test_a_limit_other_than_its_default_is_said() -> None:
    loose = Margins(decisions=DecisionMargins(agreement=0.5))
    (said,) = of_gates(loose, Metric(expected=0.9), labelled=True)
    assert said == "gates.toml sets decisions.agreement to 0.5; the default is 0.95"
