"""Facts about a model that its file cannot tell: `model.toml`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import Enum
from math import inf
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from edgeclin.errors import BadFile, EdgeclinError
from edgeclin.model_files import ModelFacts
from edgeclin.model_files.facts import Shape
from edgeclin.records import Record, load_toml
from edgeclin.steps import Step, check_steps

SCHEMA = 1
_MARK = "FILL IN"
_LONGEST_SIDE = 8
"""Of a picture's sides the longer one is no more times the other."""


class Task(str, Enum):
    """What a model's output means."""

    CLASSIFICATION = "classification"
    MULTI_LABEL = "multi-label"
    REGRESSION = "regression"
    SEGMENTATION = "segmentation"
    DETECTION = "detection"


class Input(Record, frozen=True):
    """One input as the world delivers it, and the steps that make it what the engine takes."""

    name: str
    kind: Literal["signal", "image", "array"]
    shape: tuple[int, ...]
    """Shape of one sample as the engine takes it, without the batch axis."""
    units: str = ""
    sampling_hz: float | None = None
    leads: tuple[str, ...] = ()
    preprocessing: tuple[Step, ...] = ()


class Output(Record, frozen=True):
    """What the engine's numbers stand for."""

    activation: Literal["none", "softmax", "sigmoid"]
    """What the model applied last: `none` means logits."""
    labels: tuple[str, ...]
    positive: tuple[str, ...] = ()
    """Labels of a finding."""
    urgent: tuple[str, ...] = ()
    """Findings that go to the cloud first and survive a power cut."""
    axis: Literal["first", "last"] = "last"
    """Where the labels stand in the output of a segmentation model: NCHW is `first`."""

    @property
    def dual_positive(self) -> int:
        """Which of two labels dual thresholds call positive: the only finding, else the second."""
        return 0 if self.positive == self.labels[:1] else 1


class Metric(Record, frozen=True):
    """The figure that must not get worse, and by how much it may."""

    name: Literal["accuracy", "auc", "sensitivity", "dice"] = "accuracy"
    margin: float | None = None
    """None leaves it to `gates.toml`."""
    specificity: float = 0.9
    """At which sensitivity is read."""
    expected: float | None = None
    """What the trained model reached where it was validated."""


Thresholds: TypeAlias = Literal["one", "per-class", "dual"]
"""One for all answers, one for each label that is answered, or of two labels an upper one for the
score of the positive label and a lower one."""


class Doubt(Record, frozen=True):
    """When the device asks for a second opinion."""

    max_error: float = 0.05
    """Error allowed among confident answers, as an upper confidence bound on held-out samples."""
    audit_share: float = 0.02
    """Share of confident results that are judged again all the same, at random."""
    thresholds: Thresholds = "one"
    """Among which answers `max_error` is kept: all, those with each label, or (`dual`) the
    positive and the negative ones."""
    max_error_positive: float | None = None
    """Of dual thresholds, among positive answers; None is `max_error`."""
    max_error_negative: float | None = None

    def max_errors(self, output: Output) -> tuple[float, ...]:
        """The error allowed among the answers with each label."""
        allowed = [self.max_error] * len(output.labels)
        if self.thresholds == "dual":
            for index, own in (
                (output.dual_positive, self.max_error_positive),
                (1 - output.dual_positive, self.max_error_negative),
            ):
                allowed[index] = self.max_error if own is None else own
        return tuple(allowed)


class Provenance(Record, frozen=True):
    """Where the model comes from."""

    licence: str
    source: str


class Description(Record, frozen=True):
    """One model, as facts."""

    schema: int
    name: str
    version: str
    task: Task
    intended_use: str
    inputs: tuple[Input, ...]
    output: Output
    provenance: Provenance
    metric: Metric = Metric()
    doubt: Doubt = Doubt()


def load_description(path: Path) -> Description:
    """Read and check a `model.toml`.

    Raises:
        BadFile: unknown key, wrong type, or facts that contradict each other.
    """
    description = load_toml(path, Description)
    try:
        _check(description)
    except EdgeclinError as exc:
        raise BadFile(path, str(exc)) from exc
    return description


def _check(description: Description) -> None:
    if description.schema != SCHEMA:
        raise EdgeclinError(f"schema {description.schema} is unknown; this version reads {SCHEMA}")
    check_output(description.output)
    check_inputs(description.inputs)
    metric = description.metric
    for key, share in (
        ("metric.margin", metric.margin),
        ("metric.specificity", metric.specificity),
        ("metric.expected", metric.expected),
        ("doubt.max_error", description.doubt.max_error),
        ("doubt.audit_share", description.doubt.audit_share),
        ("doubt.max_error_positive", description.doubt.max_error_positive),
        ("doubt.max_error_negative", description.doubt.max_error_negative),
    ):
        if share is not None and not 0 <= share <= 1:
            raise EdgeclinError(f"{key} is {share}; it is a share between 0 and 1")
    _check_metric(description)
    check_doubt(description.doubt, description.output)


