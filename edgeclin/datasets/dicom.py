"""DICOM files: one sample a frame, in the order in which the file holds the frames."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgeclin.datasets.dicom_values import colours, measurements
from edgeclin.datasets.reader import Content, Piece
from edgeclin.errors import BadFile, MissingExtra
from edgeclin.files import open_file, reading
from edgeclin.preprocess.image import MAX_PIXELS

_GREY = {"MONOCHROME1", "MONOCHROME2"}
_COLOUR = {"RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}
_OTHERS = {"HSV", "ARGB", "CMYK", "XYB", "YBR_PARTIAL_420", "YBR_PARTIAL_422"}
_MORE_CODECS = "pip install python-gdcm, which reads more forms, or store it uncompressed"


class DICOMFiles:
    """Grey images as float32 [rows, columns, 1] after the modality LUT or rescale slope and
    intercept (Hounsfield units for CT), colour images as RGB [rows, columns, 3].

    The patient's id never leaves this module: files of one patient share a hash of it.
    """

    kind = "DICOM files"
    suffixes = frozenset({".dcm", ".dicom"})
    encoded = False
    series = True
    scattered = False

    def look(self, path: Path) -> Content:
        header = _header(path)
        with _translated(path, "its header is damaged"):
            if "Rows" not in header:
                raise BadFile(
                    path,
                    f"holds no image ({_registered(header.get('SOPClassUID'))})",
                    "take it out of the data",
                )
            frames = int(header.get("NumberOfFrames") or 1)
            pixels = int(header.Rows) * int(header.get("Columns") or 0)
            group = _pseudonym(header)
        if not 1 <= frames <= path.stat().st_size:
            raise BadFile(path, f"holds {frames} frames, by its header")
        if pixels > MAX_PIXELS:
            raise BadFile(path, f"holds frames of {pixels} pixels", f"read are {MAX_PIXELS}")
        return Content(frames=frames, group=group)

    def read(self, piece: Piece) -> np.ndarray:
        """The frame at `piece.start`."""
        header = _header(piece.path)
        with _translated(piece.path, "its header is damaged"):
            photometric = str(header.get("PhotometricInterpretation", "no colours at all"))
            syntax = header.file_meta.get("TransferSyntaxUID")
        if photometric not in _GREY | _COLOUR:
            known = photometric if photometric in _OTHERS else "no known colours"
            raise BadFile(
                piece.path,
                f"is in {known}, which is not read",
                f"convert it to one of {', '.join(sorted(_GREY | _COLOUR))}",
            )
        with _translated(piece.path, "its pixel data are damaged"):
            pixels = _pixels(piece, syntax)
        with _translated(piece.path, "its lookup tables are damaged"):
            if photometric in _GREY:
                return measurements(piece.path, pixels, header, piece.start)
            return colours(pixels, header)


def _pixels(piece: Piece, syntax: Any) -> np.ndarray:
    """One frame as stored, YBR as RGB: [rows, columns] or [rows, columns, 3]."""
    from pydicom import dcmread
    from pydicom.pixels import get_decoder, pixel_array

    with open_file(piece.path) as file, reading(piece.path):
        try:
            # Only a deflated file must be read whole before a frame of it can be.
            source = dcmread(file) if syntax is not None and syntax.is_deflated else file
            pixels: np.ndarray = pixel_array(source, index=piece.start)
        except OSError:
            raise
        except Exception as exc:  # each codec has errors of its own
            raise _undecoded(piece.path, syntax, get_decoder) from exc
    return pixels


def _undecoded(path: Path, syntax: Any, get_decoder: Any) -> BadFile:
    if syntax is None:
        return BadFile(path, "names no transfer syntax", "write it anew as a DICOM file")
    try:
        readable = get_decoder(syntax).is_available
    except NotImplementedError:
        return BadFile(path, f"its transfer syntax ({_registered(syntax)}) is not one of images")
    if not readable:
        return BadFile(path, f"no installed codec reads {syntax.name}", _MORE_CODECS)
    found = f"its pixel data ({syntax.name}) are missing, cut short or damaged"
    if not syntax.is_encapsulated:
        return BadFile(path, found)
    return BadFile(
        path,
        f"{found}, or in a form that no installed codec reads",
        f"if other programs show it: {_MORE_CODECS}",
    )


def _header(path: Path) -> Any:
    """All but the pixels."""
    try:
        from pydicom import dcmread
    except ImportError as exc:
        raise MissingExtra("pydicom, which reads DICOM files,", "vision") from exc
    with open_file(path) as file, reading(path), _translated(path, "not a DICOM file"):
        return dcmread(file, stop_before_pixels=True)


def _registered(uid: Any) -> str:
    """DICOM's name of a UID; in a damaged file anything at all may stand in its place."""
    return "no known kind" if uid is None or uid.name == uid else str(uid.name)


def _pseudonym(header: Any) -> str | None:
    """16 hexadecimal digits, the same in all files of a patient, or of a study without one."""
    for tag in ("PatientID", "StudyInstanceUID"):
        value = str(header.get(tag) or "").strip()
        if value:
            return hashlib.sha256(f"{tag} {value}".encode()).hexdigest()[:16]
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """pydicom's warnings and log quote what it found, which may be about a patient."""
    log = logging.getLogger("pydicom")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)  # what is below it in name inherits that
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


@contextmanager
def _translated(path: Path, problem: str) -> Iterator[None]:
    """Say one sentence without a word from the file."""
    try:
        with _quiet():
            yield
    except (BadFile, OSError):
        raise
    except Exception as exc:  # pydicom has no one error for damage
        raise BadFile(path, problem) from exc
