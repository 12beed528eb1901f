"""Which risk a bundle's confident answers run, and the threshold that keeps a stated one."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeclin import drift
from edgeclin.answered import NOTHING, Answered, Answers, Part, Point, Share, share_of
from edgeclin.bundle import Bundle
from edgeclin.confidence import TIE, finds_nothing, fit, is_sure, probabilities, to_logits
from edgeclin.datasets import Dataset, windowed
from edgeclin.description import Doubt, Output, check_doubt
from edgeclin.drift import Histogram, histogram
from edgeclin.errors import BadFile, BadInput, EdgeclinError
from edgeclin.manifest import Confidence, Manifest
from edgeclin.records import Record, load_json
from edgeclin.runtime import Runtime, require_answerable

SCHEMA = 1
FILE = "confidence.json"
_CALIBRATION = "calibration.json"
_PAGE = "report.html"
_SINCE = (
    '<p class="alarm"><b>Temperature and thresholds were chosen anew since this conversion; '
    f"<code>{FILE}</code> has the figures.</b></p>"
)
_FEW_GROUPS = 30


class LeftOut(Record, frozen=True):
    """Each patient or subject judged by thresholds that were chosen without them.

    Attributes:
        coverage: confident answers.
        error: wrong ones among these; of `labels` those among the answers with each label, where
            each has its own threshold.
        worst: who has the largest share of wrong confident answers, `worst_error`.
    """

    coverage: Share
    error: Share
    labels: tuple[Share, ...]
    worst: str
    worst_error: Share


class Risk(Record, frozen=True):
    """`confidence.json`: how temperature and thresholds were chosen, and what they do.

    The figures are of the samples that they were chosen on; `confidence` holds the bounds that are
    promised of others. `unlike` samples are in doubt whatever their confidence, by the bundle's
    guard, and so are `rejected` ones, which cannot be judged at all, and `empty` ones, in which
    nothing is found (see `finds_nothing`); nothing was chosen on any of them.
    `repeats` are samples that are there already, and count once. `scores` is how the confidence is
    distributed, for drift.
    """

    schema: int
    dataset: str
    samples: int
    repeats: int
    rejected: int
    unlike: int
    empty: int
    engine: str
    confidence: Confidence
    curve: tuple[Point, ...]
    overall: Part
    groups: tuple[Part, ...]
    scores: Histogram
    answered: tuple[Answered, ...] = ()
    left_out: LeftOut | None = None
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
    require_answerable(runtime.bundle)
    check_doubt(doubt, manifest.output)
    runtime.require_fit(dataset)
    _refuse_calibration(runtime.bundle, dataset)
    every = windowed(dataset, runtime.preprocess)
    known = every.truth(manifest.output.labels)
    if known is None:
        raise BadFile(dataset.path, "has no labels", "a risk is the share of wrong answers")
    found = _logits(runtime, every)
    kept = _distinct(every, found[1])
    logits, judged, unlike = (column[kept] for column in found)
    dataset, truth = every.subset(kept), known[kept]
    empty = finds_nothing(logits, manifest.output.activation) & judged & ~unlike
    doubtful = unlike | ~judged | empty
    if doubtful.all():
        raise BadFile(
            dataset.path,
            f"all {len(truth)} samples are rejected, unlike those of calibration, or answered with "
            "nothing found",
        )
    confidence = fit(logits[~doubtful], truth[~doubtful], manifest.output, doubt)
    scores = probabilities(logits, confidence.temperature)
    answers = Answers(
        certainty=scores.max(axis=1),
        decision=np.where(judged & ~empty, scores.argmax(axis=1), NOTHING),
        truth=truth,
        group=np.array(dataset.groups or ("",) * len(truth)),
        doubtful=doubtful,
        confidence=confidence,
        positive=[manifest.output.labels.index(label) for label in manifest.output.positive],
    )
    named = [] if dataset.groups is None else np.unique(answers.group).tolist()
    left_out = None
    if len(named) > 1:
        left_out = _left_out(logits, answers, manifest.output, doubt)
    return Risk(
        schema=SCHEMA,
        dataset=dataset.name,
        samples=len(truth),
        repeats=len(every) - len(truth),
        rejected=int((~judged).sum()),
        unlike=int(unlike.sum()),
        empty=int(empty.sum()),
        engine=runtime.engine,
        confidence=confidence,
        curve=tuple(answers.curve()),
        overall=answers.part("all", np.ones(len(truth), dtype=bool)),
        groups=tuple(answers.part(name, answers.group == name) for name in named),
        scores=histogram("confidence", answers.certainty[judged], TIE),
        answered=tuple(answers.by_label()),
        left_out=left_out,
        warnings=(
            *_about_samples(len(every), len(truth), judged, truth, manifest.output),
            *_warnings(confidence, len(named), left_out),
        ),
    )


def _distinct(dataset: Dataset, judged: NDArray[np.bool_]) -> list[int]:
    """All samples but those that are there already with the same label; two that cannot be judged
    are two, for flat lines are all the same."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for at, what in enumerate(zip(dataset.hashes(), dataset.labels or (), strict=True)):
        if what not in seen or not judged[at]:
            kept.append(at)
        seen.add(what)
    return kept


