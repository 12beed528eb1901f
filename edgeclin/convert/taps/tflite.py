"""The tensors of a float TFLite model, executed by LiteRT."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgeclin.errors import MissingExtra

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError as exc:
    raise MissingExtra("LiteRT, which executes TFLite models,", "convert") from exc


class TFLiteTap:
    """A float TFLite model whose tensors are all kept."""

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
        computed = {int(index) for operator in operators for index in operator["outputs"]}
        self._tensors = [
            (str(details[index]["name"]), index)
            for index in sorted(computed | {self._input})
            if details[index]["dtype"] == np.float32
        ]

    def run(self, sample: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        self._interpreter.set_tensor(self._input, sample[np.newaxis])
        self._interpreter.invoke()
        for name, index in self._tensors:
            yield name, self._interpreter.get_tensor(index)
