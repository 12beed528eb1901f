"""Facts about a model that its file cannot tell: `model.toml`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Literal

from edgeclin.errors import BadFile, EdgeclinError
from edgeclin.records import Record, load_toml
from edgeclin.steps import Step, check_steps

SCHEMA = 1


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


class Metric(Record, frozen=True):
    """The figure that must not get worse, and by how much it may."""

    name: Literal["accuracy"] = "accuracy"
    margin: float = 0.02


class Doubt(Record, frozen=True):
    """When the device asks for a second opinion."""

    max_error: float = 0.05
    """Error allowed among confident answers, as an upper confidence bound on held-out samples."""
    audit_share: float = 0.02
    """Share of confident results that are judged again all the same, at random."""


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
    labels = description.output.labels
    if len(set(labels)) != len(labels):
        raise EdgeclinError("output.labels names a label twice")
    if len(labels) < 2:
        raise EdgeclinError("output.labels needs at least two labels")
    for key in ("positive", "urgent"):
        strangers = set(getattr(description.output, key)) - set(labels)
        if strangers:
            raise EdgeclinError(
                f"output.{key} names {', '.join(sorted(strangers))}, which output.labels does not"
            )
    if not description.inputs:
        raise EdgeclinError("no input is described")
    for entry in description.inputs:
        if any(size < 1 for size in entry.shape):
            raise EdgeclinError(f"input {entry.name!r} has a shape with a size below 1")
        check_steps(entry.preprocessing)
    for key, share in (
        ("metric.margin", description.metric.margin),
        ("doubt.max_error", description.doubt.max_error),
        ("doubt.audit_share", description.doubt.audit_share),
    ):
        if not 0 <= share <= 1:
            raise EdgeclinError(f"{key} is {share}; it is a share between 0 and 1")
