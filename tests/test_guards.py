"""What is unlike every sample of calibration is in doubt, and nothing else for that reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from conftest import ECG
from scipy import ndimage, signal
from scipy.spatial.distance import mahalanobis

from edgeclin.backends.fake import FakeBackend
from edgeclin.bundle import Bundle, write_bundle
from edgeclin.description import Input
from edgeclin.errors import BadInput
from edgeclin.guards import Guard, fit_inputs, fit_scores
from edgeclin.guards.pictures import measure_picture
from edgeclin.guards.scores import ScoreDistance
from edgeclin.guards.signals import measure_signal
from edgeclin.manifest import MEASURES, GuardLimits, Manifest
from edgeclin.records import State, Tier
from edgeclin.runtime import Runtime
from edgeclin.steps import Leads

BEAT = Input(name="beat", kind="signal", shape=(140, 1))
PICTURE = Input(name="cell", kind="image", shape=(64, 64, 3))
NO_SCORES = np.zeros(2)
Change = Callable[[np.ndarray], np.ndarray]


def of(spec: Input, samples: list[np.ndarray]) -> GuardLimits:
    """Limits from samples, the first four fifths of them calibration."""
    at = len(samples) * 4 // 5
    limits, _ = fit_inputs(samples[:at], samples[at:], spec)
    assert limits is not None
    return limits


def flagged(guard: Guard, samples: Iterator[np.ndarray] | list[np.ndarray]) -> float:
    """The share that is rejected or unlike."""
    verdicts = []
    for sample in samples:
        try:
            verdicts.append(bool(guard.unlike(guard.measure(sample), NO_SCORES, 0)))
        except BadInput:
            verdicts.append(True)
    return float(np.mean(verdicts))


@pytest.fixture(scope="module")
def fitted() -> Guard:
    """A guard for heartbeats, from the example's training and validation beats."""
    sets = []
    for name in ("train", "validation"):
        with np.load(ECG / "data" / f"{name}.npz") as arrays:
            sets.append(list(arrays["X"]))
    limits, _ = fit_inputs(*sets, BEAT)
    assert limits is not None
    assert limits.samples == 500
    return Guard(limits, BEAT)


# -- signals ------------------------------------------------------------------------------------


def test_beats_of_the_same_heart_are_hardly_ever_unlike(fitted: Guard, beats: np.ndarray) -> None:
    assert flagged(fitted, list(beats)) < 0.02


def held(beat: np.ndarray, share: float) -> np.ndarray:
    """The last value goes on for the rest."""
    kept = round(len(beat) * (1 - share))
    return np.concatenate([beat[:kept], np.full(len(beat) - kept, beat[kept - 1])])


@pytest.mark.parametrize(
    ("change", "least"),
    [
        (lambda beat: beat * 2, 0.98),
        (lambda beat: beat / 10, 0.99),
        (lambda beat: beat + 5, 0.99),
        (lambda beat: np.clip(beat, beat.min() / 2, beat.max() / 2), 0.95),
        (lambda beat: held(beat, 0.5), 0.99),
        (lambda beat: held(beat, 0.15), 0.95),
        (lambda beat: np.random.default_rng(int(abs(beat[0]) * 1e6)).normal(size=140), 0.98),
        (lambda beat: np.random.default_rng(1).permutation(beat), 0.98),
        (lambda beat: beat + 2 * np.sin(np.arange(140) * 1.2), 0.98),
        (lambda beat: beat * 0, 1.0),
    ],
    ids=["gain 2", "gain 0.1", "offset", "clipped", "half flat", "15 % flat", "noise", "shuffled",
         "mains", "flat"],
)  # fmt: skip
def test_a_beat_that_was_tampered_with_is_mostly_unlike(
    fitted: Guard, beats: np.ndarray, change: Change, least: float
) -> None:
    assert flagged(fitted, [change(beat.astype(float)) for beat in beats[:400]]) >= least


def test_the_reason_names_the_measure_its_value_and_the_limit(
    fitted: Guard, beats: np.ndarray
) -> None:
    beat = beats[0].astype(float) * 100
    said = fitted.unlike(fitted.measure(beat), NO_SCORES, 0)
    assert said.startswith("unlike all 500 calibration samples: lowest ")
    assert f"highest {beat.max():.4g} is above 4.059" in said


