"""A threshold is chosen for a stated risk, on samples that calibration has not seen."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from scipy import stats

from edgeclin import drift
from edgeclin.answered import share_of
from edgeclin.bundle import Bundle, write_bundle
from edgeclin.cli import main
from edgeclin.datasets import Dataset
from edgeclin.description import Doubt, Task, Thresholds
from edgeclin.errors import BadFile, EdgeclinError, EngineFailed, EngineUnavailable
from edgeclin.guards import fit_inputs
from edgeclin.keys import KeyPair
from edgeclin.risk import FILE, NoThreshold, measure_risk, rewritten
from edgeclin.runtime import Runtime
from edgeclin.verify import measure

LABELS = ("normal", "R-on-T PVC", "PVC", "supraventricular", "unclassified")
FINDINGS = {"R-on-T PVC", "PVC", "supraventricular"}


@pytest.fixture
def judged(bundle: Bundle, beats: np.ndarray) -> Dataset:
    """300 beats with what the engine says of each, but every twentieth is something else."""
    runtime = Runtime(bundle)
    samples = np.asarray(beats[:300])
    said = [LABELS.index(str(runtime.predict(beat).label)) for beat in samples]
    truth = [(at + 1) % 5 if index % 20 == 0 else at for index, at in enumerate(said)]
    groups = tuple(f"p{index % 3}" for index in range(len(samples)))
    return Dataset(Path("d.npz"), samples, tuple(LABELS[at] for at in truth), groups)


def test_figures_are_those_of_a_plain_count(bundle: Bundle, judged: Dataset) -> None:
    risk = measure_risk(Runtime(bundle), judged, Doubt(max_error=0.2))
    manifest = msgspec.structs.replace(bundle.manifest, confidence=risk.confidence)
    bundle.manifest = manifest
    answers = [Runtime(bundle).predict(beat) for beat in judged]
    sure = np.array([answer.state.value == "final" for answer in answers])
    wrong = np.array([a.label != t for a, t in zip(answers, judged.labels or (), strict=True)])
    ill = np.array([label in FINDINGS for label in judged.labels or ()])
    found = np.array([answer.label in FINDINGS for answer in answers])
    assert risk.overall.coverage.value == pytest.approx(sure.mean())
    assert risk.overall.error.value == pytest.approx(wrong[sure].mean())
    assert risk.overall.sensitivity is not None
    assert risk.overall.sensitivity.value == pytest.approx(found[ill].mean())
    assert risk.overall.missed is not None
    assert risk.overall.missed.value == pytest.approx((sure & ~found)[ill].mean())
    known = stats.binomtest(int(wrong[sure].sum()), int(sure.sum())).proportion_ci(method="exact")
    assert risk.overall.error.low <= known.low
    assert risk.overall.error.high >= known.high
    first = np.array(judged.groups) == "p0"
    alone = stats.binomtest(int(wrong[sure & first].sum()), int((sure & first).sum()))
    around = risk.groups[0].error
    assert (around.low, around.high) == pytest.approx(tuple(alone.proportion_ci(method="exact")))
    assert [part.name for part in risk.groups] == ["p0", "p1", "p2"]
    assert sum(part.coverage.n for part in risk.groups) == 300


def test_the_curve_ends_with_every_answer(bundle: Bundle, judged: Dataset) -> None:
    curve = measure_risk(Runtime(bundle), judged, Doubt(max_error=0.2)).curve
    assert curve[-1].coverage == 1.0
    assert curve[-1].error == pytest.approx(15 / 300)
    assert [point.coverage for point in curve] == sorted(point.coverage for point in curve)
    assert all(point.error <= point.error_bound for point in curve)


def test_samples_that_calibrated_the_engine_are_refused(
    tmp_path: Path, bundle: Bundle, judged: Dataset
) -> None:
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    record: dict[str, Any] = {
        "dataset": "d", "samples": 1, "sample_sha256": judged.hashes()[:3],
        "annotations_sha256": "", "consumed": 1, "consumed_sha256": "", "method": "mse",
        "method_errors": {}, "instability": 0.0, "input_low": 0.0, "input_high": 1.0,
        "validation_outside": 0.0, "labels": {}, "groups": None, "validation": "v",
        "validation_samples": 1, "validation_sha256": "", "validation_annotations_sha256": "",
        "left_out": 0, "warnings": [],
    }  # fmt: skip
    files["calibration.json"] = json.dumps(record).encode()
    path = write_bundle(tmp_path / "x.edgeclin", bundle.manifest, files, None)
    seen = Runtime(Bundle.open(path, allow_unsigned=True))
    with pytest.raises(BadFile, match="holds 3 samples that calibrated the engine"):
        measure_risk(seen, judged, Doubt(max_error=0.1))


def test_without_labels_there_is_no_risk(bundle: Bundle, judged: Dataset) -> None:
    with pytest.raises(BadFile, match="has no labels"):
        measure_risk(Runtime(bundle), Dataset(judged.path, judged.samples), Doubt())


def test_a_risk_that_no_threshold_keeps_writes_nothing(bundle: Bundle, judged: Dataset) -> None:
    risk = measure_risk(Runtime(bundle), judged, Doubt(max_error=0.001))
    with pytest.raises(NoThreshold, match=r"keeps 0\.10% of errors .* on 300 samples of d\.npz"):
        rewritten(bundle, risk)


def test_each_label_is_reported_by_its_own_threshold(bundle: Bundle, judged: Dataset) -> None:
    risk = measure_risk(Runtime(bundle), judged, Doubt(max_error=0.3, thresholds="per-class"))
    own = risk.confidence.by_label
    assert [answers.label for answers in risk.answered] == list(LABELS)
    assert sum(answers.coverage.n for answers in risk.answered) == 300
    for threshold, answers in zip(own, risk.answered, strict=True):
        assert answers.coverage.value == pytest.approx(threshold.coverage)
        assert answers.error.value == pytest.approx(threshold.error)
        assert not answers.curve or answers.curve[-1].coverage == 1.0
    silent = [entry.label for entry in own if not entry.coverage]
    assert silent
    assert silent != list(LABELS)
    for label in silent:
        assert any(repr(label) in warning for warning in risk.warnings)
    bundle.manifest = msgspec.structs.replace(bundle.manifest, confidence=risk.confidence)
    said = [Runtime(bundle).predict(beat) for beat in judged]
    sure = {str(answer.label) for answer in said if answer.state.value == "final"}
    assert sure == set(LABELS) - set(silent)


def test_what_is_unlike_calibration_is_in_doubt_and_chooses_nothing(
    bundle: Bundle, judged: Dataset
) -> None:
    """Twenty beats are a hundred times too large; the engine's preprocessing hides it."""
    limits, _ = fit_inputs(list(judged), list(judged), bundle.manifest.inputs[0])
    bundle.manifest = msgspec.structs.replace(bundle.manifest, guard=limits)
    samples = np.stack(list(judged)).astype(float)
    samples[10:30] *= 100
    samples[40] = 0.0
    risk = measure_risk(
        Runtime(bundle), Dataset(judged.path, samples, judged.labels), Doubt(max_error=0.3)
    )
    assert (risk.samples, risk.unlike, risk.rejected) == (300, 20, 1)
    assert risk.confidence.samples == 279
    assert risk.curve[-1].coverage == pytest.approx(279 / 300)
    assert risk.overall.coverage.value == pytest.approx(risk.confidence.coverage * 279 / 300)
    with pytest.raises(BadFile, match="unlike those of calibration"):
        measure_risk(
            Runtime(bundle), Dataset(judged.path, samples[10:30], judged.labels[10:30]), Doubt()
        )


