"""How far an engine's logits are from those of the samples that it was validated on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeclin.manifest import ScoreLimit


class ScoreDistance:
    """The squared Mahalanobis distance to the mean of the samples with the same answer.

    Args:
        means: of the logits with each answer, float [labels], by the answer's index.
        whitening: of what is left of them around their means, float [rank, labels].
    """

    def __init__(self, means: Mapping[int, np.ndarray], whitening: np.ndarray) -> None:
        self._whitening = whitening
        self._means = {label: whitening.dot(mean) for label, mean in means.items()}

    @classmethod
    def of(cls, limit: ScoreLimit) -> ScoreDistance:
        means = {index: np.array(mean) for index, mean in enumerate(limit.means) if mean}
        return cls(means, np.array(limit.whitening))

    def __call__(self, logits: np.ndarray, answer: int) -> float:
        """Of logits, float [labels], and the index of the highest; infinite where there was no
        other such answer."""
        mean = self._means.get(answer)
        if mean is None:
            return float("inf")
        apart = self._whitening.dot(logits) - mean
        return float(apart.dot(apart))
