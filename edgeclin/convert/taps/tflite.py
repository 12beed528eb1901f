"""The tensors of a float TFLite model, executed by LiteRT."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeclin.errors import ConversionFailed, MissingExtra

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError as exc:
    raise MissingExtra("LiteRT, which executes TFLite models,", "convert") from exc

_WITH_A_GRAPH = ("IF", "WHILE")
"""Operators whose work is done in a graph of its own, which shows no tensors."""


class TFLiteTap:
    """A float TFLite model whose tensors are all kept.

    Raises:
        ConversionFailed: it computes in a loop or a branch.
    """

    def __init__(self, model: Path, threads: int = 1) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # keeping all tensors is what this is for
            self._interpreter = Interpreter(
                str(model), experimental_preserve_all_tensors=True, num_threads=threads
            )
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self.output = str(self._interpreter.get_output_details()[0]["name"])
        details = {entry["index"]: entry for entry in self._interpreter.get_tensor_details()}
        operators = self._interpreter._get_ops_details()  # there is no public list of them
        _refuse_loops(operators, details)
        given = {entry["index"] for entry in self._interpreter.get_output_details()}
        taken = given | {int(index) for operator in operators for index in operator["inputs"]}
        computed = {int(index) for operator in operators for index in operator["outputs"]}
        self._tensors = [
            (str(details[index]["name"]), index)
            for index in sorted(computed & taken | {self._input})
            if index in details and details[index]["dtype"] == np.float32
        ]  # LiteRT computes no tensor that nothing takes, and the index of an absent one is -1

    def run(self, sample: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        self._interpreter.set_tensor(self._input, sample[np.newaxis])
        self._interpreter.invoke()
        for name, index in self._tensors:
            yield name, self._interpreter.get_tensor(index)


def _refuse_loops(
    operators: Sequence[Mapping[str, Any]], details: Mapping[int, Mapping[str, Any]]
) -> None:
    for operator in operators:
        if operator["op_name"] in _WITH_A_GRAPH:
            name = next(details[index]["name"] for index in operator["outputs"] if index >= 0)
            raise ConversionFailed(
                f"the TFLite model has the operator {operator['op_name']} ({name}), whose inner "
                "tensors cannot be calibrated: make a recurrent layer of Keras with unroll=True, "
                "replace it by convolutions, or take a profile of the engine onnx-qdq, where it "
                "stays in float"
            )
