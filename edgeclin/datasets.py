"""Data with or without labels: read the same way for calibration, validation, run and predict.

Three forms are read: an `.npz` file (`X` [n, …], optional `y` [n] and `group` [n]), a folder of
images with `labels.csv` (columns file, label and optional group), and a folder of images with one
subfolder a label.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from edgeclin.errors import BadFile
from edgeclin.files import reading, require_file

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


class Samples(Protocol):
    """Raw samples by index; reading one may touch the disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Dataset:
    """Samples in a fixed order.

    Attributes:
        name: the file's or folder's name.
        labels: one label a sample as the data spells it, or None.
        groups: one patient or subject a sample, or None.
    """

    path: Path
    samples: Samples
    labels: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        return self.path.name

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.samples[index] for index in range(len(self.samples)))

    def __getitem__(self, index: int) -> np.ndarray:
        return self.samples[index]

    def truth(self, labels: Sequence[str]) -> np.ndarray | None:
        """Label indices, int64 [n]; a numeric label counts as an index when it is no name.

        Raises:
            BadFile: a label that is neither a name nor an index of `labels`.
        """
        if self.labels is None:
            return None
        known = {label: index for index, label in enumerate(labels)}
        known |= {str(index): index for index in range(len(labels)) if str(index) not in known}
        strangers = sorted(set(self.labels) - set(known))
        if strangers:
            raise BadFile(
                self.path,
                f"label {strangers[0]!r} is not one of {', '.join(labels)}",
                "describe the labels in model.toml in the order of the model's outputs",
            )
        return np.array([known[label] for label in self.labels], dtype=np.int64)

    def hashes(self) -> list[str]:
        """SHA-256 of every raw sample's type, shape and bytes."""
        return [sample_hash(sample) for sample in self]

    def fingerprint(self) -> str:
        """SHA-256 that is another one when samples or their order are; images count as their
        names, sizes and times, for there may be too many to read."""
        files = self.samples if isinstance(self.samples, _ImageFiles) else None
        marks = self.hashes() if files is None else files.marks()
        return hashlib.sha256("\n".join(marks).encode()).hexdigest()

    def subset(self, indices: Sequence[int]) -> Dataset:
        """The samples at `indices`, in that order."""
        chosen = [self[index] for index in indices]
        return Dataset(
            self.path,
            chosen,
            None if self.labels is None else tuple(self.labels[index] for index in indices),
            None if self.groups is None else tuple(self.groups[index] for index in indices),
        )


def sample_hash(sample: np.ndarray) -> str:
    """SHA-256 of an array's type, shape and bytes."""
    digest = hashlib.sha256(f"{sample.dtype.str}{sample.shape}".encode())
    digest.update(np.ascontiguousarray(sample).tobytes())
    return digest.hexdigest()


def open_dataset(path: Path) -> Dataset:
    """Open a data set of any of the forms above.

    Raises:
        BadFile: nothing there, an unknown form, or arrays that do not fit together.
    """
    with reading(path):
        if path.is_dir():
            return _from_folder(path)
    require_file(path)
    if path.suffix == ".npz":
        return _from_npz(path)
    raise BadFile(path, "not a data set", "give an .npz file or a folder of images")


def read_sample(path: Path) -> np.ndarray:
    """One raw sample: an array from `.npy`, or an image's bytes.

    Raises:
        BadFile: nothing there, or neither of the two.
    """
    require_file(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        with reading(path):
            return np.frombuffer(path.read_bytes(), dtype=np.uint8)
    if path.suffix != ".npy":
        raise BadFile(path, "not a sample", "give a .npy file or an image")
    try:
        return _array(np.load(path, allow_pickle=False))
    except Exception as exc:  # numpy has no one error for damage
        raise BadFile(path, "not a .npy file of numbers") from exc


def _from_npz(path: Path) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            present = [key for key in ("X", "y", "group") if key in arrays.files]
            content = {key: _array(arrays[key]) for key in present}
    except Exception as exc:
        raise BadFile(path, "not an .npz file of plain arrays") from exc
    if "X" not in content:
        raise BadFile(path, "has no array X", "store the samples as X [n, …], labels as y [n]")
    samples = content["X"]
    if samples.ndim < 2 or not len(samples):
        raise BadFile(path, f"X has the shape {samples.shape}", "it must be [n, …] with n above 0")
    columns = {key: content[key] for key in ("y", "group") if key in content}
    for key, column in columns.items():
        if column.shape != (len(samples),):
            raise BadFile(path, f"{key} has the shape {column.shape}, X has {len(samples)} samples")
    named = {key: tuple(map(_text, column.tolist())) for key, column in columns.items()}
    return Dataset(path, samples, named.get("y"), named.get("group"))


def _array(loaded: object) -> np.ndarray:
    """numpy hands out other objects for an archive in place of an array, and the reverse."""
    if not isinstance(loaded, np.ndarray):
        raise TypeError(f"{type(loaded).__name__}, expected an array")
    return loaded


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


class _ImageFiles:
    """Encoded images, read from disk one at a time."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_sample(self._paths[index])

    def marks(self) -> list[str]:
        """Name, size and time of change of each file."""
        return [f"{path.parent.name}/{path.name} {_size_and_time(path)}" for path in self._paths]


def _size_and_time(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "gone"
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _from_folder(folder: Path) -> Dataset:
    table = folder / "labels.csv"
    if table.exists():
        return _from_table(folder, table)
    # Not `glob`, which leaves out without a word what it may not read.
    subfolders = [entry for entry in folder.iterdir() if entry.is_dir()]
    paths = sorted(file for subfolder in subfolders for file in _images(subfolder))
    beside = sorted(_images(folder))
    if paths and beside:
        raise BadFile(
            beside[0],
            f"stands beside subfolders of images, such as {paths[0].parent.name}",
            "keep to one of the two",
        )
    if paths:
        return Dataset(folder, _ImageFiles(paths), tuple(file.parent.name for file in paths))
    if not beside:
        raise BadFile(folder, "no images in it, nor in its subfolders")
    return Dataset(folder, _ImageFiles(beside))


def _from_table(folder: Path, table: Path) -> Dataset:
    require_file(table)
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as exc:
        raise BadFile(table, f"cannot be read as CSV in UTF-8 ({exc})") from exc
    if not {"file", "label"} <= columns:
        raise BadFile(table, "needs the columns file and label (and may have group)")
    if not rows:
        raise BadFile(table, "has no rows")
    wanted = {"file", "label", "group"} & columns
    for number, row in enumerate(rows, 1):
        if any(row[column] is None for column in wanted):
            raise BadFile(table, f"row {number} has fewer cells than the first line names")
    paths = [folder / row["file"] for row in rows]
    for path in paths:
        if not path.is_file():
            raise BadFile(path, f"no such file, although {table.name} names it")
    groups = tuple(row["group"] for row in rows) if "group" in columns else None
    return Dataset(folder, _ImageFiles(paths), tuple(row["label"] for row in rows), groups)


def _images(folder: Path) -> Iterator[Path]:
    for file in folder.iterdir():
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.is_dir():
            require_file(file)
            yield file
