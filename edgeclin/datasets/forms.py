"""The forms that data come in: an `.npz` file, a folder of files of one kind, or one such file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeclin.datasets.dataset import Dataset
from edgeclin.datasets.folder import rows_of
from edgeclin.datasets.labels import Row
from edgeclin.datasets.npz import open_npz, read_npy
from edgeclin.datasets.pieces import dataset_of
from edgeclin.datasets.reader import Piece
from edgeclin.datasets.readers import IMAGES, KINDS, reader_of
from edgeclin.errors import BadFile
from edgeclin.files import reading, require_file

SAMPLE_SUFFIXES = IMAGES.suffixes | {".npy"}
"""Of files that are one sample and never a data set."""


def open_dataset(path: Path) -> Dataset:
    """Open a data set of any of the forms above.

    Raises:
        BadFile: nothing there, an unknown form, or files that do not fit together.
        MissingExtra: what reads such files is not installed.
    """
    with reading(path):
        if path.is_dir():
            return dataset_of(path, *rows_of(path))
        header = path.with_suffix(".hea")
        if path.suffix in ("", ".dat") and header.is_file():
            raise BadFile(path, "is a part of a WFDB record", f"give its header, {header.name}")
    require_file(path)
    if path.suffix == ".npz":
        return open_npz(path)
    reader = reader_of(path.suffix)
    if reader is not None and reader.series:
        return dataset_of(path, reader, [Row(path)])
    raise BadFile(
        path,
        "not a data set",
        f"give an .npz file, a folder of {KINDS}, or one recording (.csv, .txt, .hea, .dcm)",
    )


def open_one(path: Path) -> Dataset:
    """The samples of one file of any kind that a folder may hold; raises as `open_dataset`."""
    reader = reader_of(path.suffix)
    if reader is None:
        raise BadFile(path, "is of no kind that is read", f"give {KINDS}")
    return dataset_of(path, reader, [Row(path)])


def read_sample(path: Path) -> np.ndarray:
    """One raw sample: an array from `.npy`, an image's bytes, a frame, or a whole recording.

    Raises:
        BadFile: nothing there, none of these, or a file of several frames.
        MissingExtra: what reads such a file is not installed.
    """
    require_file(path)
    if path.suffix == ".npy":
        return read_npy(path)
    reader = reader_of(path.suffix)
    if reader is None:
        raise BadFile(path, "not a sample", f"give a .npy file, or one of {KINDS}")
    frames = reader.look(path).frames
    if frames is not None and frames > 1:
        raise BadFile(path, f"holds {frames} frames, expected one", "give it as a data set")
    return reader.read(Piece(path))
