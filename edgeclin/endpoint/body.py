"""What a request's body holds, as a sample."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from edgeclin.datasets.dicom import DICOMFiles
from edgeclin.datasets.reader import Piece
from edgeclin.description import Input
from edgeclin.errors import BadFile, BadInput
from edgeclin.inbox import Sample
from edgeclin.sources.json_samples import parse, to_array
from edgeclin.steps import Decode

JSON, NPY, DICOM = "application/json", "application/x-npy", "application/dicom"
PICTURES = ("image/jpeg", "image/png", "image/bmp", "image/tiff", "image/webp")


def media_types(spec: Input) -> tuple[str, ...]:
    """What a bundle with that input takes: pictures only where a step decodes them."""
    decodes = any(isinstance(step, Decode) for step in spec.preprocessing)
    dicom = (DICOM,) if spec.kind == "image" else ()
    return (JSON, NPY, *(PICTURES if decodes else ()), *dicom)


def sample_of(media_type: str, body: bytes) -> tuple[Sample, str | None]:
    """One raw sample, or why the body does not hold one in that form; and the name of its stream
    where the body tells one.

    Args:
        media_type: one of `media_types`.

    Raises:
        MissingExtra: what reads it is not installed.
    """
    named = None
    try:
        if media_type == JSON:
            value = parse(body)
            if isinstance(value, np.ndarray):
                return value, None
            named = value.stream
            return to_array(value.samples), named
        if media_type == NPY:
            return _npy(body), None
        if media_type == DICOM:
            return _dicom(body), None
    except BadInput as problem:
        return problem, named
    return np.frombuffer(body, np.uint8), None


def _npy(body: bytes) -> np.ndarray:
    file = io.BytesIO(body)
    try:
        # What is not .npy, numpy would take for a pickle or an archive.
        sample: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as exc:  # numpy has no one error for damage
        raise BadInput("not a .npy file of numbers") from exc
    if rest := len(body) - file.tell():
        raise BadInput(f"{rest} bytes follow the .npy file's array: send one sample a request")
    return sample


def _dicom(body: bytes) -> np.ndarray:
    reader = DICOMFiles()
    with _in_memory(body) as path:
        try:
            frames = reader.look(path).frames
            if frames != 1:
                raise BadInput(f"a DICOM file of {frames} frames, expected one")
            return reader.read(Piece(path))
        except BadFile as exc:
            raise BadInput(f"the DICOM file in the request: {exc.problem}") from exc


@contextmanager
def _in_memory(body: bytes) -> Iterator[Path]:
    """A file that never touches a disk: it may be about a patient."""
    descriptor = os.memfd_create("body")
    with os.fdopen(descriptor, "wb") as file:
        file.write(body)
        file.flush()
        yield Path(f"/proc/self/fd/{descriptor}")
