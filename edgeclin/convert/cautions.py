"""What a person should know of the data that a conversion was calibrated and judged with."""

from __future__ import annotations

from collections.abc import Iterator

from edgeclin.datasets import Dataset
from edgeclin.description import Metric
from edgeclin.gates import Margins

FEW = 500
"""The usual guidance for post-training calibration is 500 to 1,000 samples."""
FEW_HELD_OUT = 100
"""With fewer validation samples, one of them moves every share that the gates judge by over 1 %."""
OUTSIDE = 0.001
UNSTABLE = 0.2


def of_calibration(
    calibration: Dataset,
    validation: Dataset,
    repeats: int,
    copies: int,
    outside: float,
    instability: float,
) -> Iterator[str]:
    """About the samples that ranges were chosen from.

    Args:
        repeats: how many calibration samples are exact repeats of others.
        copies: how many are nearly so, see `near_copies`.
        outside: share of validation values beyond all of calibration's, once prepared.
        instability: see `Statistics.instability`.
    """
    if len(calibration) < FEW:
        yield f"{len(calibration)} calibration samples; the usual guidance is 500 to 1,000"
    if repeats:
        yield f"{repeats} calibration samples are exact repeats of others"
    if copies > repeats:
        yield (
            f"{copies} calibration samples are nearly copies of others, as they are or mirrored: "
            "augmented samples add to the count, not to what was seen"
        )
    if calibration.labels is not None and validation.labels is not None:
        missing = sorted(set(validation.labels) - set(calibration.labels))
        if missing:
            yield f"calibration has no sample of {', '.join(missing)}, validation has"
    if outside > OUTSIDE:
        yield (
            f"{outside:.1%} of the validation values are beyond calibration's range: is it the "
            "same kind of data, in the same units?"
        )
    if instability > UNSTABLE:
        yield (
            f"two halves of the calibration samples disagree by {instability:.0%} about a range "
            "(median of all tensors): more samples would help"
        )


def of_validation(calibration: Dataset, validation: Dataset) -> Iterator[str]:
    """About the samples that the gates judge with, and what neither set could use."""
    for dataset in (calibration, validation):
        if dataset.left_out:
            yield (
                f"{dataset.left_out} recordings of {dataset.name} are left out: each is shorter "
                "than one window"
            )
    if len(validation) < FEW_HELD_OUT:
        yield (
            f"{len(validation)} validation samples; fewer than {FEW_HELD_OUT} prove little about "
            "gates"
        )
    shared = shared_groups(calibration, validation)
    if shared:
        yield (
            f"calibration and validation share {len(shared)} groups, such as {shared[0]!r}: the "
            "figures flatter the engine"
        )


def shared_groups(calibration: Dataset, validation: Dataset) -> list[str]:
    """Patients or subjects of which both sets have samples."""
    return sorted(set(calibration.groups or ()) & set(validation.groups or ()))


def of_gates(margins: Margins, metric: Metric, labelled: bool) -> Iterator[str]:
    """About what the gates could not judge, or were told to judge otherwise."""
    if not labelled:
        yield (
            "no labels: whether the source model itself is right, and what INT8 costs it, was not "
            "measured"
        )
    elif metric.expected is None:
        yield (
            "model.toml does not say what the trained model reached (metric.expected): a source "
            "that is merely worse than it should be would go unnoticed"
        )
    for key, (limit, default) in margins.changed().items():
        yield f"gates.toml sets {key} to {limit:g}; the default is {default:g}"
