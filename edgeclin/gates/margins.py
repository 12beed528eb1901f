"""The limits of all gates: clinical defaults, and a project's own in `gates.toml`."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from pathlib import Path

import msgspec

from edgeclin.description import Metric
from edgeclin.errors import BadFile
from edgeclin.records import Record, load_toml

SCHEMA = 1


class ErrorMargins(Record, frozen=True):
    """Mean absolute output error relative to the range of the source's outputs, at most."""

    float_export: float = 1e-5
    int8: float = 0.05


class DecisionMargins(Record, frozen=True):
    """How often the engine decides as its source does, at least, and on how many samples."""

    agreement: float = 0.95
    least_samples: int = 30
    """Decisions on fewer samples prove nothing: a bootstrap of a handful of equal values has no
    width, so that a single lucky sample would be its own perfect interval."""


class LossMargins(Record, frozen=True):
    """How much of each figure INT8 may cost, at most.

    The metric that `model.toml` names is judged by the bound of its paired interval, the others
    by what was measured.
    """

    accuracy: float = 0.02
    auc: float = 0.02
    sensitivity: float = 0.05
    dice: float = 0.02
    calibration_error: float = 0.05
    worst_group: float = 0.1
    worst_label: float = 0.1

    def of(self, metric: Metric) -> float:
        """How much of the metric may be lost: what `model.toml` says, else this table."""
        default: float = getattr(self, metric.name)
        return default if metric.margin is None else metric.margin


class CalibrationMargins(Record, frozen=True):
    """How far calibration data may differ from validation data, at most.

    Measured on real sets of one kind, split by patient: `roughness` 1.00 to 1.05 and noise in their
    place 2 to 14; `spread` up to 2.1 (four patients against fifty), another unit 10 and more;
    `colours` 0.73 to 1.00 as they are, the reverse of it with red and blue changed over.
    """

    roughness: float = 1.5
    spread: float = 3.0
    colours: float = 0.5
    missing_labels: float = 0.05
    copies: float = 0.01
    accuracy: float = 0.1


class SourceMargins(Record, frozen=True):
    """How far the source model may stay behind `metric.expected` of `model.toml`, at most."""

    expected: float = 0.02


class Margins(Record, frozen=True):
    """`gates.toml`; what it leaves out keeps its default."""

    schema: int = SCHEMA
    calibration: CalibrationMargins = CalibrationMargins()
    source: SourceMargins = SourceMargins()
    error: ErrorMargins = ErrorMargins()
    decisions: DecisionMargins = DecisionMargins()
    loss: LossMargins = LossMargins()

    def changed(self) -> dict[str, tuple[float, float]]:
        """Limits that differ from their defaults: `table.key` to (limit, default)."""
        defaults = dict(_limits(Margins()))
        return {
            key: (limit, defaults[key]) for key, limit in _limits(self) if limit != defaults[key]
        }


def load_margins(path: Path | None) -> Margins:
    """Read a `gates.toml`; the defaults where there is none.

    Raises:
        BadFile: unknown key, wrong type, unknown schema, or a limit below 0.
    """
    if path is None:
        return Margins()
    margins = load_toml(path, Margins)
    if margins.schema != SCHEMA:
        raise BadFile(path, f"schema {margins.schema} is unknown", f"this version reads {SCHEMA}")
    for key, limit in _limits(margins):
        if not isfinite(limit) or limit < 0:
            raise BadFile(path, f"{key} is {limit}", "a limit is a number from 0 up")
    return margins


def _limits(margins: Margins) -> Iterator[tuple[str, float]]:
    for table, entries in msgspec.to_builtins(margins).items():
        if isinstance(entries, dict):
            yield from ((f"{table}.{key}", limit) for key, limit in entries.items())
