"""What a person should know of the data that a conversion was calibrated and judged with."""

from __future__ import annotations

from collections.abc import Iterator

from edgeclin.datasets import Dataset

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
    outside: float,
    instability: float,
) -> Iterator[str]:
    """About the samples that ranges were chosen from.

    Args:
        repeats: how many calibration samples are exact repeats of others.
        outside: share of validation values beyond all of calibration's, once prepared.
        instability: see `Statistics.instability`.
    """
    if len(calibration) < FEW:
        yield f"{len(calibration)} calibration samples; the usual guidance is 500 to 1,000"
    if repeats:
        yield f"{repeats} calibration samples are exact repeats of others"
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
    """About the samples that the gates judge with."""
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