def _check_metric(description: Description) -> None:
    name, segments = description.metric.name, description.task is Task.SEGMENTATION
    if name in ("auc", "sensitivity") and not description.output.positive:
        raise EdgeclinError(f"metric {name} needs output.positive: which labels are a finding")
    if segments and name != "dice":
        raise EdgeclinError(
            f"metric {name} of a segmentation would count the background: set metric.name to dice"
        )
    if name == "dice" and not segments:
        raise EdgeclinError(f"metric dice does not fit the task {description.task.value}")


def check_output(output: Output) -> None:
    """Refuse labels that contradict each other.

    Raises:
        EdgeclinError: fewer than two, one twice, or a positive or urgent one that is none.
    """
    labels = output.labels
    if len(set(labels)) != len(labels):
        raise EdgeclinError("output.labels names a label twice")
    if len(labels) < 2:
        raise EdgeclinError("output.labels needs at least two labels")
    for key in ("positive", "urgent"):
        strangers = set(getattr(output, key)) - set(labels)
        if strangers:
            raise EdgeclinError(
                f"output.{key} names {', '.join(sorted(strangers))}, which output.labels does not"
            )


def check_doubt(doubt: Doubt, output: Output) -> None:
    """Refuse thresholds that do not fit the labels.

    Raises:
        EdgeclinError: dual ones for more than two labels, or errors of theirs without them.
    """
    if doubt.thresholds == "dual":
        if len(output.labels) != 2:
            raise EdgeclinError(
                f"dual thresholds take two labels, output.labels has {len(output.labels)}: "
                "per-class ones fit"
            )
    elif doubt.max_error_positive is not None or doubt.max_error_negative is not None:
        raise EdgeclinError(
            "max_error_positive and max_error_negative take dual thresholds: set doubt.thresholds"
        )


def check_inputs(inputs: tuple[Input, ...]) -> None:
    """Refuse inputs that no sample could satisfy.

    Raises:
        EdgeclinError: none at all, a size below 1, a rate that is none, or a wrong step.
    """
    if not inputs:
        raise EdgeclinError("no input is described")
    for entry in inputs:
        if any(size < 1 for size in entry.shape):
            raise EdgeclinError(f"input {entry.name!r} has a shape with a size below 1")
        if entry.sampling_hz is not None and not 0 < entry.sampling_hz < inf:
            raise EdgeclinError(f"input {entry.name!r} has a sampling_hz of {entry.sampling_hz}")
        check_steps(entry.preprocessing)


def describe_or_guess(path: Path | None, name: str, facts: ModelFacts) -> Description:
    """Read the description at `path`, or make one of what the model file alone tells.

    Raises:
        BadFile: the description is wrong or not filled in, or the file tells too little to guess.
    """
    if path is not None:
        description = load_description(path)
        _require_filled_in(path, description)
        return description
    if facts.outputs is None or facts.activation is None:
        raise BadFile(
            name, "its file does not tell what it answers", "describe it: `edgeclin describe`"
        )
    if facts.map is not None:
        raise BadFile(
            name, "answers with a map, not with a label", "describe it: `edgeclin describe`"
        )
    labels = tuple(str(index) for index in range(max(2, facts.outputs)))
    return Description(
        schema=SCHEMA,
        name=_file_name(name),
        version="0",
        task=Task.CLASSIFICATION,
        intended_use="not described",
        inputs=tuple(
            Input(name=entry, kind="array", shape=_static(name, shape))
            for entry, shape in facts.inputs
        ),
        output=Output(activation=facts.activation, labels=labels),
        provenance=Provenance(licence="unknown", source="unknown"),
    )


def _require_filled_in(path: Path, description: Description) -> None:
    unfilled = list(_unfilled(msgspec.to_builtins(description)))
    if unfilled:
        raise BadFile(path, f"still says {_MARK} in {', '.join(unfilled)}", "a person must say it")


def _unfilled(value: Any, key: str = "") -> Iterator[str]:
    """Keys of a description in plain values that a person has not filled in."""
    if isinstance(value, str) and _MARK in value:
        yield key
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield from _unfilled(entry, f"{key}.{name}" if key else name)
    elif isinstance(value, (list, tuple)):
        for index, entry in enumerate(value):
            yield from _unfilled(entry, f"{key}[{index}]")


