"""Drift is told from noise, and telling it costs next to nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy import stats

from edgeclin.bundle import Bundle, write_bundle
from edgeclin.drift import (
    FILE,
    RECENT,
    SCHEMA,
    SHARE,
    Drift,
    DriftReport,
    Reference,
    histogram,
    label_histogram,
    place,
    read_reference,
    shift_of,
)
from edgeclin.errors import BadFile
from edgeclin.guards import fit_inputs
from edgeclin.guards.signals import measure_signal
from edgeclin.manifest import MEASURES, Manifest
from edgeclin.runtime import Runtime


def reference_of(samples: np.ndarray, confidence: np.ndarray, labels: np.ndarray) -> Reference:
    """Of signals [n, values], five labels."""
    measured = np.array([measure_signal(sample, 0) for sample in samples])
    columns = zip(MEASURES["signal"], measured.T, strict=True)
    values = [sample.item(place(at, sample.size)) for at, sample in enumerate(samples)]
    return Reference(
        SCHEMA,
        len(samples),
        (
            *(histogram(name, column) for name, column in columns),
            histogram("value", np.array(values, float)),
            histogram("confidence", confidence),
            label_histogram(labels, 5),
        ),
    )


def still() -> float:
    """A clock by which nothing takes any time."""
    return 0.0


def counted(
    reference: Reference, samples: np.ndarray, confidence: np.ndarray, labels: np.ndarray
) -> DriftReport:
    """The report when every sample is counted."""
    drift = Drift(reference, still)
    for sample, sure, label in zip(samples, confidence.tolist(), labels.tolist(), strict=True):
        assert drift.due(1e-3)
        drift.observe(sample, measure_signal(sample, 0), sure, label)
    report = drift.report()
    assert report is not None
    return report


def alarms(report: DriftReport) -> set[str]:
    return {shift.quantity for shift in report.since_start if shift.alarm}


# -- the index ----------------------------------------------------------------------------------


def test_confidences_that_noise_alone_tells_apart_are_in_one_bin() -> None:
    generator = np.random.default_rng(3)
    levels = np.repeat(np.linspace(0.6, 0.99, 7), 40)
    noisy = [levels + generator.normal(size=len(levels)) * 1e-8 for _ in range(2)]
    known = histogram("confidence", noisy[0], 1e-6)
    assert [count for count in known.counts if count] == [40] * 7
    here = np.bincount(np.searchsorted(known.edges, noisy[1]), minlength=len(known.counts))
    assert here.tolist() == list(known.counts)


def test_the_indices_are_those_of_a_plain_count() -> None:
    known = histogram("x", np.arange(100.0))
    assert known.counts == (10,) * 10
    seen = [30, 0, 10, 10, 10, 10, 10, 10, 5, 5]
    shift = shift_of(known, seen, 0.01)
    p, q = (np.array(seen) + 0.5) / 105, np.full(10, 10.5 / 105)
    assert shift.psi == pytest.approx(sum((p - q) * np.log(p / q)))
    assert shift.ks == pytest.approx(0.2)
    assert shift.psi_noise == pytest.approx(stats.chi2.ppf(0.99, 9) / 50, rel=0.005)
    assert shift.ks_noise == pytest.approx(stats.kstwobign.isf(0.01) * np.sqrt(0.02), rel=0.001)


@pytest.mark.parametrize(("n", "m"), [(60, 150), (300, 300), (3000, 150)])
def test_samples_of_one_distribution_stay_below_the_noise(n: int, m: int) -> None:
    """At 5 % for each, in at most about 5 % of 600 pairs of samples."""
    generator = np.random.default_rng(n)
    beyond = np.zeros(2)
    for _ in range(600):
        known = histogram("x", generator.normal(size=m))
        other = np.searchsorted(known.edges, generator.normal(size=n))
        shift = shift_of(known, np.bincount(other, minlength=len(known.counts)).tolist(), 0.05)
        assert shift.ks is not None
        assert shift.ks_noise is not None
        beyond += shift.psi > shift.psi_noise, shift.ks > shift.ks_noise
    assert (beyond <= stats.binom.ppf(0.999, 600, 0.05)).all()
    assert beyond[0] > 0


def test_the_rule_of_thumb_and_the_noise_must_both_be_exceeded_for_an_alarm() -> None:
    known = histogram("x", np.arange(1000.0))
    little = shift_of(known, [2, 0, 1, 1, 1, 1, 1, 1, 1, 1], 0.01)
    assert not little.alarm
    assert little.psi_noise > 0.25
    slight = [14_000, 6_000, *[10_000] * 8]
    many = shift_of(known, slight, 0.01)
    assert many.psi > many.psi_noise
    assert (many.moved, many.alarm) == ("none", False)
    much = shift_of(known, [60_000, 40_000, *[0] * 8], 0.01)
    assert (much.moved, much.alarm) == ("much", True)


def test_equal_values_share_a_bin_however_many() -> None:
    steady = histogram("rails", np.zeros(200))
    assert (steady.edges, steady.counts) == ((0.0,), (200, 0))
    assert not shift_of(steady, [400, 0], 0.01).alarm
    assert shift_of(steady, [300, 100], 0.01).alarm
    few = histogram("x", np.arange(30.0))
    assert len(few.counts) == 3


# -- real heartbeats ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ward(beats: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, Reference]:
    """Beats in a random order with confidence and labels of a kind, and a reference of 300."""
    samples = beats[np.random.default_rng(4).permutation(len(beats))].astype(np.float32)
    confidence = np.clip(samples.max(axis=1) / 4, 0, 1).astype(float)
    labels = np.digitize(samples.min(axis=1), (-5, -4, -3, -2))
    known = reference_of(samples[:300], confidence[:300], labels[:300])
    return samples[300:], confidence[300:], labels[300:], known


@pytest.mark.parametrize("n", [40, 200, 1500])
@pytest.mark.parametrize("start", [0, 2000])
def test_the_same_heart_does_not_alarm(
    ward: tuple[np.ndarray, np.ndarray, np.ndarray, Reference], n: int, start: int
) -> None:
    samples, confidence, labels, known = ward
    part = slice(start, start + n)
    report = counted(known, samples[part], confidence[part], labels[part])
    assert (report.answered, report.observed) == (n, n)
    assert not report.alarm


def test_another_gain_alarms_in_what_it_moves(
    ward: tuple[np.ndarray, np.ndarray, np.ndarray, Reference],
) -> None:
    samples, confidence, labels, known = ward
    report = counted(known, samples[:200] * np.float32(1.3), confidence[:200], labels[:200])
    assert {"lowest", "spread"} <= alarms(report)
    assert not {"roughness", "label", "confidence"} & alarms(report)


def test_another_mix_of_answers_alarms_in_labels(
    ward: tuple[np.ndarray, np.ndarray, np.ndarray, Reference],
) -> None:
    samples, confidence, labels, known = ward
    rare = np.flatnonzero(labels == np.bincount(labels[:300], minlength=5).argmin())
    assert len(rare) > 20
    chosen = np.resize(rare, 200)
    report = counted(known, samples[chosen], confidence[chosen], labels[chosen])
    assert "label" in alarms(report)


def test_a_report_is_of_every_sample_so_far(
    ward: tuple[np.ndarray, np.ndarray, np.ndarray, Reference],
) -> None:
    samples, confidence, labels, known = ward
    looks = {1, 19, 20, 21, 499, 500, 501, 519, 1000, 1001, 1019, 1020, 1021, 1500, 1501}
    drift = Drift(known, still)
    for n in range(1, max(looks) + 1):
        drift.due(1e-3)
        drift.observe(samples[n], measure_signal(samples[n], 0), confidence[n], labels[n])
        if n not in looks:
            continue
        report = drift.report()
        assert report is not None
        assert report.observed == n
        recent = n if n <= 2 * RECENT else RECENT + (n - 1) % RECENT + 1
        for shifts, since in ((report.since_start, 0), (report.recent, n - recent)):
            seen = np.bincount(labels[since + 1 : n + 1], minlength=5).tolist()
            assert shifts[-1] == shift_of(known.histograms[-1], seen, 0.01 / len(known.histograms))
            sure = np.searchsorted(known.histograms[-2].edges, confidence[since + 1 : n + 1])
            counts = np.bincount(sure, minlength=len(known.histograms[-2].counts)).tolist()
            assert shifts[-2] == shift_of(known.histograms[-2], counts, 0.01 / len(shifts))


def test_what_happens_late_is_seen_in_what_is_recent(
    ward: tuple[np.ndarray, np.ndarray, np.ndarray, Reference],
) -> None:
    samples, confidence, labels, known = ward
    many = np.concatenate([samples[:3000], samples[:RECENT] * np.float32(1.15)])
    where = np.concatenate([np.arange(3000), np.arange(RECENT)])
    report = counted(known, many, confidence[where], labels[where])
    assert report.since_start[0].n == 3000 + RECENT
    assert RECENT <= report.recent[0].n <= 2 * RECENT
    assert "lowest" not in alarms(report)
    assert {shift.quantity for shift in report.recent if shift.alarm} >= {"lowest"}
    assert report.alarm


def test_electrograms_alarm_for_another_gain_or_other_people_only(shared_data: Path) -> None:
    with np.load(shared_data / "iegm" / "iegm_train_subset.npz") as arrays:
        signals = arrays["X"][np.random.default_rng(0).permutation(len(arrays["X"]))]
    with np.load(shared_data / "iegm" / "iegm_test_dev.npz") as arrays:
        others, whose = arrays["X"], arrays["subject"]

    def report(samples: np.ndarray) -> DriftReport:
        return counted(known, samples, sure[: len(samples)], label[: len(samples)])

    sure, label = np.linspace(0, 1, 3000), np.arange(3000) % 5
    known = reference_of(signals[:800], np.resize(sure, 800), label[:800])
    for start in (1000, 2000, 3000):
        assert not report(signals[start : start + 900]).alarm
    assert "spread" in alarms(report(signals[1000:1400] * np.float32(1.5)))
    assert "spread" in alarms(report(others[whose == whose[0]]))


# -- what it costs ------------------------------------------------------------------------------


class Clock:
    """Each look at it takes a tenth of a microsecond; counting a sample takes `counting` more."""

    def __init__(self, counting: float) -> None:
        self.now = 0.0
        self._steps = self._of(counting)

    def _of(self, counting: float) -> Iterator[float]:
        for look in count():
            yield 1e-7 + (counting if look % 2 else 0.0)

    def __call__(self) -> float:
        self.now += next(self._steps)
        return self.now


@pytest.mark.parametrize("spent", [4e-5, 1e-3, 0.1])
def test_counting_takes_less_than_its_share_of_the_time(
    ward: tuple[np.ndarray, np.ndarray, np.ndarray, Reference], spent: float
) -> None:
    samples, _, _, known = ward
    clock = Clock(counting=1e-5)
    drift = Drift(known, clock)
    began, rounds = clock.now, 20_000
    measures = measure_signal(samples[0], 0)
    for _ in range(rounds):
        if drift.due(spent):
            drift.observe(samples[0], measures, 0.5, 0)
    report = drift.report()
    assert report is not None
    assert report.answered == rounds
    assert clock.now - began <= SHARE * spent * rounds + 2e-5
    affordable = min(rounds, int(SHARE * spent * rounds / 1.1e-5))
    assert report.observed >= affordable * 0.6


# -- the bundle ---------------------------------------------------------------------------------


@pytest.fixture
def encoded(ward: tuple[np.ndarray, np.ndarray, np.ndarray, Reference]) -> bytes:
    return msgspec.json.encode(ward[-1])


def test_a_runtime_counts_what_it_answers(
    tmp_path: Path,
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
    beats: np.ndarray,
    encoded: bytes,
) -> None:
    manifest, files = manifest_and_files
    limits, _ = fit_inputs(list(beats[:200]), list(beats[200:300]), manifest.inputs[0])
    changed = msgspec.structs.replace(manifest, guard=limits)
    path = write_bundle(tmp_path / "a.edgeclin", changed, files | {FILE: encoded}, None)
    runtime = Runtime(Bundle.open(path, allow_unsigned=True))
    for beat in beats[:300]:
        runtime.predict(beat)
    report = runtime.drift.report()
    assert report is not None
    assert report.answered == 300
    assert 0 < report.observed < 300
    assert [shift.quantity for shift in report.since_start][-3:] == ["value", "confidence", "label"]


def test_a_bundle_without_a_reference_has_no_report(bundle: Bundle, beats: np.ndarray) -> None:
    runtime = Runtime(bundle)
    runtime.predict(beats[0])
    assert runtime.drift.report() is None


def test_before_anything_was_counted_there_are_no_shifts(encoded: bytes) -> None:
    drift = Drift(read_reference(encoded, Path("b"), "signal", 5))
    assert drift.report() == DriftReport(0, 0, (), ())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda plain: plain.update(schema=2), "schema 2 is unknown"),
        (lambda plain: plain.update(x=1), "x"),
        (lambda plain: plain["histograms"].pop(), "does not hold lowest"),
        (lambda plain: plain["histograms"][0]["counts"].pop(), "lowest is no histogram of 10"),
        (lambda plain: plain["histograms"][0]["edges"].reverse(), "lowest is no histogram of 10"),
        (lambda plain: plain["histograms"][-1]["counts"].append(1), "label is no histogram of 5"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(
    encoded: bytes, change: object, problem: str
) -> None:
    plain = json.loads(encoded)
    change(plain)  # type: ignore[operator]
    with pytest.raises(BadFile, match=problem):
        read_reference(json.dumps(plain).encode(), Path("b"), "signal", 5)
    with pytest.raises(BadFile, match="does not hold"):
        read_reference(encoded, Path("b"), "image", 5)