def test_a_flat_line_has_nothing_to_judge_and_a_nearly_flat_one_is_in_doubt(fitted: Guard) -> None:
    with pytest.raises(BadInput, match=r"a flat line: all 140 values are 0\.5; is the lead off"):
        fitted.measure(np.full(140, 0.5))
    almost = np.full(140, 0.5)
    almost[70] += 0.001
    said = fitted.unlike(fitted.measure(almost), NO_SCORES, 0)
    assert "spread 0.001 is below" in said
    assert "stretch 0.5" in said


def twelve(generator: np.random.Generator, *off: int) -> np.ndarray:
    """Twelve leads of 300 values, some of them at a rail."""
    leads = generator.normal(size=(300, 12)).cumsum(axis=0)
    leads[:, list(off)] = 2047.0
    return leads


def test_a_lead_that_is_off_is_named_unless_it_always_is() -> None:
    generator = np.random.default_rng(0)
    spec = Input(name="x", kind="signal", shape=(300, 12))
    guard = Guard(of(spec, [twelve(generator) for _ in range(200)]), spec)
    assert not guard.unlike(guard.measure(twelve(generator)), NO_SCORES, 0).count("rails")
    with pytest.raises(BadInput, match=r"flat throughout: lead 3 at 2047 \(counted from 0\)"):
        guard.measure(twelve(generator, 3))
    with pytest.raises(BadInput, match="none of 12 leads varies"):
        guard.measure(twelve(generator, *range(12)))
    usual = of(spec, [twelve(generator, *([7] if index % 10 == 0 else [])) for index in range(200)])
    assert usual.flat_leads == 1
    Guard(usual, spec).measure(twelve(generator, 7))
    with pytest.raises(BadInput, match="lead 2 at 2047, 3 at 2047"):
        Guard(usual, spec).measure(twelve(generator, 2, 3))
    once = of(spec, [twelve(generator, *([7] if index == 9 else [])) for index in range(200)])
    assert once.flat_leads == 0
    assert once.samples == 199


def test_a_lead_that_the_model_does_not_take_may_be_off() -> None:
    generator = np.random.default_rng(0)
    spec = Input(name="x", kind="signal", shape=(300, 2), preprocessing=(Leads(take=(1, 4)),))
    guard = Guard(of(spec, [twelve(generator) for _ in range(50)]), spec)
    guard.measure(twelve(generator, 0, 2, 3))
    with pytest.raises(BadInput, match="lead 1 at 2047"):
        guard.measure(twelve(generator, 4))


def slow(lead: np.ndarray) -> tuple[float, ...]:
    """The measures of a lead once more, value by value."""
    longest = run = 1
    for before, after in pairwise(lead):
        run = run + 1 if before == after else 1
        longest = max(longest, run)
    rails = sum(value in (lead.min(), lead.max()) for value in lead) / len(lead)
    steps = np.sqrt(np.mean(np.diff(lead) ** 2))
    return (
        lead.min(), lead.max(), np.ptp(lead), steps / lead.std(),
        longest / len(lead) if longest > 1 else 0.0, rails if longest > 1 else 0.0,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "float32", "int16", "uint8", "float64"])
@pytest.mark.parametrize("seed", range(4))
def test_measures_of_a_signal_are_those_of_a_plain_count(seed: int, dtype: str) -> None:
    generator = np.random.default_rng(seed)
    walk = (100 + generator.normal(0, 2 + 20 * (seed % 2), 90).cumsum()).clip(3, 200).astype(dtype)
    lead = walk.astype(float)
    np.testing.assert_allclose(measure_signal(walk, 0), slow(lead), rtol=1e-9)
    np.testing.assert_allclose(measure_signal(walk[:, np.newaxis], 0), slow(lead), rtol=1e-9)
    other = np.roll(lead, 7) * 1.5
    one, two = slow(lead), slow(other)
    both = (
        min(one[0], two[0]), max(one[1], two[1]), min(one[2], two[2]),
        *(max(pair) for pair in zip(one[3:], two[3:], strict=True)),
    )  # fmt: skip
    for leads in (np.stack([lead, other], axis=1), np.stack([lead, other])):
        np.testing.assert_allclose(measure_signal(leads, 0), both, rtol=1e-9)


def test_an_offset_does_not_drown_the_roughness() -> None:
    lead = np.random.default_rng(0).normal(size=500)
    raised = measure_signal(lead + 1e6, 0)
    assert raised[3] == pytest.approx(measure_signal(lead, 0)[3], rel=1e-4)


