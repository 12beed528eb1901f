"""Data sets whose samples must not change while a conversion reads them again and again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from edgeclin.datasets import Dataset
from edgeclin.datasets.dataset import sample_hash
from edgeclin.errors import BadFile


def unchanging(dataset: Dataset) -> Dataset:
    """The same data set; reading a sample that is another than at the first time raises BadFile.

    So the record of a conversion is of the samples that were prepared and judged.
    """
    return replace(dataset, samples=_Unchanging(dataset))


@dataclass(frozen=True, slots=True)
class _Unchanging:
    dataset: Dataset
    seen: dict[int, str] = field(default_factory=dict)
    """SHA-256 of the samples that were read."""

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> np.ndarray:
        sample = self.dataset[index]
        found = sample_hash(sample)
        if self.seen.setdefault(index, found) != found:
            raise BadFile(
                self.dataset.path,
                f"{self.dataset.place(index)} changed while the model was being converted",
                "convert again when nothing writes there",
            )
        return sample
