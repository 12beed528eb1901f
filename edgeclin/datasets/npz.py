"""A data set in one `.npz` file: `X` [n, …], optional `y` [n] (of pictures also label maps, indices
[n, height, width]) and `group` [n]; one `.npy` sample.

It is read whole: numpy maps no compressed file. What does not fit into memory belongs in a folder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeclin.datasets.dataset import Dataset
from edgeclin.errors import BadFile

_READ = ("X", "y", "group")


def open_npz(path: Path) -> Dataset:
    """The arrays of an `.npz` file.

    Raises:
        BadFile: damaged, or arrays that do not fit together.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            present = [key for key in _READ if key in arrays.files]
            unread = tuple(key for key in arrays.files if key not in _READ)
            content = {key: _array(arrays[key]) for key in present}
    except Exception as exc:  # numpy has no one error for damage
        raise BadFile(path, "not an .npz file of plain arrays") from exc
    if "X" not in content:
        raise BadFile(path, "has no array X", "store the samples as X [n, …], labels as y [n]")
    samples = content["X"]
    if samples.dtype.kind not in "biufc":
        raise BadFile(path, f"X is of type {samples.dtype}", "it must be numbers")
    if samples.ndim < 2 or not len(samples):
        raise BadFile(path, f"X has the shape {samples.shape}", "it must be [n, …] with n above 0")
    maps = _label_maps(path, content)
    columns = {key: content[key] for key in ("y", "group") if key in content}
    for key, column in columns.items():
        if column.shape != (len(samples),):
            raise BadFile(path, f"{key} has the shape {column.shape}, X has {len(samples)} samples")
    named = {key: tuple(map(_text, column.tolist())) for key, column in columns.items()}
    return Dataset(
        path, samples, named.get("y"), named.get("group"), label_maps=maps, unread=unread
    )


def _label_maps(path: Path, content: dict[str, np.ndarray]) -> np.ndarray | None:
    """Take `y` out of the arrays where it holds more than one label a sample."""
    if "y" not in content or content["y"].ndim < 2:
        return None
    maps = content.pop("y")
    if len(maps) != len(content["X"]) or maps.dtype.kind not in "iub":
        raise BadFile(
            path,
            f"y has the shape {maps.shape}, X has {len(content['X'])} samples; y is {maps.dtype}",
            "give one label a sample, or maps of label indices [n, height, width]",
        )
    return maps


def read_npy(path: Path) -> np.ndarray:
    """The array of a `.npy` file.

    Raises:
        BadFile: damaged, or not an array of numbers.
    """
    try:
        return _array(np.load(path, allow_pickle=False))
    except Exception as exc:
        raise BadFile(path, "not a .npy file of numbers") from exc


def _array(loaded: object) -> np.ndarray:
    """numpy hands out other objects for an archive in place of an array, and the reverse."""
    if not isinstance(loaded, np.ndarray):
        raise TypeError(f"{type(loaded).__name__}, expected an array")
    return loaded


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
