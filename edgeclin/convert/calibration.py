"""Which samples calibrate, which verify, and the record of what calibration really consumed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeclin.convert import cautions
from edgeclin.convert.copies import near_copies
from edgeclin.convert.quantising import Quantised
from edgeclin.convert.request import Outcome
from edgeclin.convert.rows import begin_rows
from edgeclin.datasets import Dataset, full_windows, require_described
from edgeclin.description import Input
from edgeclin.errors import BadFile, BadInput, ConversionFailed
from edgeclin.preprocess import Preprocess
from edgeclin.records import Record

HELD_OUT = 0.2
_SEED = 20262
_DRAWS = 200


class CalibrationRecord(Record, frozen=True):
    """What a bundle remembers of its calibration."""

    dataset: str
    samples: int
    sample_sha256: tuple[str, ...]
    annotations_sha256: str
    """Of labels and groups."""
    consumed: int
    consumed_sha256: str
    method: str
    method_errors: dict[str, float]
    """Relative MAE on the validation samples, by every method that was tried."""
    instability: float
    """How far two disjoint halves of the samples disagree about a tensor's range (median)."""
    input_low: float
    input_high: float
    validation_outside: float
    """Share of validation values outside [input_low, input_high]."""
    labels: dict[str, int]
    groups: int | None
    validation: str
    validation_samples: int
    validation_sha256: str
    """See `hash_of`."""
    validation_annotations_sha256: str
    left_out: int
    """Recordings of both that are shorter than a window."""
    warnings: tuple[str, ...]


def samples_of(
    calibration: Dataset,
    validation: Dataset | None,
    described: Input,
    allow_shared_groups: bool = False,
) -> tuple[Dataset, Dataset]:
    """What calibrates and what verifies, recordings cut into windows.

    Whole recordings are held out, because windows of one recording resemble each other.

    Raises:
        BadFile: too few to hold any out, a patient or a sample that is in both, or recordings
            of another recorder than the model is described for.
    """
    for dataset in (calibration, validation):
        if dataset is not None:
            require_described(dataset, described)
    preprocess = Preprocess(described)
    if validation is None:
        kept, held_out = split(calibration)
        return full_windows(kept, preprocess), full_windows(held_out, preprocess)
    both = full_windows(calibration, preprocess), full_windows(validation, preprocess)
    refuse_overlap(*both, allow_shared_groups)
    return both


