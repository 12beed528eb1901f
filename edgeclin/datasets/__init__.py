"""Data with or without labels, read the same way for calibration, validation, predict and run."""

from edgeclin.datasets.dataset import Dataset, Samples, sample_hash
from edgeclin.datasets.described import require_described
from edgeclin.datasets.forms import SAMPLE_SUFFIXES, open_dataset, open_one, read_sample
from edgeclin.datasets.windows import full_windows, windowed

__all__ = [
    "SAMPLE_SUFFIXES",
    "Dataset",
    "Samples",
    "full_windows",
    "open_dataset",
    "open_one",
    "read_sample",
    "require_described",
    "sample_hash",
    "windowed",
]
