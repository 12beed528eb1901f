"""Which risk a bundle's confident answers run, and the threshold that keeps a stated one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeclin.bundle import Bundle
from edgeclin.confidence import error_bound, fit, is_sure, probabilities, scipy_part, to_logits
from edgeclin.datasets import Dataset, windowed
from edgeclin.description import Doubt, check_doubt
from edgeclin.errors import BadFile, BadInput, EdgeclinError
from edgeclin.manifest import Confidence, Manifest
from edgeclin.records import Record, load_json
from edgeclin.runtime import Runtime

SCHEMA = 1
FILE = "confidence.json"
_POINTS = 40
_CALIBRATION = "calibration.json"
_FEW_GROUPS = 30


class Share(Record, frozen=True):
    """A share of n samples, with its two-sided 95 % Clopper-Pearson interval."""

    value: float
    low: float
    high: float
    n: int


class Point(Record, frozen=True):
    """One threshold: the share of answers that reach it, the share of these that is wrong, and the
    one-sided 95 % Clopper-Pearson bound on it, for this threshold alone."""

    threshold: float
    coverage: float
    error: float
    error_bound: float


class Part(Record, frozen=True):
    """All samples, or those of one patient or subject.

    Attributes:
        coverage: confident answers.
        error: wrong ones among these.
        sensitivity: of samples with a finding, those answered with one, confident or not; None
            without findings.
        missed: of samples with a finding, those confidently answered without one.
    """

    name: str
    coverage: Share
    error: Share
    sensitivity: Share | None
    missed: Share | None


class Answered(Record, frozen=True):
    """The answers with one label, where each label has its own threshold.

    Attributes:
        coverage: confident ones.
        error: wrong ones among these.
        curve: what every other threshold would do.
    """

    label: str
    coverage: Share
    error: Share
    curve: tuple[Point, ...]


class Risk(Record, frozen=True):
    """`confidence.json`: how temperature and thresholds were chosen, and what they do.

    The figures are of the samples that they were chosen on; `confidence` holds the bounds that are
    promised of others.
    """

    schema: int
    dataset: str
    samples: int
    rejected: int
    engine: str
    confidence: Confidence
    curve: tuple[Point, ...]
    overall: Part
    groups: tuple[Part, ...]
    answered: tuple[Answered, ...] = ()
    warnings: tuple[str, ...] = ()


class NoThreshold(EdgeclinError, ValueError):
    """No threshold keeps the stated share of errors."""

    exit_code = 3

    def __init__(self, risk: Risk) -> None:
        self.risk = risk
        super().__init__(
            f"no threshold keeps {_allowed(risk.confidence)} of errors among confident answers "
            f"on {risk.samples} samples of {risk.dataset}: give more samples, or allow more errors"
        )


def _allowed(confidence: Confidence) -> str:
    shares = dict.fromkeys(own.max_error for own in confidence.by_label) or [confidence.max_error]
    return " or ".join(f"{share:.2%}" for share in shares)


def measure_risk(runtime: Runtime, dataset: Dataset, doubt: Doubt) -> Risk:
    """Fit confidence anew on a labelled data set that calibration has not seen.

    Args:
        doubt: which thresholds, and the share of wrong answers allowed among the confident ones.

    Raises:
        EdgeclinError: the thresholds do not fit the bundle's labels.
        BadFile: no labels, other ones than the bundle's, samples that calibrated the engine, or
            none that it can judge.
    """
    manifest = runtime.bundle.manifest
    check_doubt(doubt, manifest.output)
    runtime.require_fit(dataset)
    _refuse_calibration(runtime.bundle, dataset)
    dataset = windowed(dataset, runtime.preprocess)
    known = dataset.truth(manifest.output.labels)
    if known is None:
        raise BadFile(dataset.path, "has no labels", "a risk is the share of wrong answers")
    logits, judged = _logits(runtime, dataset)
    truth = known[judged]
    confidence = fit(logits, truth, manifest.output, doubt)
    scores = probabilities(logits, confidence.temperature)
    groups = ("",) * len(truth) if dataset.groups is None else _at(dataset.groups, judged)
    answers = _Answers(
        certainty=scores.max(axis=1),
        decision=scores.argmax(axis=1),
        truth=truth,
        group=np.array(groups),
        confidence=confidence,
        positive=[manifest.output.labels.index(label) for label in manifest.output.positive],
    )
    named = [] if dataset.groups is None else np.unique(answers.group).tolist()
    return Risk(
        schema=SCHEMA,
        dataset=dataset.name,
        samples=len(truth),
        rejected=len(dataset) - len(truth),
        engine=runtime.engine,
        confidence=confidence,
        curve=tuple(answers.curve()),
        overall=answers.part("all", np.ones(len(truth), dtype=bool)),
        groups=tuple(answers.part(name, answers.group == name) for name in named),
        answered=tuple(answers.by_label()),
        warnings=tuple(_warnings(confidence, len(named))),
    )


def _warnings(confidence: Confidence, groups: int) -> Iterator[str]:
    if 0 < groups < _FEW_GROUPS:
        yield (
            f"the samples are of {groups} patients or subjects: what is promised holds for samples "
            f"like these, and of other people it takes {_FEW_GROUPS} and more to tell"
        )
    for own in confidence.by_label:
        if not own.coverage:
            yield (
                f"no threshold keeps {own.max_error:.2%} of errors among the {own.answers} answers "
                f"{own.label!r}: each of them will be in doubt"
            )


def rewritten(bundle: Bundle, risk: Risk) -> tuple[Manifest, dict[str, bytes]]:
    """A bundle's manifest and files with the new confidence and its record.

    Raises:
        NoThreshold: none keeps the stated risk.
    """
    if not risk.confidence.coverage:
        raise NoThreshold(risk)
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    files[FILE] = msgspec.json.format(msgspec.json.encode(risk), indent=1) + b"\n"
    return msgspec.structs.replace(bundle.manifest, confidence=risk.confidence), files


def _refuse_calibration(bundle: Bundle, dataset: Dataset) -> None:
    from edgeclin.convert.calibration import CalibrationRecord

    if _CALIBRATION not in bundle.manifest.files:
        return
    record = load_json(bundle.read(_CALIBRATION), CalibrationRecord, bundle.path)
    common = set(record.sample_sha256) & set(dataset.hashes())
    if common:
        raise BadFile(
            dataset.path,
            f"holds {len(common)} samples that calibrated the engine",
            "choose a threshold on samples that it has not seen",
        )


def _logits(runtime: Runtime, dataset: Dataset) -> tuple[np.ndarray, list[int]]:
    """Of the samples that can be judged, float [n, labels], and which these are."""
    rows, judged = [], []
    for index, sample in enumerate(dataset):
        try:
            rows.append(runtime.backend.run(runtime.preprocess(sample)))
        except BadInput:
            continue
        judged.append(index)
    if not rows:
        raise BadFile(dataset.path, f"all {len(dataset)} samples are rejected")
    return to_logits(np.stack(rows), runtime.bundle.manifest.output.activation), judged


def _at(column: Sequence[str], places: Sequence[int]) -> tuple[str, ...]:
    return tuple(column[place] for place in places)


@dataclass(frozen=True, slots=True)
class _Answers:
    """What was answered and what was true, a sample.

    Attributes:
        positive: indices of the labels that are findings.
    """

    certainty: np.ndarray
    decision: NDArray[np.int64]
    truth: NDArray[np.int64]
    group: NDArray[np.str_]
    confidence: Confidence
    positive: Sequence[int]

    @property
    def sure(self) -> NDArray[np.bool_]:
        return is_sure(self.certainty, self.decision, self.confidence)

    def curve(self, members: NDArray[np.bool_] | None = None) -> Iterator[Point]:
        """Of all answers or of some, from the most confident ones to all of them, at most `_POINTS`
        thresholds."""
        chosen = np.flatnonzero(np.ones(len(self.truth), bool) if members is None else members)
        order = chosen[np.argsort(-self.certainty[chosen], kind="stable")]
        certainty, wrong = self.certainty[order], (self.decision != self.truth)[order]
        ends = np.flatnonzero(np.diff(certainty, append=-1.0)) + 1
        if not len(ends):
            return
        for end in ends[np.unique(np.linspace(0, len(ends) - 1, _POINTS).astype(int))].tolist():
            errors = int(wrong[:end].sum())
            yield Point(
                threshold=float(certainty[end - 1]),
                coverage=end / len(order),
                error=errors / end,
                error_bound=error_bound(errors, end),
            )

    def part(self, name: str, members: NDArray[np.bool_]) -> Part:
        """The figures of some samples."""
        sure = self.sure
        wrong = self.decision != self.truth
        finding = np.isin(self.truth, self.positive) & members
        found = np.isin(self.decision, self.positive)
        return Part(
            name=name,
            coverage=_share(sure, members),
            error=_share(wrong, members & sure),
            sensitivity=_share(found, finding) if finding.any() else None,
            missed=_share(sure & ~found, finding) if finding.any() else None,
        )

    def by_label(self) -> Iterator[Answered]:
        """The answers with each label that has a threshold of its own."""
        wrong = self.decision != self.truth
        for index, own in enumerate(self.confidence.by_label):
            members = self.decision == index
            yield Answered(
                label=own.label,
                coverage=_share(self.sure, members),
                error=_share(wrong, members & self.sure),
                curve=tuple(self.curve(members)),
            )


def _share(what: NDArray[np.bool_], among: NDArray[np.bool_]) -> Share:
    n, hits = int(among.sum()), int((what & among).sum())
    if not n:
        return Share(value=0.0, low=0.0, high=1.0, n=0)
    ppf = scipy_part("stats").beta.ppf
    low = float(ppf(0.025, hits, n - hits + 1)) if hits else 0.0
    high = float(ppf(0.975, hits + 1, n - hits)) if hits < n else 1.0
    return Share(value=hits / n, low=low, high=high, n=n)