# -- pictures -----------------------------------------------------------------------------------


def texture(seed: int, size: int = 80) -> np.ndarray:
    """A smooth picture in colour, uint8, with a dark surround as a cell on its slide has."""
    generator = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(generator.normal(size=(size, size, 3)), (1.2, 1.2, 0.3))
    scaled = 120 + 30 * smooth / smooth.std() + np.array([30, 0, -30])
    away = np.hypot(*(np.indices((size, size)) - size / 2)) > size * 0.45
    return np.where(away[..., np.newaxis], 0, scaled.clip(1, 250)).astype(np.uint8)


CHANGES: dict[str, Change] = {
    "blurred": lambda image: ndimage.gaussian_filter(image, (1, 1, 0)),
    "overexposed": lambda image: (image * 2.0).clip(0, 255).astype(np.uint8),
    "dark": lambda image: (image * 0.4).astype(np.uint8),
    "noise": lambda image: np.random.default_rng(1).integers(0, 256, image.shape, dtype=np.uint8),
    "inverted": lambda image: 255 - image,
    "rescaled": lambda image: (image / 255).astype(np.float32),
    "without contrast": lambda image: (image * 0.3 + 100).astype(np.uint8),
    "flat": lambda image: np.full_like(image, 127),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_picture_that_was_spoilt_is_unlike(change: Change) -> None:
    guard = Guard(of(PICTURE, [texture(seed) for seed in range(100)]), PICTURE)
    others = [texture(seed) for seed in range(1000, 1040)]
    assert flagged(guard, others) <= 0.15
    assert flagged(guard, [change(image) for image in others]) >= 0.95


def test_measures_of_a_small_picture_are_those_of_a_plain_count() -> None:
    image = texture(3, 50)
    green = image[..., 1].astype(float)
    inner = green[1:-1, 1:-1]
    kernel = [[0, -1, 0], [-1, 4, -1], [0, -1, 0]]
    means = image[1:-1, 1:-1].mean(axis=(0, 1))
    expected = (
        inner.min(), inner.max(), means.mean(), inner.std(),
        signal.convolve2d(green, kernel, mode="valid").var(),
        (inner == inner.min()).mean(), (inner == inner.max()).mean(), means[0] - means[2],
    )  # fmt: skip
    np.testing.assert_allclose(measure_picture(image), expected, rtol=1e-9)
    np.testing.assert_allclose(measure_picture(image.transpose(2, 0, 1)), expected, rtol=1e-9)
    assert len(expected) == len(MEASURES["image"])


@pytest.mark.parametrize("shape", [(700, 900, 3), (131, 64, 1), (66, 300), (1, 70, 70, 1)])
def test_a_large_picture_is_measured_on_a_grid(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    low, high, brightness, contrast, sharpness, *_ = measure_picture(image)
    assert 0 <= low < high <= 255
    assert brightness == pytest.approx(127.5, abs=6)
    assert contrast == pytest.approx(73.9, rel=0.1)
    assert sharpness == pytest.approx(20 * 73.9**2, rel=0.15)


def test_a_picture_of_one_value_has_nothing_to_judge() -> None:
    with pytest.raises(BadInput, match="without contrast: every value is 127"):
        measure_picture(np.full((300, 300, 3), 127, np.uint8))
    speck = np.full((300, 300, 3), 127, np.uint8)
    speck[2, 2] = 0
    assert measure_picture(speck)[3] == 0.0
    with pytest.raises(BadInput, match="2 x 9 pixels, too small"):
        measure_picture(np.zeros((2, 9, 3), np.uint8))


def test_a_limit_has_room_for_another_machines_rounding_and_for_nothing_else() -> None:
    image = texture(3)
    measures = np.array(measure_picture(image))
    fitted = of(PICTURE, [texture(seed) for seed in range(3, 8)])
    tight = msgspec.structs.replace(
        fitted,
        limits=tuple(
            msgspec.structs.replace(limit, low=float(value), high=float(value))
            for limit, value in zip(fitted.limits, measures, strict=True)
        ),
    )
    guard = Guard(tight, PICTURE)
    rounded, other = measures * (1 + 4e-16), measures * (1 + 1e-9)
    assert not guard.unlike(tuple(rounded), NO_SCORES, 0)
    assert guard.unlike(tuple(other), NO_SCORES, 0).count(" is ") == np.count_nonzero(measures)


# -- fitting ------------------------------------------------------------------------------------


def test_the_share_recorded_is_that_of_validation_beyond_calibration(beats: np.ndarray) -> None:
    calibration, validation = list(beats[:300]), list(beats[300:700])
    limits, measured = fit_inputs(calibration, validation, BEAT)
    assert limits is not None
    alone = np.array([measure_signal(beat, 0) for beat in calibration])
    beyond = (measured < alone.min(axis=0)) | (measured > alone.max(axis=0))
    assert limits.share == beyond.any(axis=1).mean() > 0
    assert [limit.share for limit in limits.limits] == beyond.mean(axis=0).tolist()
    guard = Guard(limits, BEAT)
    assert flagged(guard, calibration + validation) == 0.0


def test_where_a_set_has_nothing_to_judge_there_is_no_guard(beats: np.ndarray) -> None:
    flat = [np.zeros(140)] * 10
    assert fit_inputs(flat, list(beats[:10]), BEAT)[0] is None
    assert fit_inputs(list(beats[:10]), flat, BEAT)[0] is None
    mixed, measured = fit_inputs(list(beats[:10]), [*beats[10:20], np.zeros(140)], BEAT)
    assert mixed is not None
    assert mixed.samples == 20
    assert np.isnan(measured[-1]).all()


def test_an_array_is_held_to_its_range_alone() -> None:
    spec = Input(name="x", kind="array", shape=(4,))
    guard = Guard(of(spec, [np.arange(4.0) + index for index in range(10)]), spec)
    assert not guard.unlike(guard.measure(np.arange(4.0)), NO_SCORES, 0)
    assert "highest 13 is above 12" in guard.unlike(guard.measure(np.full(4, 13.0)), NO_SCORES, 0)


# -- scores -------------------------------------------------------------------------------------


def logits_of(generator: np.random.Generator, n: int) -> np.ndarray:
    """Three answers, of which the last is rare, with scores that hang together."""
    answer = np.where(np.arange(n) % 50 == 0, 2, np.arange(n) % 2)
    mixed = generator.normal(size=(n, 3)) @ np.array([[1, 0.5, 0], [0, 0.3, 0.1], [0, 0, 0.5]])
    return mixed + 6 * np.eye(3)[answer]


def test_the_distance_of_scores_is_mahalanobis_to_their_own_answers() -> None:
    logits = logits_of(np.random.default_rng(0), 500)
    limit = fit_scores(logits)
    assert limit is not None
    answer = logits.argmax(axis=1)
    means = np.stack([logits[answer == label].mean(axis=0) for label in range(3)])
    left = logits - means[answer]
    inverse = np.linalg.inv(left.T @ left / len(left))
    expected = [
        mahalanobis(row, means[at], inverse) ** 2 for row, at in zip(logits, answer, strict=True)
    ]
    distance = ScoreDistance.of(limit)
    found = [distance(row, int(at)) for row, at in zip(logits, answer, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert limit.high == max(found)
    assert 0 < limit.share < 0.05


@pytest.mark.parametrize("activation", ["one output", "softmax"])
def test_scores_that_hang_together_wholly_have_a_distance_too(activation: str) -> None:
    """Of a sigmoid the first logit is always 0; logarithms of a softmax obey one equation."""
    logits = logits_of(np.random.default_rng(1), 300)
    if activation == "one output":
        logits = np.stack([np.zeros(300), logits[:, 0] - logits[:, 1]], axis=1)
    else:
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    limit = fit_scores(logits)
    assert limit is not None
    assert np.isfinite(limit.high)
    assert ScoreDistance.of(limit)(logits[1] * 9, int(logits[1].argmax())) > limit.high


def test_an_answer_that_validation_never_gave_is_unlike(
    beats: np.ndarray,
) -> None:
    logits = logits_of(np.random.default_rng(2), 300)
    limits = msgspec.structs.replace(
        of(BEAT, list(beats[:100])), scores=fit_scores(logits[logits.argmax(axis=1) != 2])
    )
    guard = Guard(limits, BEAT)
    measures = guard.measure(beats[0])
    assert not guard.unlike(measures, logits[1], int(logits[1].argmax()))
    said = guard.unlike(measures, np.array([0.0, 0.0, 6.0]), 2)
    assert said == "unlike validation: fewer than two of its samples had this answer"
    far = guard.unlike(measures, np.array([60.0, 0.0, 0.0]), 0)
    assert far.startswith("unlike validation: its scores are ")


def test_too_few_scores_too_many_labels_or_equal_ones_have_no_limit() -> None:
    generator = np.random.default_rng(0)
    assert fit_scores(generator.normal(size=(14, 3))) is None
    assert fit_scores(generator.normal(size=(1000, 33))) is None
    assert fit_scores(np.ones((100, 3))) is None


# -- the runtime --------------------------------------------------------------------------------


@pytest.fixture
def guarded(
    tmp_path: Path, manifest_and_files: tuple[Manifest, dict[str, bytes]], beats: np.ndarray
) -> Runtime:
    """The fake bundle with a guard; every label is urgent and any confidence enough."""
    manifest, files = manifest_and_files
    runtime = Runtime(
        Bundle.open(
            write_bundle(tmp_path / "a.edgeclin", manifest, files, None), allow_unsigned=True
        )
    )
    backend = FakeBackend(files["engine.json"])
    logits = np.stack([backend.run(runtime.preprocess(beat)) for beat in beats[:500]])
    limits = msgspec.structs.replace(
        of(manifest.inputs[0], list(beats[:500])), scores=fit_scores(logits.astype(float))
    )
    changed = msgspec.structs.replace(
        manifest,
        guard=limits,
        confidence=msgspec.structs.replace(manifest.confidence, threshold=0.0, audit_share=1.0),
        output=msgspec.structs.replace(manifest.output, urgent=manifest.output.labels),
    )
    path = write_bundle(tmp_path / "b.edgeclin", changed, files, None)
    return Runtime(Bundle.open(path, allow_unsigned=True))


def test_what_is_unlike_calibration_is_never_final_nor_audited_and_stays_urgent(
    guarded: Runtime, beats: np.ndarray
) -> None:
    alike = guarded.predict(beats[0])
    assert (alike.state, alike.audit) == (State.FINAL, True)
    unlike = guarded.predict(beats[0].astype(float) * 50)
    assert unlike.label == alike.label
    assert (unlike.state, unlike.tier, unlike.audit) == (State.PROVISIONAL, Tier.URGENT, False)
    assert unlike.reason.startswith("unlike all 500 calibration samples: ")


def test_a_flat_line_is_rejected_with_its_reason(guarded: Runtime) -> None:
    with pytest.raises(BadInput, match="a flat line") as problem:
        guarded.predict(np.zeros(140))
    result = guarded.reject(problem.value, "s", 0)
    assert (result.state, result.rejected) == (State.UNREVIEWED, True)


def test_a_bundle_without_a_guard_finds_nothing(bundle: Bundle, beats: np.ndarray) -> None:
    runtime = Runtime(bundle)
    assert runtime.guard.measure(np.zeros(140)) == ()
    assert "unlike" not in runtime.predict(beats[0].astype(float) * 50).reason


# -- real cells and electrograms ----------------------------------------------------------------


def test_cells_of_other_patients_are_alike_and_spoilt_ones_are_not(shared_data: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="the vision extra is not installed")
    sets = [
        [cv2.imread(str(file)) for file in sorted((shared_data / "malaria" / name).glob("*.png"))]
        for name in ("calibration", "test_dev")
    ]
    guard = Guard(of(PICTURE, sets[0]), PICTURE)
    assert flagged(guard, sets[1]) <= 0.03
    for name, change in CHANGES.items():
        assert flagged(guard, [change(image) for image in sets[1][:60]]) >= 0.95, name


def test_electrograms_of_other_people_are_alike_and_noise_is_not(shared_data: Path) -> None:
    spec = Input(name="iegm", kind="signal", shape=(1, 1250, 1))
    with np.load(shared_data / "iegm" / "iegm_train_subset.npz") as arrays:
        guard = Guard(of(spec, list(arrays["X"][::6])), spec)
    with np.load(shared_data / "iegm" / "iegm_test_dev.npz") as arrays:
        others = arrays["X"][::4]
    generator = np.random.default_rng(0)
    assert flagged(guard, list(others)) <= 0.03
    assert flagged(guard, list(generator.permuted(others, axis=1))) >= 0.9
    assert flagged(guard, [others[0] * 0, *(held(one, 0.2) for one in others)]) == 1.0
    assert flagged(guard, list(others * 1000)) == 1.0
