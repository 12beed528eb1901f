"""The stages of a conversion: each converter's work in a folder of its own, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeclin.backends import Backend, load_backend
from edgeclin.convert.model_copies import copy_model
from edgeclin.convert.request import Outcome, Request
from edgeclin.convert.routes import made_by
from edgeclin.convert.worker import run_converter
from edgeclin.errors import ConversionFailed
from edgeclin.profiles import Profile

BACKEND = {"tflite": "tflite", "onnx": "onnx", "static_onnx": "onnx"}
"""What executes each form on this machine."""
TITLE = {"tflite": "TFLite", "onnx": "ONNX", "static_onnx": "static ONNX"}

_STEADY = 1e-4
"""Of the spread of all outputs: what is summed in another order differs by less."""
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """One form of the model, and its answers to the validation samples.

    Attributes:
        form: such as `tflite`.
        outputs: float32 [n, outputs], or None where only its own framework could ask it.
        engine: what executed it.
        refused: why the kernels of this machine do not load it, if so.
    """

    form: str
    path: Path
    outputs: np.ndarray | None = None
    engine: str = ""
    refused: str = ""


class Workshop:
    """Runs converters one after the other, each in a folder of its own below `folder`."""

    def __init__(self, folder: Path, profile: Profile, progress: Progress) -> None:
        self.folder = folder
        self.profile = profile
        self.progress = progress
        self.tools: dict[str, str] = {}
        self._count = 0

    def run(self, converter: str, model: Path, **request: Any) -> tuple[Path, Outcome]:
        """Run a converter on a copy of a model; returns what it made, and what it says of it."""
        self._count += 1
        folder = self.folder / f"{self._count}-{converter}"
        folder.mkdir()
        copy = copy_model(model, folder)
        asked = Request(model=str(copy), folder=str(folder), profile=self.profile, **request)
        outcome = run_converter(converter, asked, self.progress)
        self.tools.update(outcome.tools)
        return folder / outcome.file, outcome

    def float_stages(
        self,
        source: Stage,
        converters: Sequence[str],
        validation: Path,
        input_shape: tuple[int, ...],
    ) -> tuple[np.ndarray, list[Stage]]:
        """Go the whole way through float forms.

        Returns:
            the source model's own answers, float32 [n, outputs], and every stage after it; where
            there is nothing to convert the source itself is the only stage.
        """
        judged = np.load(validation, mmap_mode="r")
        if not converters:
            asked = ask(source.form, source.path, judged)
            assert asked.outputs is not None
            return asked.outputs, [asked]
        answers, stages, here = None, [], source.path
        for converter in converters:
            self.progress(f"starting the converter {converter}")
            here, outcome = self.run(
                converter, here, samples=str(validation), input_shape=input_shape
            )
            if answers is None:
                answers = np.load(here.parent / outcome.answers).reshape(len(judged), -1)
            form = made_by(converter)
            stages.append(ask(form, here, judged) if form in BACKEND else Stage(form, here))
        assert answers is not None
        return answers, stages


def ask(form: str, path: Path, judged: np.ndarray) -> Stage:
    """Execute a model or an engine on every validation sample, on this machine."""
    loaded: Backend = load_backend(BACKEND[form], path.read_bytes())
    return Stage(form, path, answers(loaded, judged), loaded.version)


def answers(loaded: Backend, judged: np.ndarray) -> np.ndarray:
    """What a model or an engine answers to every sample, float32 [n, outputs]; it is closed.

    Raises:
        ConversionFailed: it answers otherwise when it is asked again.
    """
    try:
        found = np.stack([loaded.run(np.ascontiguousarray(sample)).ravel() for sample in judged])
        again = loaded.run(np.ascontiguousarray(judged[0])).ravel()
        if np.abs(again - found[0]).max() > _STEADY * (float(np.ptp(found)) or 1.0):
            raise ConversionFailed(
                "the model answers otherwise when it is asked again: it draws random numbers, as "
                "dropout in training mode does; export it for inference"
            )
        return found
    finally:
        loaded.close()