def _left_out(logits: np.ndarray, answers: Answers, output: Output, doubt: Doubt) -> LeftOut:
    """Choose again without each group."""
    names, whose = np.unique(answers.group, return_inverse=True)
    sure, wrong = np.zeros(len(whose), bool), np.zeros(len(whose), bool)
    decision = logits.argmax(axis=1)
    errors: list[Share] = []
    for index in range(len(names)):
        own = whose == index
        known = ~own & ~answers.doubtful
        if not known.any():
            errors.append(share_of(wrong, own & sure))
            continue
        found = fit(logits[known], answers.truth[known], output, doubt)
        certainty = probabilities(logits[own], found.temperature).max(axis=1)
        sure[own] = is_sure(certainty, decision[own], found) & ~answers.doubtful[own]
        wrong[own] = decision[own] != answers.truth[own]
        errors.append(share_of(wrong, own & sure))
    everyone = np.ones(len(whose), bool)
    labels = range(len(answers.confidence.by_label))
    worst = max(range(len(names)), key=lambda at: (errors[at].value, errors[at].n))
    return LeftOut(
        coverage=share_of(sure, everyone, answers.group),
        error=share_of(wrong, sure, answers.group),
        labels=tuple(share_of(wrong, sure & (decision == at), answers.group) for at in labels),
        worst=str(names[worst]),
        worst_error=errors[worst],
    )


def _about_samples(
    given: int, distinct: int, judged: NDArray[np.bool_], truth: NDArray[np.int64], output: Output
) -> Iterator[str]:
    rejected = int((~judged).sum())
    if distinct < given:
        yield f"{given - distinct} of {given} samples are there already: repeats count once"
    if rejected:
        yield (
            f"{rejected} of {distinct} samples are rejected: they count as in doubt, and those "
            "with a finding as not found"
        )
    for index in sorted(set(range(len(output.labels))) - set(truth[judged].tolist())):
        label = output.labels[index]
        yield f"no sample that can be judged is {label!r}: nothing is known of answers about one"


def _warnings(confidence: Confidence, groups: int, left_out: LeftOut | None) -> Iterator[str]:
    if not groups:
        yield (
            "nobody says whose the samples are (`group`): many of few people promise less than "
            "their number does"
        )
    elif groups < _FEW_GROUPS:
        yield (
            f"the samples are of {groups} patients or subjects: what is promised holds for samples "
            f"like these, and of other people it takes {_FEW_GROUPS} and more to tell"
        )
    if left_out is not None and (expected := _of_others(confidence, left_out)):
        yield (
            f"chosen without each of them, thresholds err in {left_out.error.value:.2%} "
            f"[{left_out.error.low:.2%}, {left_out.error.high:.2%}] of the confident answers about "
            f"them, and in {left_out.worst_error.value:.2%} about {left_out.worst}; "
            f"{_allowed(confidence)} is allowed: {expected}"
        )
    for own in confidence.by_label:
        if not own.coverage:
            yield (
                f"no threshold keeps {own.max_error:.2%} of errors among the {own.answers} answers "
                f"{own.label!r}: each of them will be in doubt"
            )


def _of_others(confidence: Confidence, left_out: LeftOut) -> str:
    """What is to be expected of other people; empty where no more errors than are allowed."""
    pairs = [(left_out.error, confidence.max_error)]
    if confidence.by_label:
        allowed = [own.max_error for own in confidence.by_label]
        pairs = [
            (share, most) for share, most in zip(left_out.labels, allowed, strict=True) if share.n
        ]
    if any(share.value > most for share, most in pairs):
        return "expect more errors of others"
    if any(share.high > most for share, most in pairs):
        return "these people are too few, or differ too much, to promise that of others"
    return ""


def rewritten(bundle: Bundle, risk: Risk) -> tuple[Manifest, dict[str, bytes]]:
    """A bundle's manifest and files with the new confidence and its record.

    Raises:
        NoThreshold: none keeps the stated risk.
    """
    if not risk.confidence.coverage:
        raise NoThreshold(risk)
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    files[FILE] = _json(risk)
    if _PAGE in files and _SINCE.encode() not in files[_PAGE]:
        files[_PAGE] = files[_PAGE].replace(b"</h1>", b"</h1>\n" + _SINCE.encode(), 1)
    if drift.FILE in files:
        reference = load_json(files[drift.FILE], drift.Reference, bundle.path)
        files[drift.FILE] = _json(_with(reference, risk.scores))
    return msgspec.structs.replace(bundle.manifest, confidence=risk.confidence), files


def _with(reference: drift.Reference, scores: Histogram) -> drift.Reference:
    """A reference whose confidence is by the new temperature."""
    histograms = tuple(
        scores if one.quantity == scores.quantity else one for one in reference.histograms
    )
    return msgspec.structs.replace(reference, histograms=histograms)


def _json(record: Record) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


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


def _logits(
    runtime: Runtime, dataset: Dataset
) -> tuple[np.ndarray, NDArray[np.bool_], NDArray[np.bool_]]:
    """Float [n, labels], zeros of what cannot be judged; what can; and what of that is unlike
    calibration."""
    logits = np.zeros((len(dataset), len(runtime.bundle.manifest.output.labels)))
    judged, unlike = np.zeros(len(dataset), bool), np.zeros(len(dataset), bool)
    for index, sample in enumerate(dataset):
        try:
            seen = runtime.preprocess.decoded(sample)
            prepared = runtime.preprocess(seen)
            measures = runtime.guard.measure(seen)
        except BadInput:
            continue
        outputs = runtime.backend.run(prepared)
        runtime.require_sound(outputs)
        own = to_logits(outputs, runtime.bundle.manifest.output.activation)
        logits[index], judged[index] = own, True
        unlike[index] = bool(runtime.guard.unlike(measures, own, int(own.argmax())))
    return logits, judged, unlike
