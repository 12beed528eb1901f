"""What the stored numbers of a DICOM frame stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeclin.errors import BadFile


def measurements(path: Path, stored: np.ndarray, header: Any, frame: int) -> np.ndarray:
    """A grey frame after the modality LUT, float32 [rows, columns, 1] (PS3.3 C.11.1).

    MONOCHROME1 shows low values white: its values are mirrored within the stored range, so that
    more is brighter in every sample (PS3.3 C.7.6.3.1.2). The VOI window is not applied.

    Raises:
        BadFile: values in a unit that would have to be mirrored, or a slope without an intercept.
    """
    from pydicom.pixels import apply_modality_lut

    table = _modality(header, frame)
    if ("RescaleSlope" in table) != ("RescaleIntercept" in table):
        raise BadFile(path, "has one of rescale slope and intercept without the other")
    if header.PhotometricInterpretation == "MONOCHROME1":
        unit = "HU" if header.get("Modality") == "CT" else table.get("RescaleType") or "US"
        if unit != "US" or stored.dtype.kind == "f":
            raise BadFile(
                path,
                "is MONOCHROME1 (low is white) with values in a unit, and mirrored they would "
                "mean nothing",
                "convert it to MONOCHROME2",
            )
        stored = _mirrored(stored, int(header.BitsStored), signed=stored.dtype.kind == "i")
    values = apply_modality_lut(stored, table)
    return values.astype(np.float32)[..., np.newaxis]


def colours(pixels: np.ndarray, header: Any) -> np.ndarray:
    """A colour frame as RGB [rows, columns, 3]: uint8, or wider where the file stores it so.

    A palette's entries of 16 bits keep their high byte.
    """
    from pydicom.pixels import apply_color_lut

    if header.PhotometricInterpretation != "PALETTE COLOR":
        return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    mapped = np.asarray(apply_color_lut(pixels, header))[..., :3]
    return mapped if mapped.dtype == np.uint8 else (mapped >> 8).astype(np.uint8)


def _modality(header: Any, frame: int) -> Any:
    """What holds the frame's rescale: of itself, of all frames, or of the file."""
    own = list(header.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1]
    for group in (*own, *(header.get("SharedFunctionalGroupsSequence") or [])):
        for item in group.get("PixelValueTransformationSequence") or []:
            return item
    return header


def _mirrored(stored: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    low = -(1 << (bits - 1)) if signed else 0
    return 2 * low + (1 << bits) - 1 - stored.astype(np.int64)