def starter(name: str, facts: ModelFacts) -> str:
    """The text of a `model.toml` to fill in; what the file does not tell says FILL IN."""
    entry, shape = facts.inputs[0]
    shape = shape or ()
    kind = "image" if _is_picture(shape) else "signal"
    task = Task.CLASSIFICATION if facts.map is None else Task.SEGMENTATION
    shown = ", ".join("0" if size is None else str(size) for size in shape)
    labels = max(2, facts.outputs or 2)
    names = ", ".join(f'"class {index}"' for index in range(labels))
    return _STARTER.format(
        schema=SCHEMA,
        name=_file_name(name),
        task=task.value,
        doubt=_doubt_about_task(facts),
        metric="accuracy" if facts.map is None else "dice",
        axis=_AXIS_FIRST if facts.map == "first" else "",
        input=_quoted(entry),
        kind=kind,
        shape=shown,
        preprocessing=_STARTER_STEPS[kind] + (_CHANNELS_FIRST if _is_channels_first(shape) else ""),
        activation=facts.activation or "none",
        known="read from the file" if facts.activation else "FILL IN: the file does not tell",
        labels=names,
        count=facts.outputs if facts.outputs is not None else "an unknown number of",
    )


def _doubt_about_task(facts: ModelFacts) -> str:
    """What else a model's outputs may stand for."""
    outputs = facts.outputs or 0
    if facts.map is not None:
        return "; its output is a map"
    if facts.activation == "sigmoid" and outputs > 1:
        return "; or is each sigmoid a label of its own? That is multi-label"
    if facts.activation == "none" and outputs == 1:
        return "; or is the number itself the answer? That is regression"
    return ""


def _is_picture(shape: Shape) -> bool:
    """Height, width and channels, in any order: a long axis and short ones are a signal's."""
    if len(shape) != 3 or None in shape:
        return len(shape) == 3
    *_, second, longest = sorted(size for size in shape if size is not None)
    return longest <= _LONGEST_SIDE * second


def _static(name: str, shape: Shape | None) -> tuple[int, ...]:
    if shape is None or None in shape:
        raise BadFile(name, "has a dynamic input shape", "describe it: `edgeclin describe`")
    return tuple(size for size in shape if size is not None)


def _is_channels_first(shape: tuple[int | None, ...]) -> bool:
    return len(shape) == 3 and shape[0] in (1, 3) and shape[-1] not in (1, 3)


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name) or "model"


def _quoted(text: str) -> str:
    """A TOML basic string; unlike JSON, TOML escapes DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


_STARTER_STEPS = {
    "signal": """\
# [[inputs.preprocessing]]
# step = "resample"              # from the recorder's rate to the model's
# from_hz = 500
# to_hz = 250
# [[inputs.preprocessing]]
# step = "zscore\"""",
    "image": """\
[[inputs.preprocessing]]
step = "decode"                  # FILL IN: a guess; without it samples are arrays
colour = "rgb"                   # FILL IN: rgb, bgr or grey, as in training
# [[inputs.preprocessing]]
# step = "resize"
# height = 64
# width = 64
# interpolation = "linear"       # the one of training: it moves accuracy
# [[inputs.preprocessing]]
# step = "normalise"             # (value * scale - mean) / std
# scale = 0.00392156862745098""",
}

_AXIS_FIRST = """\
axis = "first"                   # FILL IN: a guess; where the labels stand in the output
"""

_CHANNELS_FIRST = """
[[inputs.preprocessing]]
step = "channels_first"          # [height, width, channels] to the model's order"""

_STARTER = """\
# What the model file cannot tell. Unknown keys are errors; every FILL IN wants a person.
schema = {schema}
name = "{name}"
version = "0.1.0"
task = "{task}"          # FILL IN: a guess{doubt}
intended_use = "FILL IN: who may rely on it, for what, on whom"

[[inputs]]
name = {input}
kind = "{kind}"                  # FILL IN: a guess by the shape; signal, image or array
shape = [{shape}]                # one sample, as the model takes it
units = ""                       # FILL IN, such as "mV"
# sampling_hz = 250
# leads = ["II"]
# The steps between the recorder and the model, exactly as in training:
{preprocessing}

[output]
activation = "{activation}"      # {known}; none means logits
labels = [{labels}]              # FILL IN: the model has {count} outputs, in this order
{axis}positive = []                    # labels of a finding
urgent = []                      # findings that go first and survive a power cut

[metric]
name = "{metric}"
margin = 0.02                    # how much INT8 may cost
# expected = 0.95                # FILL IN: what the model reached where it was validated

[doubt]
max_error = 0.05                 # errors allowed among confident answers
audit_share = 0.02               # share of confident answers judged again, at random
# thresholds = "per-class"       # or "dual" for two labels: each keeps its own share of errors

[provenance]
licence = "FILL IN"
source = "FILL IN: who trained it, on what"
"""
