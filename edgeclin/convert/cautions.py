"""What a person should know of the data that a conversion was calibrated and judged with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from edgeclin.convert.judging import Judge
from edgeclin.datasets import Dataset
from edgeclin.description import Metric
from edgeclin.gates import Margins
from edgeclin.gates.members import LEAST_MEMBERS, unjudged
from edgeclin.manifest import Confidence
from edgeclin.profiles import Profile

FEW = 500
"""The usual guidance for post-training calibration is 500 to 1,000 samples."""
FEW_HELD_OUT = 100
"""With fewer validation samples, one of them moves every share that the gates judge by over 1 %."""
FEW_GROUPS = 30
"""Of 30 patients one in twenty is missed wholly with a chance of 21 % (0.95 ** 30)."""
OUTSIDE = 0.001
UNSTABLE = 0.2
_LISTED = 8


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


def of_validation(calibration: Dataset, validation: Dataset, repeats: int) -> Iterator[str]:
    """About the samples that the gates judge with, and what neither set could use.

    Args:
        repeats: how many validation samples are exact repeats of others.
    """
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
    if repeats:
        yield f"{repeats} validation samples are exact repeats of others: they prove nothing more"
    for dataset in (calibration, validation):
        if dataset.unread:
            listed = ", ".join(f"`{name}`" for name in dataset.unread[:_LISTED])
            yield f"of {dataset.name} nobody reads {listed}; patients or subjects are `group`"
    if not any(data.groups or data.recordings for data in (calibration, validation)):
        yield (
            "nobody says whose the samples are (`group`): whether calibration and validation share "
            "patients was not checked, and many samples of few people prove less than their number "
            "does"
        )
    together = len(set(validation.groups or validation.recordings or ()))
    if 0 < together < FEW_GROUPS:
        what = "groups" if validation.groups else "recordings"
        yield (
            f"the validation samples are of {together} {what}: other patients may fare otherwise; "
            f"{FEW_GROUPS} or more tell better"
        )
    if (calibration.groups is None) != (validation.groups is None):
        named = calibration if validation.groups is None else validation
        yield (
            f"only {named.name} says whose its samples are (group): whether calibration and "
            "validation share patients was not checked"
        )
    shared = shared_groups(calibration, validation)
    if shared:
        yield (
            f"calibration and validation share {len(shared)} groups, such as {shared[0]!r}: the "
            "figures flatter the engine"
        )


def of_labels(validation: Dataset, labels: Sequence[str]) -> Iterator[str]:
    """About labels that are numbers: no gate can tell whether the names are in the outputs' order,
    for the names were not compared with anything."""
    numbered = validation.numbered(labels)
    if numbered:
        listed = [f"{y} is {name} (n={n})" for y, (name, n) in list(numbered.items())[:_LISTED]]
        if len(numbered) > _LISTED:
            listed.append(f"and {len(numbered) - _LISTED} more")
        yield (
            f"the labels of {validation.name} are numbers, so that no gate saw whether "
            "output.labels is in the order of the model's outputs: compare this yourself, or give "
            "names\n  " + ",\n  ".join(listed)
        )


def shared_groups(calibration: Dataset, validation: Dataset) -> list[str]:
    """Patients or subjects of which both sets have samples, however they spell them."""
    ours = {_plain(name) for name in calibration.groups or ()}
    return sorted({name for name in validation.groups or () if _plain(name) in ours})


def _plain(name: str) -> str:
    """`7`, `7.0` and `07`, `P3` and `p3 ` are one patient each."""
    text = name.strip().casefold()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text


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
    default = getattr(Margins().loss, metric.name)
    if metric.margin is not None and metric.margin > default:
        yield f"model.toml sets metric.margin to {metric.margin:g}; the default is {default:g}"
    for key, (limit, usual) in margins.changed().items():
        yield f"gates.toml sets {key} to {limit:g}; the default is {usual:g}"


def of_size(engine: Path, model: Path, profile: Profile) -> Iterator[str]:
    """About what quantising did not gain, and what the device is said to hold.

    Args:
        model: the float form that the engine was made from.
    """
    size, float_size = engine.stat().st_size, model.stat().st_size
    if profile.numeric.precision != "float32" and size >= float_size:
        yield f"the engine is no smaller than its float form: {size:,} bytes against {float_size:,}"
    most = profile.limits.max_model_mb
    if size > most * 1e6:
        yield f"the engine has {size / 1e6:.1f} MB, the profile {profile.name} allows {most:g} MB"


def of_judging(judge: Judge, outputs: np.ndarray, confidence: Confidence) -> Iterator[str]:
    """About what the validation samples are too few to show of an engine.

    Args:
        outputs: the engine's, float32 [n, outputs].
        confidence: fitted on them.
    """
    if judge.truth is None:
        return
    few = unjudged(judge.truth, judge.description.output.labels)
    if few:
        listed = ", ".join(f"{name} ({count})" for name, count in list(few.items())[:_LISTED])
        if len(few) > _LISTED:
            listed += f" and {len(few) - _LISTED} more"
        yield (
            f"labels with fewer than {LEAST_MEMBERS} validation samples, so that what INT8 costs "
            f"each was not judged alone: {listed}"
        )
    bound, margin = judge.could_lose(outputs), judge.margins.loss.of(judge.description.metric)
    if bound is not None and bound > margin:
        yield (
            f"on {len(judge.truth)} validation samples a true loss of up to {bound:.1%} cannot be "
            f"excluded (95 %); the margin is {margin:.1%}, and takes more samples to prove"
        )
    if confidence.fitted and not confidence.coverage:
        yield (
            f"no threshold keeps {confidence.max_error:.0%} of errors among confident answers on "
            "these samples: EVERY answer of this bundle will be in doubt. The model errs more "
            "often than doubt.max_error allows, the samples are few, or their preprocessing is "
            "another"
        )
    elif silent := [own.label for own in confidence.by_label if not own.coverage]:
        yield (
            f"no threshold keeps the allowed errors among the answers {', '.join(silent)}: each of "
            "them will be in doubt"
        )
