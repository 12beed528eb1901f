"""Samples in a fixed order, with what is known of each."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from edgeclin.errors import BadFile


class Samples(Protocol):
    """Raw samples by index; reading one may touch the disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


@runtime_checkable
class Marked(Protocol):
    """Samples that may be too many to read, and are told apart by their files instead."""

    def marks(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Dataset:
    """Samples in a fixed order.

    Attributes:
        name: the file's or folder's name.
        labels: one label a sample as the data spells it, or None.
        groups: one patient or subject a sample, or None.
        recordings: what each was cut from, or None where every sample stands alone.
        encoded: whether the samples are images' bytes, which are nothing before the step `decode`.
        leads: what the columns of every recording are called, where its files say so.
        sampling_hz: the rate of every recording, where its files say so.
        sampling_error: by which share that may be wrong, where it is computed.
        files: the file of each sample, as seen from `path`, where they are in files.
        label_maps: label indices of every pixel, int [n, height, width], in place of labels.
        left_out: recordings that are not among the samples because they hold no full window.
        unread: names of arrays or columns beside these, which nobody reads.
    """

    path: Path
    samples: Samples
    labels: tuple[str, ...] | None = None
    groups: tuple[str, ...] | None = None
    recordings: tuple[str, ...] | None = None
    encoded: bool = False
    leads: tuple[str, ...] | None = None
    sampling_hz: float | None = None
    sampling_error: float = 0.0
    files: tuple[str, ...] | None = None
    label_maps: np.ndarray | None = None
    left_out: int = 0
    unread: tuple[str, ...] = ()

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
        """Label indices, int64 [n], or of label maps [n, height, width]; a numeric label counts as
        an index when it is no name.

        Raises:
            BadFile: a label that is neither a name nor an index of `labels`.
        """
        if self.label_maps is not None:
            return self._mapped(self.label_maps, labels)
        if self.labels is None:
            return None
        known = _indices(labels) | {label: index for index, label in enumerate(labels)}
        strangers = sorted(set(self.labels) - set(known))
        if strangers:
            raise BadFile(
                self.path,
                f"label {strangers[0]!r} is not one of {', '.join(labels)}",
                "describe the labels in model.toml in the order of the model's outputs",
            )
        return np.array([known[label] for label in self.labels], dtype=np.int64)

    def numbered(self, labels: Sequence[str]) -> dict[str, tuple[str, int]]:
        """The labels that only count as indices: each with the name that it stands for and how many
        samples have it."""
        counts = Counter(self.labels or ())
        return {
            number: (labels[index], counts[number])
            for number, index in _indices(labels).items()
            if number in counts and number not in labels
        }

    def _mapped(self, maps: np.ndarray, labels: Sequence[str]) -> np.ndarray:
        low, high = int(maps.min()), int(maps.max())
        if low < 0 or high >= len(labels):
            raise BadFile(
                self.path,
                f"its label maps hold indices from {low} to {high}, there are {len(labels)} labels",
                "describe the labels in model.toml in the order of the model's outputs",
            )
        return maps.astype(np.int64)

    def hashes(self) -> list[str]:
        """SHA-256 of every raw sample's type, shape and bytes."""
        return [sample_hash(sample) for sample in self]

    def annotations_hash(self) -> str:
        """SHA-256 of all that is known of the samples: labels or label maps, and groups."""
        digest = hashlib.sha256(repr((self.labels, self.groups)).encode())
        if self.label_maps is not None:
            digest.update(sample_hash(self.label_maps).encode())
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 that is another one when samples or their order are; files count as their
        names, sizes and times, for there may be too many to read."""
        marks = self.samples.marks() if isinstance(self.samples, Marked) else self.hashes()
        return hashlib.sha256("\n".join(marks).encode()).hexdigest()

    def subset(self, indices: Sequence[int]) -> Dataset:
        """The samples at `indices`, in that order; each is read when it is asked for."""
        return self.derived(_Chosen(self.samples, tuple(indices)), indices)

    def derived(self, samples: Samples, origins: Sequence[int]) -> Dataset:
        """Other samples, of which is known what is known of those at `origins`, one a sample."""

        def of(column: tuple[str, ...] | None) -> tuple[str, ...] | None:
            return None if column is None else tuple(column[at] for at in origins)

        return replace(
            self,
            samples=samples,
            labels=of(self.labels),
            groups=of(self.groups),
            recordings=of(self.recordings),
            files=of(self.files),
            label_maps=None if self.label_maps is None else self.label_maps[list(origins)],
        )

    def place(self, index: int) -> str:
        """Which sample that is, in words for a message."""
        return f"sample {index}" + (f" ({self.files[index]})" if self.files else "")


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Some of other samples, in another order."""

    samples: Samples
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.samples[self.indices[index]]


def _indices(labels: Sequence[str]) -> dict[str, int]:
    return {str(index): index for index in range(len(labels))}


def sample_hash(sample: np.ndarray) -> str:
    """SHA-256 of an array's type, shape and bytes."""
    digest = hashlib.sha256(f"{sample.dtype.str}{sample.shape}".encode())
    digest.update(np.ascontiguousarray(sample).tobytes())
    return digest.hexdigest()
