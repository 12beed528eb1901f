"""A runtime answers only where it was proven to compute what was verified."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgeclin.backends.fake import FakeBackend
from edgeclin.bundle import Bundle, write_bundle
from edgeclin.confidence import Activation
from edgeclin.datasets import Dataset
from edgeclin.description import Input
from edgeclin.errors import BadFile, BadInput, SelfTestFailed
from edgeclin.golden import read_golden, write_golden
from edgeclin.keys import KeyPair, load_signer
from edgeclin.manifest import Difference, Manifest
from edgeclin.preprocess import Preprocess
from edgeclin.records import State, Tier
from edgeclin.runtime import Runtime
from edgeclin.steps import Decode, Step, Window

Rewrite = Callable[..., Bundle]


@pytest.fixture
def rewrite(
    tmp_path: Path,
    key_pair: KeyPair,
    trust: list[Any],
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
) -> Rewrite:
    """The fake bundle with some of its manifest changed, signed anew."""

    def make(files: dict[str, bytes] | None = None, **changes: Any) -> Bundle:
        manifest, content = manifest_and_files
        changed = msgspec.structs.replace(manifest, **changes)
        path = write_bundle(
            tmp_path / "changed.edgeclin",
            changed,
            {**content, **(files or {})},
            load_signer(key_pair.private),
        )
        return Bundle.open(path, trust)

    return make


class Off(FakeBackend):
    """A kernel that computes something else."""

    def run(self, sample: np.ndarray) -> np.ndarray:
        return super().run(sample) + np.float32(0.5)


def test_an_answer_says_what_gave_it(bundle: Bundle, beats: np.ndarray) -> None:
    result = Runtime(bundle, clock=lambda: 123.0).predict(beats[3], "ward", 7)
    assert result.bundle == bundle.digest
    assert result.engine == "fake float32: fake 1"
    assert (result.source, result.position, result.made_at) == ("ward", 7, 123.0)
    assert result.label in bundle.manifest.output.labels
    assert result.latency_ms is not None
    assert result.latency_ms.total > 0
    assert sum(result.probabilities) == pytest.approx(1, abs=len(result.probabilities) * 0.5e-4)
    assert not result.unsigned_bundle


def test_a_machine_that_computes_otherwise_must_not_answer(bundle: Bundle) -> None:
    model = bundle.read("engine.json")
    with pytest.raises(SelfTestFailed, match=r"off by up to 0\.5, 0\.5 in the mean"):
        Runtime(bundle, Off(model))


def test_a_machine_that_is_a_little_off_everywhere_must_not_answer(
    rewrite: Rewrite, manifest_and_files: tuple[Manifest, dict[str, bytes]]
) -> None:
    """Kernels differ in few outputs; another engine in most."""
    allowed = Difference(worst=0.6, mean=0.4)
    golden = msgspec.structs.replace(manifest_and_files[0].golden, tolerance=allowed)
    bundle = rewrite(golden=golden)
    with pytest.raises(SelfTestFailed, match=r"0\.5 in the mean \(allowed: 0\.6, 0\.4 in"):
        Runtime(bundle, Off(bundle.read("engine.json")))
    assert Runtime(bundle).off == Difference(0.0, 0.0)


def test_a_machine_that_answers_nan_must_not_answer(bundle: Bundle) -> None:
    class NaN(FakeBackend):
        def run(self, sample: np.ndarray) -> np.ndarray:
            return super().run(sample) * np.float32("nan")

    with pytest.raises(SelfTestFailed):
        Runtime(bundle, NaN(bundle.read("engine.json")))


@pytest.mark.parametrize("count", [1, 4, 6])
def test_a_machine_that_answers_with_another_number_must_not_answer(
    bundle: Bundle, count: int
) -> None:
    class Other(FakeBackend):
        def run(self, sample: np.ndarray) -> np.ndarray:
            return np.resize(super().run(sample), count)

    with pytest.raises(SelfTestFailed):
        Runtime(bundle, Other(bundle.read("engine.json")))


def test_the_self_test_goes_through_the_preprocessing(
    rewrite: Rewrite, manifest_and_files: tuple[Manifest, dict[str, bytes]]
) -> None:
    plain = tuple(
        msgspec.structs.replace(i, preprocessing=()) for i in manifest_and_files[0].inputs
    )
    with pytest.raises(SelfTestFailed):
        Runtime(rewrite(inputs=plain))


def test_the_threshold_of_the_bundle_decides_what_is_final(
    rewrite: Rewrite, beats: np.ndarray, manifest_and_files: tuple[Manifest, dict[str, bytes]]
) -> None:
    confidence = manifest_and_files[0].confidence
    for threshold, state in ((0.0, State.FINAL), (1.01, State.PROVISIONAL)):
        changed = msgspec.structs.replace(confidence, threshold=threshold)
        runtime = Runtime(rewrite(confidence=changed))
        assert {runtime.predict(beat).state for beat in beats[:20]} == {state}


@pytest.mark.parametrize(
    ("activation", "outputs"),
    [("none", [-2.0] * 5), ("softmax", [0.2] * 5), ("sigmoid", [0.4, 0.001, 0.0, 0.0, 0.0])],
)
def test_an_empty_answer_is_unsure_whatever_its_confidence(
    rewrite: Rewrite,
    beats: np.ndarray,
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
    activation: Activation,
    outputs: list[float],
) -> None:
    manifest, _ = manifest_and_files
    runtime = Runtime(
        rewrite(confidence=msgspec.structs.replace(manifest.confidence, threshold=0.0))
    )
    bundle = runtime.bundle.manifest
    runtime.bundle.manifest = msgspec.structs.replace(
        bundle, output=msgspec.structs.replace(bundle.output, activation=activation)
    )
    for answer, state in (([0.6, 0.1, 0.1, 0.1, 0.1], State.FINAL), (outputs, State.PROVISIONAL)):
        monkeypatch.setattr(runtime.backend, "run", lambda _, answer=answer: np.array(answer))
        assert runtime.predict(beats[0]).state is state
    result = runtime.predict(beats[0])
    shared = outputs[0] == outputs[1]
    assert result.label == ("R-on-T PVC" if shared else "normal"), "the urgent one of those"
    assert result.tier is (Tier.URGENT if shared else Tier.ROUTINE)
    assert result.reason == "nothing is found: no label stands out"


def test_an_urgent_label_is_urgent(
    rewrite: Rewrite, beats: np.ndarray, manifest_and_files: tuple[Manifest, dict[str, bytes]]
) -> None:
    output = manifest_and_files[0].output
    every = Runtime(rewrite(output=msgspec.structs.replace(output, urgent=output.labels)))
    none = Runtime(rewrite(output=msgspec.structs.replace(output, urgent=())))
    assert {every.predict(beat).tier for beat in beats[:20]} == {Tier.URGENT}
    assert {none.predict(beat).tier for beat in beats[:20]} == {Tier.ROUTINE}


def test_an_audit_draws_only_from_confident_answers(
    rewrite: Rewrite, beats: np.ndarray, manifest_and_files: tuple[Manifest, dict[str, bytes]]
) -> None:
    confidence = msgspec.structs.replace(
        manifest_and_files[0].confidence, threshold=0.6, audit_share=0.5
    )
    bundle = rewrite(confidence=confidence)
    drawn = [Runtime(bundle, draw=lambda: 0.4).predict(beat) for beat in beats[:60]]
    spared = [Runtime(bundle, draw=lambda: 0.6).predict(beat) for beat in beats[:60]]
    assert {result.audit for result in drawn if result.state is State.FINAL} == {True}
    assert {result.audit for result in drawn if result.state is State.PROVISIONAL} == {False}
    assert not any(result.audit for result in spared)


def test_every_answer_of_an_unsigned_bundle_says_so(
    tmp_path: Path, manifest_and_files: tuple[Manifest, dict[str, bytes]], beats: np.ndarray
) -> None:
    path = write_bundle(tmp_path / "unsigned.edgeclin", *manifest_and_files, None)
    runtime = Runtime(Bundle.open(path, allow_unsigned=True))
    assert runtime.predict(beats[0]).unsigned_bundle
    assert runtime.reject(BadInput("x"), "s", 0).unsigned_bundle


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (np.zeros(139), "expected"),
        (np.full(140, np.nan), "not finite"),
        (np.array(["a"] * 140), "numbers"),
    ],
)
def test_a_broken_sample_is_refused_with_its_reason(
    bundle: Bundle, sample: np.ndarray, words: str
) -> None:
    runtime = Runtime(bundle)
    with pytest.raises(BadInput, match=words) as problem:
        runtime.predict(sample)
    result = runtime.reject(problem.value, "s", 3)
    assert result.state is State.UNREVIEWED
    assert result.label is None
    assert words in result.reason


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (np.zeros((7, 100)), r"\[100\] and type float64.*shape \[100\], expected \[140, 1\]"),
        (np.zeros((7, 140, 2)), r"shape \[140, 2\], expected \[140, 1\]"),
        (np.full((7, 140), "x"), "values of type <U1, expected numbers"),
        (np.zeros((7, 140), complex), "values of type complex128, expected numbers"),
        (np.zeros(7), r"shape \[\], expected an array"),
    ],
)
def test_arrays_of_which_no_sample_could_be_judged_are_refused_at_once(
    bundle: Bundle, samples: np.ndarray, words: str
) -> None:
    with pytest.raises(BadFile, match=rf"d\.npz: no sample of shape .*{words}"):
        Runtime(bundle).require_fit(Dataset(Path("d.npz"), samples))


def test_a_data_set_of_which_some_sample_may_be_judged_fits(bundle: Bundle) -> None:
    runtime = Runtime(bundle)
    runtime.require_fit(Dataset(Path("d.npz"), np.full((3, 140), np.nan)))
    runtime.require_fit(Dataset(Path("d"), [np.zeros(100), np.zeros(140)]))


def with_steps(runtime: Runtime, *steps: Step) -> Runtime:
    """The runtime with another preprocessing than its golden outputs had."""
    spec = Input(name="x", kind="array", shape=(140, 1), preprocessing=steps)
    runtime.preprocess = Preprocess(spec)
    manifest = runtime.bundle.manifest
    runtime.bundle.manifest = msgspec.structs.replace(manifest, inputs=(spec,))
    return runtime


def test_recordings_fit_when_their_windows_do(bundle: Bundle) -> None:
    runtime = with_steps(Runtime(bundle), Window(length=140, hop=70))
    long, short = (Dataset(Path("d.npz"), np.zeros((3, size))) for size in (1000, 100))
    runtime.require_fit(long)
    with pytest.raises(BadFile, match="expected a window of 140"):
        runtime.require_fit(short)


def test_encoded_images_in_an_array_are_judged_one_by_one(bundle: Bundle) -> None:
    """Zeros are no image, but another sample of the same shape may be one."""
    pytest.importorskip("cv2", reason="the vision extra is not installed")
    runtime = with_steps(Runtime(bundle), Decode())
    runtime.require_fit(Dataset(Path("d.npz"), np.zeros((3, 500), np.uint8)))


def test_golden_vectors_survive_the_round_trip(beats: np.ndarray) -> None:
    inputs = [beats[0], np.arange(7, dtype=np.uint8)]
    outputs = np.array([[1.5, -2.0], [0.25, 3.0]], dtype=np.float32)
    got_inputs, got_outputs = read_golden(write_golden(inputs, outputs))
    for wanted, got in zip(inputs, got_inputs, strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got_outputs, outputs)
