"""What a conversion will do, and all that can be refused before the long work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeclin.bundle import require_place_for_bundle
from edgeclin.convert import calibration as calibrating
from edgeclin.convert.diagnosis import check_quantiser
from edgeclin.convert.job import Conversion
from edgeclin.convert.routes import FORM, route
from edgeclin.convert.unchanging import unchanging
from edgeclin.convert.worker import converter_names
from edgeclin.datasets import Dataset
from edgeclin.description import Output, Task
from edgeclin.errors import BadFile, EngineUnavailable
from edgeclin.files import require_place_for_page
from edgeclin.gates import Answers
from edgeclin.model_files import ModelFacts, fix_shape, read_model
from edgeclin.preprocess import Preprocess
from edgeclin.toolchains import needed_by, require

VERIFIED_TASKS = (Task.CLASSIFICATION, Task.SEGMENTATION)


@dataclass(frozen=True, slots=True)
class Plan:
    """The way of a model to its engine, and the data that go with it.

    Attributes:
        way: converters from the source to the float form that the engine is made from.
        quantiser: the first to take; empty for the default of the engine.
        calibration_truth, truth: label indices of calibration and validation samples, int
            [n, decisions], or None without labels.
    """

    facts: ModelFacts
    way: tuple[str, ...]
    quantiser: str
    calibration: Dataset
    validation: Dataset
    calibration_truth: NDArray[np.int64] | None
    truth: NDArray[np.int64] | None

    def names(self, output: Output) -> tuple[list[str] | None, list[str] | None]:
        """The label of each calibration and validation sample; label maps have none."""
        return _names(self.calibration_truth, output), _names(self.truth, output)


def _names(truth: NDArray[np.int64] | None, output: Output) -> list[str] | None:
    if truth is None or truth.shape[1] > 1:
        return None
    return [output.labels[index] for index in truth[:, 0]]


def plan(job: Conversion) -> Plan:
    """Find the way, and check that model, description, data and tools fit together.

    Raises:
        BadFile: they do not, or calibration and validation have patients or samples in common.
        EngineUnavailable: no converter for this profile and model, or a toolchain is missing.
        EdgeclinError: the quantiser that was chosen makes no such engines.
    """
    facts = fix_shape(job.model, read_model(job.model), job.input_shape)
    way = route(facts.source, FORM[job.profile.engine], converter_names())
    for toolchain in needed_by(way):
        require(toolchain)
    _check_fit(job, facts)
    quantiser = check_quantiser(job.quantiser, job.profile)
    calibration, validation = calibrating.samples_of(
        job.calibration, job.validation, job.description.inputs[0], job.allow_shared_groups
    )
    calibration, validation = unchanging(calibration), unchanging(validation)
    for data in (calibration, validation):
        calibrating.prepare_one(data, 0, Preprocess(job.description.inputs[0]))
    truths = [_truth(data, job) for data in (calibration, validation)]
    return Plan(facts, way, quantiser, calibration, validation, *truths)


def require_targets(job: Conversion) -> None:
    """Refuse a bundle or a report that could not be written after the long work.

    Raises:
        BadFile: something else stands there, or no file can be made in the folder.
    """
    require_place_for_bundle(job.output)
    if job.report is not None:
        require_place_for_page(job.report)


def _truth(data: Dataset, job: Conversion) -> NDArray[np.int64] | None:
    truth = data.truth(job.description.output.labels)
    return None if truth is None else truth.reshape(len(truth), -1)


def _check_fit(job: Conversion, facts: ModelFacts) -> None:
    description = job.description
    if description.task not in VERIFIED_TASKS:
        raise EngineUnavailable(
            f"the task {description.task.value} cannot be verified by this version, only "
            f"{' and '.join(task.value for task in VERIFIED_TASKS)}"
        )
    if len(description.inputs) != 1:
        raise BadFile(
            job.model,
            f"has one input, model.toml describes {len(description.inputs)}",
            "describe that one alone",
        )
    shape, described = facts.inputs[0][1], description.inputs[0].shape
    if shape != described:
        raise BadFile(
            job.model,
            f"takes the shape {list(shape or ())}, the description says {list(described)}",
            "mend inputs.shape in model.toml",
        )
    if facts.map is not None and description.task is not Task.SEGMENTATION:
        raise BadFile(
            job.model,
            f"answers with a map, model.toml describes the task {description.task.value}",
            "set task to segmentation and metric.name to dice",
        )
    if facts.outputs is not None and description.task is Task.CLASSIFICATION:
        check_values(job, facts.outputs)


def check_values(job: Conversion, values: int) -> None:
    """Refuse a model whose answer to one sample, of so many values, does not fit the description.

    Raises:
        BadFile: says what to mend.
    """
    described = job.description
    try:
        Answers.of(np.zeros((1, values), np.float32), described.task, described.output)
    except ValueError as exc:
        remedy = "mend output.labels in model.toml"
        if described.task is Task.CLASSIFICATION:
            remedy += "; where it answers for each place of a map, the task is segmentation"
        raise BadFile(
            job.model,
            f"answers with {values} values, the description has {len(described.output.labels)} "
            "labels",
            remedy,
        ) from exc