def test_what_nothing_is_found_in_is_in_doubt_and_chooses_nothing(
    bundle: Bundle, judged: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every third one the engine says the same of all labels."""
    runtime = Runtime(bundle)
    run, calls = runtime.backend.run, itertools.count()
    monkeypatch.setattr(runtime.backend, "run", lambda sample: run(sample) * (next(calls) % 3 > 0))
    risk = measure_risk(runtime, judged, Doubt(max_error=0.3))
    assert (risk.samples, risk.empty, risk.confidence.samples) == (300, 100, 200)
    assert risk.overall.coverage.value == pytest.approx(risk.confidence.coverage * 2 / 3)
    monkeypatch.setattr(runtime.backend, "run", lambda _: np.zeros(len(LABELS)))
    with pytest.raises(BadFile, match="nothing found"):
        measure_risk(runtime, judged, Doubt(max_error=0.3))


def test_an_engine_that_gives_no_numbers_is_not_taken_for_doubt(
    bundle: Bundle, judged: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(bundle)
    run, calls = runtime.backend.run, itertools.count()
    monkeypatch.setattr(
        runtime.backend, "run", lambda x: run(x) * (1 if next(calls) % 10 else math.nan)
    )
    with pytest.raises(EngineFailed, match="not finite"):
        measure_risk(runtime, judged, Doubt(max_error=0.3))


@pytest.mark.parametrize("thresholds", ["one", "per-class"])
def test_samples_that_break_no_promise_but_are_few_prove_nothing(
    bundle: Bundle, judged: Dataset, thresholds: Thresholds
) -> None:
    doubt = Doubt(max_error=0.3, thresholds=thresholds)
    confidence = measure_risk(Runtime(bundle), judged, doubt).confidence
    bundle.manifest = msgspec.structs.replace(bundle.manifest, confidence=confidence)
    few = measure(Runtime(bundle), judged.subset([1, 2]))
    assert few.error_bound > few.max_error
    assert (few.outcome, few.broken) == ("too few to tell", ())
    assert measure(Runtime(bundle), judged).outcome == "holds"


def test_where_every_answer_is_in_doubt_no_promise_is_proven(
    bundle: Bundle, judged: Dataset
) -> None:
    doubt = Doubt(max_error=0.3, thresholds="per-class")
    found = measure_risk(Runtime(bundle), judged, doubt).confidence
    none = tuple(msgspec.structs.replace(own, threshold=1.01) for own in found.by_label)
    confidence = msgspec.structs.replace(found, by_label=none, threshold=1.01)
    bundle.manifest = msgspec.structs.replace(bundle.manifest, confidence=confidence)
    assert measure(Runtime(bundle), judged).outcome == "too few to tell"


def test_every_label_must_hold_its_promise_for_a_bundle_to_verify(
    bundle: Bundle, judged: Dataset
) -> None:
    """All answers together err as often as before; those with one label more often."""
    doubt = Doubt(max_error=0.3, thresholds="per-class")
    confidence = measure_risk(Runtime(bundle), judged, doubt).confidence
    bundle.manifest = msgspec.structs.replace(bundle.manifest, confidence=confidence)
    assert measure(Runtime(bundle), judged).outcome == "holds"
    tight = tuple(
        msgspec.structs.replace(own, max_error=0.001 if own.coverage else 0.9)
        for own in confidence.by_label
    )
    changed = msgspec.structs.replace(confidence, by_label=tight, max_error=0.9)
    bundle.manifest = msgspec.structs.replace(bundle.manifest, confidence=changed)
    assert measure(Runtime(bundle), judged).outcome == "broken"
    (broken, *_) = measure(Runtime(bundle), judged).broken
    assert re.fullmatch(
        r"\d+\.\d\d% of the \d+ confident answers '.*' are wrong, more than the 0\.10% that the "
        "bundle promises",
        broken,
    )


def test_few_patients_are_warned_of(bundle: Bundle, judged: Dataset) -> None:
    risk = measure_risk(Runtime(bundle), judged, Doubt(max_error=0.2))
    assert any("of 3 patients or subjects" in warning for warning in risk.warnings)
    alone = Dataset(judged.path, judged.samples, judged.labels)
    said = measure_risk(Runtime(bundle), alone, Doubt(max_error=0.2)).warnings
    assert said[-1].startswith("nobody says whose the samples are")
    assert "patients or subjects:" not in " ".join(said)


def test_findings_that_are_rejected_count_as_not_found(bundle: Bundle, judged: Dataset) -> None:
    samples = np.stack(list(judged))
    ill = np.flatnonzero(np.isin(judged.labels, sorted(FINDINGS)))
    samples[ill[::2]] = np.nan
    before = measure_risk(Runtime(bundle), judged, Doubt(max_error=0.3))
    broken = Dataset(judged.path, samples, judged.labels, judged.groups)
    risk = measure_risk(Runtime(bundle), broken, Doubt(max_error=0.3))
    assert risk.rejected == len(ill[::2])
    assert risk.overall.coverage.n == 300
    assert risk.overall.sensitivity is not None
    assert before.overall.sensitivity is not None
    assert risk.overall.sensitivity.n == before.overall.sensitivity.n == len(ill)
    assert risk.overall.sensitivity.value <= 0.5
    assert f"{len(ill[::2])} of 300 samples are rejected" in " ".join(risk.warnings)


def test_repeats_are_no_evidence(bundle: Bundle, judged: Dataset) -> None:
    once = measure_risk(Runtime(bundle), judged, Doubt(max_error=0.2))
    three = judged.subset([*range(300)] * 3)
    risk = measure_risk(Runtime(bundle), three, Doubt(max_error=0.2))
    assert (risk.samples, risk.repeats) == (300, 600)
    assert (risk.confidence, risk.overall) == (once.confidence, once.overall)
    assert "600 of 900 samples are there already" in " ".join(risk.warnings)


def test_a_label_that_no_sample_has_is_warned_of(bundle: Bundle, judged: Dataset) -> None:
    labels = judged.labels or ()
    common = max(LABELS, key=labels.count)
    only = judged.subset([at for at, label in enumerate(labels) if label == common])
    said = " ".join(measure_risk(Runtime(bundle), only, Doubt(max_error=0.5)).warnings)
    missing = [label for label in LABELS if f"no sample that can be judged is {label!r}: " in said]
    assert missing == [label for label in LABELS if label != common]


def test_a_task_that_is_not_answered_has_no_risk(bundle: Bundle, judged: Dataset) -> None:
    bundle.manifest = msgspec.structs.replace(bundle.manifest, task=Task.SEGMENTATION)
    with pytest.raises(EngineUnavailable, match="the bundle's task is segmentation"):
        measure_risk(Runtime(bundle), judged, Doubt())


def test_who_was_left_out_is_judged_by_the_others(bundle: Bundle, judged: Dataset) -> None:
    """The engine is right but for one in four about p2: on p0 and p1 any confidence is enough."""
    runtime = Runtime(bundle)
    said = [LABELS.index(str(runtime.predict(beat).label)) for beat in judged]
    wrong = [index % 12 == 2 for index in range(300)]
    truth = [LABELS[(at + off) % 5] for at, off in zip(said, wrong, strict=True)]
    data = Dataset(judged.path, judged.samples, tuple(truth), judged.groups)
    risk = measure_risk(runtime, data, Doubt(max_error=0.2))
    left = risk.left_out
    assert left is not None
    assert (left.worst, left.worst_error.value, left.worst_error.n) == ("p2", 0.25, 100)
    assert left.coverage.n == 300
    assert left.error.value == pytest.approx(25 / left.error.n)
    (said,) = [warning for warning in risk.warnings if "chosen without each" in warning]
    assert "these people are too few, or differ too much" in said
    risk = measure_risk(runtime, data, Doubt(max_error=0.3))
    assert not any("chosen without each" in warning for warning in risk.warnings)
    strict = measure_risk(runtime, data, Doubt(max_error=0.05))
    assert strict.confidence.coverage < 0.6
    assert any("25.00% about p2; 5.00% is allowed" in warning for warning in strict.warnings)
    own = measure_risk(runtime, data, Doubt(max_error=0.2, thresholds="per-class")).left_out
    assert own is not None
    assert sum(share.n for share in own.labels) == own.error.n
    alone = Dataset(judged.path, judged.samples, tuple(truth))
    assert measure_risk(runtime, alone, Doubt(max_error=0.1)).left_out is None


def test_an_interval_is_as_wide_as_people_differ() -> None:
    """40 people, of whom each has 30 answers and an own share of wrong ones, 5 % of all."""
    chance = np.random.default_rng(4)
    whose = np.repeat(np.array([f"p{index}" for index in range(40)]), 30)
    everyone = np.ones(len(whose), bool)
    held = {"people": 0, "samples": 0}
    for _ in range(100):
        own = np.repeat(chance.beta(0.25, 4.75, 40), 30)
        wrong = chance.random(len(whose)) < own
        people, samples = share_of(wrong, everyone, whose), share_of(wrong, everyone)
        held["people"] += people.low <= 0.05 <= people.high
        held["samples"] += samples.low <= 0.05 <= samples.high
    assert held["people"] >= 85
    assert held["samples"] <= 70


def test_drift_is_held_against_confidence_by_the_new_temperature(
    bundle: Bundle, judged: Dataset, tmp_path: Path
) -> None:
    old = drift.Reference(
        1, 9, (drift.Histogram("x", (9,)), drift.Histogram("confidence", (9, 0), (2.0,)))
    )
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    files[drift.FILE] = msgspec.json.encode(old)
    opened = Bundle.open(
        write_bundle(tmp_path / "x.edgeclin", bundle.manifest, files, None), allow_unsigned=True
    )
    risk = measure_risk(Runtime(bundle), judged, Doubt(max_error=0.2))
    _, written = rewritten(opened, risk)
    new = msgspec.json.decode(written[drift.FILE], type=drift.Reference)
    assert new.histograms[0] == old.histograms[0]
    assert new.histograms[1] == risk.scores
    assert sum(risk.scores.counts) == 300


def test_dual_thresholds_take_two_labels(bundle: Bundle, judged: Dataset) -> None:
    with pytest.raises(EdgeclinError, match=r"dual thresholds take two labels.* has 5"):
        measure_risk(Runtime(bundle), judged, Doubt(thresholds="dual"))


class Command:
    """`edgeclin confidence` on the fake bundle."""

    def __init__(self, folder: Path, bundle: Path, keys: KeyPair, data: Path) -> None:
        self.runner = CliRunner(env={"EDGECLIN_KEYS": str(keys.public.parent)})
        self.bundle, self.data, self.target = bundle, data, folder / "new.edgeclin"
        self.key = keys.private

    def __call__(self, *arguments: object, error: str | None = "0.2") -> Result:
        command = ["confidence", self.bundle, "--validation", self.data]
        command += [] if error is None else ["--max-error", error]
        return self.runner.invoke(main, list(map(str, (*command, *arguments))))


@pytest.fixture
def command(tmp_path: Path, bundle_path: Path, key_pair: KeyPair, judged: Dataset) -> Command:
    samples = np.stack(list(judged))
    groups, labels = np.array(judged.groups), np.array(judged.labels)
    np.savez(tmp_path / "d.npz", X=samples, y=labels, group=groups)
    return Command(tmp_path, bundle_path, key_pair, tmp_path / "d.npz")


def test_the_new_bundle_is_signed_and_decides_by_the_new_threshold(
    command: Command, trust: list[Any], bundle: Bundle
) -> None:
    done = command("-o", command.target, "--key", command.key)
    assert done.exit_code == 0, done.output
    assert "p2" in done.output
    made = Bundle.open(command.target, trust)
    risk = json.loads(made.read(FILE))
    assert made.manifest.confidence.threshold == risk["confidence"]["threshold"]
    assert made.manifest.confidence.max_error == 0.2
    assert made.digest != bundle.digest
    for name in bundle.manifest.files:
        assert made.read(name) == bundle.read(name)


def test_the_engine_is_named_and_the_curve_has_a_line_for_each_threshold_in_print(
    command: Command,
) -> None:
    first, *lines = command().stdout.splitlines()
    assert first.startswith("measured with fake")
    curve = [line.split()[0] for line in lines if re.match(r"[01]\.\d{4} ", line)]
    assert len(curve) == len(set(curve)) > 3


def test_nothing_is_written_over_nor_for_a_risk_that_cannot_be_kept(command: Command) -> None:
    refused = command("-o", command.target, "--key", command.key, error="0.001")
    assert refused.exit_code == 3
    assert "no threshold keeps 0.10%" in refused.stderr
    assert not command.target.exists()
    command.target.write_bytes(b"mine")
    assert command("-o", command.target, "--key", command.key).exit_code == 1
    assert command.target.read_bytes() == b"mine"


def test_a_risk_that_cannot_be_kept_is_said_without_a_target_too(command: Command) -> None:
    for form in ((), ("--json",)):
        refused = command(*form, error="0.001")
        assert refused.exit_code == 3
        assert "no threshold keeps 0.10%" in refused.stderr
        assert refused.stdout, "the curve is shown all the same"


def test_the_report_of_the_conversion_says_that_it_is_older(
    bundle: Bundle, judged: Dataset
) -> None:
    risk = measure_risk(Runtime(bundle), judged, Doubt(max_error=0.2))
    page = b"<html><h1>ecg</h1><p>97 % confident</p>"
    manifest = bundle.manifest
    bundle.manifest = msgspec.structs.replace(
        manifest, files=manifest.files | {"report.html": "0" * 64}
    )
    read = bundle.read
    bundle.read = lambda name: page if name == "report.html" else read(name)  # type: ignore
    _, files = rewritten(bundle, risk)
    said = files["report.html"].decode()
    assert said.startswith(
        '<html><h1>ecg</h1>\n<p class="alarm"><b>Temperature and thresholds were'
    )
    assert said.endswith("<p>97 % confident</p>")


def test_without_a_target_the_curve_is_shown_and_nothing_is_written(
    command: Command, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    found = json.loads(command("--json").stdout)
    assert found["samples"] == 300
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("error", ["0", "1", "-0.1", "nan", "2"])
def test_a_share_of_errors_lies_between_none_and_all(command: Command, error: str) -> None:
    assert command(error=error).exit_code == 2


def test_thresholds_of_labels_are_written_and_read_back(command: Command, trust: list[Any]) -> None:
    done = command("--per-class", "-o", command.target, "--key", command.key, error="0.3")
    assert done.exit_code == 0, done.output
    assert "thresholds normal none" in done.output
    confidence = Bundle.open(command.target, trust).manifest.confidence
    assert confidence.thresholds == "per-class"
    assert [own.label for own in confidence.by_label] == list(LABELS)


def test_thresholds_are_of_one_kind(command: Command) -> None:
    refused = command("--per-class", "--dual")
    assert (refused.exit_code, "exclude each other" in refused.stderr) == (2, True)


def test_a_place_where_no_bundle_can_be_made_is_refused_before_measuring(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    refused = command("-o", tmp_path / "file" / "new.edgeclin", "--key", command.key)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "not a folder that is there" in refused.stderr


def test_dual_thresholds_are_asked_for_with_an_error_for_each_side(command: Command) -> None:
    sides = ("--max-error-positive", "0.1", "--max-error-negative", "0.02")
    refused = command("--dual", *sides, error=None)
    assert refused.exit_code == 1
    assert "dual thresholds take two labels" in refused.stderr
    assert command("--dual", *sides[:2], error=None).exit_code == 2
    assert command(error=None).exit_code == 2
    assert "take dual thresholds" in command(*sides).stderr
