"""A model's answers to n samples, as every task's gates read them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeclin.confidence import Activation, finds_nothing, probabilities, to_logits
from edgeclin.description import Output, Task


@dataclass(frozen=True, slots=True)
class Answers:
    """Logits of every decision that was made.

    Attributes:
        logits: float64 [n, decisions, labels]; one decision a sample, or one a pixel.
        activation: of the outputs that they were made of.
    """

    logits: np.ndarray
    activation: Activation

    @classmethod
    def of(cls, outputs: np.ndarray, task: Task, output: Output) -> Answers:
        """From a model's outputs.

        Args:
            outputs: float [n, values], each row an output in the order of its memory.

        Raises:
            ValueError: the row does not divide into labels.
        """
        n, values = outputs.shape
        width = values if task is Task.CLASSIFICATION else values_of_pixel(output)
        if values % width or not _stands_for(width, output):
            raise ValueError(f"{values} values do not stand for {len(output.labels)} labels")
        if output.axis == "first":
            split = outputs.reshape(n, width, -1).swapaxes(1, 2)
        else:
            split = outputs.reshape(n, -1, width)
        return cls(to_logits(split, output.activation), output.activation)

    @property
    def decisions(self) -> NDArray[np.int64]:
        """The label chosen, int [n, decisions]."""
        chosen: NDArray[np.int64] = self.logits.argmax(axis=-1)
        return chosen

    @property
    def nothing(self) -> NDArray[np.bool_]:
        """Where no one label is found, so that the one chosen is in doubt; bool [n, decisions]."""
        return finds_nothing(self.logits, self.activation)

    def __len__(self) -> int:
        return len(self.logits)

    def confidence(self, temperature: float) -> np.ndarray:
        """The probability of the label chosen, float [n, decisions]."""
        highest: np.ndarray = probabilities(self.logits, temperature).max(axis=-1)
        return highest

    def finding(self, positive: NDArray[np.int64]) -> np.ndarray:
        """Log-odds that any of the positive labels holds, float [n, decisions].

        Args:
            positive: indices of labels.
        """
        others = np.setdiff1d(np.arange(self.logits.shape[-1]), positive)
        return _log_sum_exp(self.logits[..., positive]) - _log_sum_exp(self.logits[..., others])


def values_of_pixel(output: Output) -> int:
    """How many numbers a segmentation model answers with for one pixel."""
    binary = len(output.labels) == 2 and output.activation == "sigmoid"
    return 1 if binary else len(output.labels)


def _stands_for(width: int, output: Output) -> bool:
    """One number may stand for two labels: the first for a low value, the second for a high."""
    return width == len(output.labels) or (width == 1 and len(output.labels) == 2)


def _log_sum_exp(values: np.ndarray) -> np.ndarray:
    highest = values.max(axis=-1)
    total: np.ndarray = highest + np.log(np.exp(values - highest[..., np.newaxis]).sum(axis=-1))
    return total
