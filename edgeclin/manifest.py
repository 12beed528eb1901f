"""The table of contents of a bundle: what it is, what every file in it must hash to."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal

import msgspec
import rfc8785

from edgeclin.description import (
    Doubt,
    Input,
    Metric,
    Output,
    Task,
    Thresholds,
    check_inputs,
    check_output,
)
from edgeclin.errors import EdgeclinError
from edgeclin.profiles import Profile
from edgeclin.records import Record

SCHEMA = 1


class FileEntry(Record, frozen=True):
    """One file of a bundle."""

    sha256: str
    size: int


class Engine(Record, frozen=True):
    """One executable form of the model.

    `backend` names the entry point of `edgeclin.backends` that executes it. One that is not
    compiled cannot run yet: its CPU twin does. `mixed` is INT8 but for `float_layers`, which are
    named after the float tensors that they give.
    """

    backend: str
    file: str
    precision: Literal["int8", "mixed", "float32"]
    role: Literal["primary", "cpu-twin"] = "primary"
    state: Literal["ready", "not compiled"] = "ready"
    float_layers: tuple[str, ...] = ()

    def title(self, version: str) -> str:
        """The engine in words, with what executes it."""
        return f"{self.backend} {self.precision}: {version}"


class LabelThreshold(Record, frozen=True):
    """Below which confidence the answer `label` is in doubt.

    Of `answers` held-out samples that were answered with the label `coverage` is the share that was
    confident, and `error` the share of those that was wrong, bounded by `error_bound`.
    """

    label: str
    threshold: float
    max_error: float
    answers: int
    coverage: float
    error: float
    error_bound: float


class Confidence(Record, frozen=True):
    """How probabilities are calibrated, and below which confidence an answer is in doubt.

    Both were fitted on the engine that the bundle carries, on `samples` held-out samples.
    `coverage` is the share of them that was confident and `error` the share of those that was
    wrong; `error_bound` bounds it from above (see `fit_confidence`). `fitted` is
    False when there were no labels: then the temperature is 1 and every answer is in doubt.
    With other `thresholds` than one `by_label` holds a threshold for each label that is answered,
    in the order of the labels (see `fit_by_label`); `threshold`, `max_error` and `error_bound` are
    then the highest of theirs.
    """

    temperature: float
    threshold: float
    max_error: float
    fitted: bool
    samples: int = 0
    coverage: float = 0.0
    error: float = 0.0
    error_bound: float = 1.0
    audit_share: float = 0.0
    thresholds: Thresholds = "one"
    by_label: tuple[LabelThreshold, ...] = ()

    def threshold_of(self, label: int) -> float:
        """The confidence from which the answer with that index is sure."""
        return self.by_label[label].threshold if self.by_label else self.threshold

    def doubt(self, output: Output) -> Doubt:
        """What was asked for when it was fitted."""
        doubt = Doubt(self.max_error, self.audit_share, self.thresholds)
        if self.thresholds != "dual":
            return doubt
        at = output.dual_positive
        return msgspec.structs.replace(
            doubt,
            max_error_positive=self.by_label[at].max_error,
            max_error_negative=self.by_label[1 - at].max_error,
        )

    def said(self, output: Output) -> str:
        """The thresholds in words."""
        if self.thresholds == "one":
            return f"threshold {self.threshold:.3f}"
        if self.thresholds == "dual":
            at = output.dual_positive
            upper, lower = self.threshold_of(at), 1 - self.threshold_of(1 - at)
            return (
                f"{output.labels[at]} {_bound('from', upper)}, {output.labels[1 - at]} "
                f"{_bound('up to', lower)} of its score, in doubt between"
            )
        return "thresholds " + ", ".join(
            f"{own.label} {own.threshold:.3f}" if own.threshold <= 1 else f"{own.label} none"
            for own in self.by_label
        )


def _bound(word: str, score: float) -> str:
    return f"{word} {score:.3f}" if 0 <= score <= 1 else "never"


MEASURES = {
    "signal": ("lowest", "highest", "spread", "roughness", "stretch", "rails"),
    "image": (
        "lowest",
        "highest",
        "brightness",
        "contrast",
        "sharpness",
        "darkest",
        "brightest",
        "tint",
    ),
    "array": ("lowest", "highest"),
}
"""What a guard measures of each kind of input, in this order; `edgeclin.guards` says how."""


class Limit(Record, frozen=True):
    """Between which values a measure lay in every sample that a guard was fitted on.

    `share` of the validation samples lay beyond the limits of the calibration samples alone: so
    often samples of the same kind are flagged.
    """

    measure: str
    low: float
    high: float
    share: float


class ScoreLimit(Record, frozen=True):
    """How far logits may be from those of the validation samples.

    The squared distance is Mahalanobis' to the mean of those with the same answer, with `whitening`
    for one covariance of all (Lee et al. 2018, arXiv 1807.03888); `means` are by label, empty for
    one that was not answered twice, and an answer that is such a one is beyond any limit. `share`
    of the samples lay beyond the limit of the others, by fifths.
    """

    means: tuple[tuple[float, ...], ...]
    whitening: tuple[tuple[float, ...], ...]
    high: float
    samples: int
    share: float


class GuardLimits(Record, frozen=True):
    """What a sample must be like for its answer to be sure: as all of `samples` were, raw but
    decoded, from calibration and validation.

    Attributes:
        flat_leads: the most leads without any variation in one of them.
        share: of the validation samples, those beyond any limit of the calibration samples alone.
        scores: of a classifier's logits.
    """

    samples: int
    flat_leads: int
    limits: tuple[Limit, ...]
    share: float
    scores: ScoreLimit | None = None


class Difference(Record, frozen=True):
    """How far outputs are apart, in their unit: any one of them at most, and all in the mean."""

    worst: float
    mean: float

    def __str__(self) -> str:
        return f"{self.worst:.4g}, {self.mean:.4g} in the mean"

    def within(self, allowed: Difference) -> bool:
        return self.worst <= allowed.worst and self.mean <= allowed.mean


class Golden(Record, frozen=True):
    """Inputs with the outputs that the engine gave for them where it was verified.

    `tolerance` is what kernels of one engine may differ between processors.
    """

    file: str
    samples: int
    tolerance: Difference


class Manifest(Record, frozen=True):
    """Everything that is known of a bundle; canonical JSON (RFC 8785) in `manifest.json`."""

    schema: int
    name: str
    version: str
    created: str
    task: Task
    intended_use: str
    described: bool
    """False when nobody described the model and inputs and labels are guesses."""
    profile: Profile
    engines: tuple[Engine, ...]
    inputs: tuple[Input, ...]
    output: Output
    metric: Metric
    confidence: Confidence
    golden: Golden
    gates_missed: tuple[str, ...]
    """Not empty only when somebody allowed it; it stays for good."""
    tools: dict[str, str]
    licence: str
    source: str
    files: dict[str, FileEntry]
    guard: GuardLimits | None = None

    @property
    def primary(self) -> Engine:
        return next(engine for engine in self.engines if engine.role == "primary")

    @property
    def executable(self) -> Engine:
        """The primary engine, or its CPU twin when that one is not compiled."""
        return next(engine for engine in self._by_rank() if engine.state == "ready")

    def _by_rank(self) -> list[Engine]:
        return sorted(self.engines, key=lambda engine: engine.role != "primary")

    def to_json(self) -> bytes:
        """The canonical bytes, which the signature covers."""
        return rfc8785.dumps(msgspec.to_builtins(self))


def parse_manifest(data: bytes) -> Manifest:
    """Read the bytes of `manifest.json`.

    Raises:
        EdgeclinError: not JSON, an unknown schema or key, or facts that contradict each other.
    """
    try:
        plain: Any = msgspec.json.decode(data)
        schema = plain.get("schema") if isinstance(plain, dict) else None
        if schema != SCHEMA:
            raise EdgeclinError(f"schema {schema!r} is unknown; this version reads {SCHEMA}")
        manifest = msgspec.convert(plain, Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise EdgeclinError(str(exc)) from exc
    _check(manifest)
    return manifest


def check_file_name(name: str) -> None:
    """Refuse a name that could stand for anything but one file inside a bundle.

    Raises:
        EdgeclinError: absolute, with `..`, a drive, a backslash or a NUL, or not in its plain form.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or any(mark in name for mark in "\\:\0"):
        raise EdgeclinError(f"the path {name!r} leaves the bundle")
    if name != path.as_posix() or name == ".":
        raise EdgeclinError(f"the path {name!r} is not written plainly, as {path.as_posix()!r}")


