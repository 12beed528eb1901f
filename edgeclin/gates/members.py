"""What an engine loses in single labels and groups, behind a good average."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import isnan

import numpy as np

from edgeclin.description import Metric
from edgeclin.gates import metrics
from edgeclin.gates.answers import Answers
from edgeclin.gates.bootstrap import Statistic, everyone
from edgeclin.gates.gate import Gate
from edgeclin.gates.trial import Trial

LEAST_MEMBERS = 10
"""With fewer samples of a label or a group, one of them is worth more than any margin: those are
judged together."""
LEAST_FOUND = 3
"""A label that the source found so often, and its engine never, was not lost by chance."""


def lost_labels_gate(trial: Trial) -> Gate:
    """No label that the source finds is never found by the engine, however rare it is."""
    before, after = ((_found(trial, one) > 0).sum(axis=0) for one in (trial.source, trial.engine))
    places = np.flatnonzero((before >= LEAST_FOUND) & (after == 0))
    lost = [trial.output.labels[place] for place in places]
    value = float(len(lost))
    return Gate.judge(
        trial.stage,
        "labels that the engine no longer finds",
        "at most",
        value,
        (value, value),
        0.0,
        len(trial.truth),
        hint=f"it never finds {', '.join(lost)}",
    )


def worst_label_gates(trial: Trial) -> Iterator[Gate]:
    """Change of recall in the label where it is worst; of a picture that of its pixels."""
    labels = trial.output.labels
    gained = _found(trial, trial.engine) - _found(trial, trial.source)
    there = np.stack([(trial.truth == place).sum(axis=1) for place in range(len(labels))], axis=1)
    counts = (there > 0).sum(axis=0)
    few = np.flatnonzero((counts > 0) & (counts < LEAST_MEMBERS))
    parts = {name: [at] for at, name in enumerate(labels) if counts[at] >= LEAST_MEMBERS}
    parts[_together(len(few), "label")] = few.tolist()
    changes = {}
    for name, part in parts.items():
        own, members = gained[:, part].sum(axis=1), there[:, part].sum(axis=1)
        changes[name] = _share(own, members), int((members > 0).sum())
    yield from _worst(trial, "recall in the worst label", changes, trial.margins.loss.worst_label)


def worst_group_gates(trial: Trial) -> Iterator[Gate]:
    """Change in the group where it is worst: of Dice where that is the metric, else of accuracy."""
    if trial.groups is None:
        return
    metric = trial.metric if trial.metric.name == "dice" else Metric(name="accuracy")
    change = trial.change(metric)
    few = {name for name, count in Counter(trial.groups).items() if count < LEAST_MEMBERS}
    together = _together(len(few), "group")
    names = np.array([together if name in few else name for name in trial.groups])
    changes = {}
    for name in np.unique(names):
        member = names == name
        changes[str(name)] = _within(change, member), int(member.sum())
    title = f"{metrics.title(metric)} in the worst group"
    yield from _worst(trial, title, changes, trial.margins.loss.worst_group)


def unjudged(truth: np.ndarray, labels: Sequence[str]) -> dict[str, int]:
    """Labels of which there are too few samples to be judged alone, and how many there are.

    Args:
        truth: label indices, int [n, decisions].
    """
    counts = {name: int((truth == place).any(axis=1).sum()) for place, name in enumerate(labels)}
    return {name: count for name, count in counts.items() if count < LEAST_MEMBERS}


def _worst(
    trial: Trial, title: str, changes: dict[str, tuple[Statistic, int]], margin: float
) -> Iterator[Gate]:
    """Judged by its point estimate; none where there are too few samples of anything.

    Args:
        changes: of each label or group, and on how many samples.
    """
    once = everyone(len(trial.truth))
    enough = {name: one for name, (one, n) in changes.items() if n >= LEAST_MEMBERS}
    values = {name: value for name, one in enough.items() if not isnan(value := one(once))}
    if not values:
        return
    worst = min(values, key=lambda name: values[name])
    change, n = changes[worst]
    yield Gate.judge(
        trial.stage,
        f"change of {title} ({worst})",
        "at least",
        values[worst],
        trial.bootstrap.interval(change),
        -margin,
        n,
    )


def _found(trial: Trial, answers: Answers) -> np.ndarray:
    """How many of a sample's decisions rightly say each label, int [n, labels]."""
    right = answers.decisions == trial.truth
    places = range(len(trial.output.labels))
    return np.stack([(right & (trial.truth == place)).sum(axis=1) for place in places], axis=1)


def _share(own: np.ndarray, members: np.ndarray) -> Statistic:
    """What all members have of something, a member."""

    def value(weights: np.ndarray) -> float:
        total = float(weights @ members)
        return float(weights @ own) / total if total else float("nan")

    return value


def _within(statistic: Statistic, member: np.ndarray) -> Statistic:
    """The figure of some samples alone."""

    def value(weights: np.ndarray) -> float:
        own = weights * member
        return statistic(own) if own.any() else float("nan")

    return value


def _together(count: int, kind: str) -> str:
    return f"{count} {kind}s of fewer than {LEAST_MEMBERS} samples"
