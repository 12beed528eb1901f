"""WFDB records, as PhysioNet keeps signals: a header `.hea` and the samples beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgeclin.datasets.reader import Content, Piece
from edgeclin.errors import BadFile, MissingExtra
from edgeclin.files import reading, require_file

_MILLIVOLTS = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "µv": 1e-3, "nv": 1e-6}


class WFDBRecords:
    """Recordings as float32 [samples, leads]: voltages in millivolts, other quantities in the
    header's units, the leads in the header's order. Samples that the record marks as invalid are
    NaN.
    """

    kind = "WFDB records"
    suffixes = frozenset({".hea"})
    encoded = False
    series = True
    scattered = True

    def look(self, path: Path) -> Content:
        header = _header(path)
        files = tuple(path.parent / name for name in dict.fromkeys(header.file_name))
        for file in files:
            if not file.exists():
                raise BadFile(file, f"no such file, although {path.name} names it")
            require_file(file)
        return Content(
            length=header.sig_len,
            group=path.stem,
            companions=files,
            leads=tuple(header.sig_name),
            sampling_hz=float(header.fs),
        )

    def read(self, piece: Piece) -> np.ndarray:
        name = str(piece.path.with_suffix(""))
        with _translated(piece.path, "its samples cannot be read", "is a file of it cut short?"):
            record = _wfdb().rdrecord(name, sampfrom=piece.start, sampto=piece.end)
            scale = [_MILLIVOLTS.get(unit.lower(), 1.0) for unit in record.units]
            samples: np.ndarray = (record.p_signal * scale).astype(np.float32)
        return samples


def _header(path: Path) -> Any:
    require_file(path)
    with _translated(path, "not the header of a WFDB record", "see header(5) of WFDB"):
        header = _wfdb().rdheader(str(path.with_suffix("")))
        segments = hasattr(header, "seg_name")
        whole = segments or len(header.sig_name) == len(header.file_name) == header.n_sig
    if segments:
        raise BadFile(path, "a record of several segments", "name its segments in labels.csv")
    if not whole or not header.n_sig:
        raise BadFile(path, "its header describes no signals")
    if set(header.samps_per_frame) != {1}:
        raise BadFile(path, "holds several samples a frame", "write it anew at one rate")
    return header


@contextmanager
def _translated(path: Path, problem: str, remedy: str) -> Iterator[None]:
    try:
        with reading(path):
            yield
    except (BadFile, MissingExtra):
        raise
    except Exception as exc:  # wfdb has no one error for damage
        raise BadFile(path, problem, remedy) from exc


def _wfdb() -> Any:
    try:
        import wfdb
    except ImportError as exc:
        raise MissingExtra("wfdb, which reads WFDB records,", "wfdb") from exc
    return wfdb