def split(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """Hold out a fifth for validation, whole groups where there are groups; samples that are equal
    stay together. Of `_DRAWS` draws the one is taken that is nearest to a fifth of the samples and
    of every label.

    Raises:
        BadFile: too few samples or groups to hold any out.
    """
    generator = np.random.default_rng(_SEED)
    names, unit = np.unique(np.array(dataset.groups or dataset.hashes()), return_inverse=True)
    count = round(len(names) * HELD_OUT)
    if count < 1 or len(names) < 2:
        raise BadFile(
            dataset.path,
            f"{len(names)} samples or groups are too few to hold any out",
            "give --validation",
        )
    labels = np.unique(np.array(dataset.labels or ("",) * len(dataset)), return_inverse=True)[1]
    draws = [np.isin(unit, generator.permutation(len(names))[:count]) for _ in range(_DRAWS)]
    held_out = min(draws, key=lambda drawn: _unevenness(drawn, labels))
    return (
        dataset.subset(np.flatnonzero(~held_out).tolist()),
        dataset.subset(np.flatnonzero(held_out).tolist()),
    )


def _unevenness(held_out: NDArray[np.bool_], labels: NDArray[np.int64]) -> float:
    """How far the shares held out are from a fifth, of all samples and of the worst label."""
    shares = np.bincount(labels, held_out) / np.bincount(labels)
    return abs(float(held_out.mean()) - HELD_OUT) + float(np.abs(shares - HELD_OUT).max())


def refuse_overlap(
    calibration: Dataset, validation: Dataset, allow_shared_groups: bool = False
) -> None:
    """Refuse a validation set that shares a patient or a sample with calibration.

    Raises:
        BadFile: names what is shared.
    """
    shared = cautions.shared_groups(calibration, validation)
    if shared and not allow_shared_groups:
        raise BadFile(
            validation.path,
            f"shares {len(shared)} groups with {calibration.path}, such as {shared[0]!r}",
            "split by patient, never by sample",
        )
    common = set(calibration.hashes()) & set(validation.hashes())
    if common:
        raise BadFile(
            validation.path,
            f"shares {len(common)} samples with {calibration.path}",
            "validate on samples that calibration has not seen",
        )


def prepare(dataset: Dataset, preprocess: Preprocess, path: Path) -> np.ndarray:
    """Run the preprocessing over a data set into a `.npy` file, one sample in memory at a time.

    Returns:
        the file, mapped: float32 [n, …].

    Raises:
        BadFile: a sample cannot be prepared; names its index.
        OSError: no room at `path`.
    """
    with path.open("wb") as file:
        begin_rows(file, len(dataset), preprocess.shape)
        for index in range(len(dataset)):
            file.write(prepare_one(dataset, index, preprocess).tobytes())
    return np.load(path, mmap_mode="r")


def prepare_one(dataset: Dataset, index: int, preprocess: Preprocess) -> np.ndarray:
    """One sample as the engine takes it, float32.

    Raises:
        BadFile: it cannot be prepared; names its index.
    """
    try:
        return preprocess(dataset[index])
    except BadInput as exc:
        raise BadFile(dataset.path, f"{dataset.place(index)}: {exc}") from exc


def record(
    calibration: Dataset,
    validation: Dataset,
    prepared: np.ndarray,
    prepared_validation: np.ndarray,
    quantised: Quantised | None,
) -> CalibrationRecord:
    """Compare what calibration consumed with what it was given, and note the facts.

    Raises:
        ConversionFailed: it consumed other samples, or not all of them.
    """
    if quantised is not None:
        _refuse_other_samples(prepared, quantised.calibration)
    low, high = float(prepared.min()), float(prepared.max())
    outside = _share_outside(prepared_validation, low, high)
    instability = 0.0 if quantised is None else quantised.instability
    hashes, judged_hashes = tuple(calibration.hashes()), validation.hashes()
    warnings = list(cautions.of_validation(calibration, validation, _repeats(judged_hashes)))
    if quantised is not None:
        copies = near_copies(prepared)
        warnings += cautions.of_calibration(
            calibration, validation, _repeats(hashes), copies, outside, instability
        )
    return CalibrationRecord(
        dataset=calibration.name,
        samples=len(calibration),
        sample_sha256=hashes,
        annotations_sha256=calibration.annotations_hash(),
        consumed=0 if quantised is None else quantised.calibration.consumed,
        consumed_sha256="" if quantised is None else quantised.calibration.consumed_sha256,
        method="none" if quantised is None else quantised.method.value,
        method_errors={}
        if quantised is None
        else {method.value: error for method, error in quantised.errors.items()},
        instability=instability,
        input_low=low,
        input_high=high,
        validation_outside=outside,
        labels=dict(sorted(Counter(calibration.labels or ()).items())),
        groups=None if calibration.groups is None else len(set(calibration.groups)),
        validation=validation.name,
        validation_samples=len(validation),
        validation_sha256=hash_of(judged_hashes),
        validation_annotations_sha256=validation.annotations_hash(),
        left_out=calibration.left_out + validation.left_out,
        warnings=tuple(warnings),
    )


def _repeats(hashes: Sequence[str]) -> int:
    """How many samples are exactly others again."""
    return len(hashes) - len(set(hashes))


def hash_of(hashes: Sequence[str]) -> str:
    """One SHA-256 over those of many samples, in their order."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _share_outside(samples: np.ndarray, low: float, high: float) -> float:
    """One sample in memory at a time."""
    beyond = sum(int(((sample < low) | (sample > high)).sum()) for sample in samples)
    return beyond / samples.size


def _refuse_other_samples(prepared: np.ndarray, seen: Outcome) -> None:
    expected = hashlib.sha256()
    for sample in prepared:
        expected.update(np.ascontiguousarray(sample).tobytes())
    if seen.consumed_sha256 != expected.hexdigest():
        raise ConversionFailed(
            f"calibration consumed {seen.consumed} samples, and not the {len(prepared)} that "
            "it was given: its ranges cannot be trusted"
        )