def _check(manifest: Manifest) -> None:
    for name in manifest.files:
        check_file_name(name)
    for file in (*(engine.file for engine in manifest.engines), manifest.golden.file):
        if file not in manifest.files:
            raise EdgeclinError(f"it names {file}, which its list of files does not")
    if sum(engine.role == "primary" for engine in manifest.engines) != 1:
        raise EdgeclinError("it needs exactly one primary engine")
    if all(engine.state != "ready" for engine in manifest.engines):
        raise EdgeclinError("none of its engines is ready to run")
    check_inputs(manifest.inputs)
    check_output(manifest.output)
    _check_confidence(manifest.confidence, manifest.output.labels)
    if manifest.guard is not None:
        _check_guard(manifest.guard, manifest.inputs[0].kind, len(manifest.output.labels))


def _check_guard(guard: GuardLimits, kind: str, labels: int) -> None:
    if tuple(limit.measure for limit in guard.limits) != MEASURES[kind]:
        raise EdgeclinError(f"its guard does not limit {', '.join(MEASURES[kind])}, in this order")
    for limit in guard.limits:
        if not limit.low <= limit.high:
            raise EdgeclinError(f"its guard's {limit.measure} is from {limit.low} to {limit.high}")
    scores = guard.scores
    if scores is None:
        return
    rows = (*filter(None, scores.means), *scores.whitening)
    if len(scores.means) != labels or any(len(row) != labels for row in rows):
        raise EdgeclinError(f"its guard's scores are not of {labels} labels")
    if not scores.whitening:
        raise EdgeclinError("its guard's scores have no whitening")


def _check_confidence(confidence: Confidence, labels: tuple[str, ...]) -> None:
    if confidence.temperature <= 0:
        raise EdgeclinError("its temperature must be above zero")
    own = confidence.by_label
    if confidence.thresholds == "one":
        if own:
            raise EdgeclinError("it has thresholds for labels, but says that there is one for all")
        return
    if tuple(entry.label for entry in own) != labels:
        raise EdgeclinError("its thresholds are not those of its labels, in their order")
    if confidence.thresholds == "dual" and len(labels) != 2:
        raise EdgeclinError(f"it has dual thresholds for {len(labels)} labels, which takes two")
    highest = max(entry.threshold for entry in own), max(entry.max_error for entry in own)
    if (confidence.threshold, confidence.max_error) != highest:
        raise EdgeclinError("its threshold and max_error are not the highest of its labels'")
    if sum(entry.answers for entry in own) != confidence.samples:
        raise EdgeclinError("its labels' answers are not as many as its samples")
