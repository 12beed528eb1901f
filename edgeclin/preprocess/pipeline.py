"""The steps of one input, in order, with the checks that keep a broken sample out of an engine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from math import isfinite
from typing import Any, TypeAlias

import msgspec
import numpy as np

from edgeclin import steps
from edgeclin.backends.base import Backend
from edgeclin.description import Input
from edgeclin.errors import BadInput, EdgeclinError
from edgeclin.preprocess import image, signal
from edgeclin.preprocess.lookup import split

Sample: TypeAlias = np.ndarray
"""A raw sample: numbers as the source delivers them, or an encoded image as uint8 [bytes]."""

_STEPS: dict[type, Callable[[np.ndarray, Any], np.ndarray]] = {
    steps.Resample: signal.resample,
    steps.Detrend: signal.detrend,
    steps.Leads: signal.leads,
    steps.ZScore: signal.zscore,
    steps.Clip: signal.clip,
    steps.Decode: image.decode,
    steps.Resize: image.resize,
    steps.Crop: image.crop,
    steps.VOIWindow: image.voi_window,
    steps.Normalise: image.normalise,
    steps.ChannelsFirst: image.channels_first,
}


class Preprocess:
    """What turns a raw sample of one input into what the engine takes.

    Attributes:
        shape: of one prepared sample, without the batch axis.
        digest: SHA-256 of the steps and the shape; equal digests compute equal values.
        window: the step that cuts recordings, or None.
    """

    def __init__(self, spec: Input) -> None:
        self.shape = spec.shape
        self.digest = hashlib.sha256(
            msgspec.json.encode({"shape": spec.shape, "steps": spec.preprocessing}, order="sorted")
        ).hexdigest()
        first = spec.preprocessing[0] if spec.preprocessing else None
        self.window = first if isinstance(first, steps.Window) else None
        rest = spec.preprocessing[1:] if self.window else spec.preprocessing
        self._decode = first if isinstance(first, steps.Decode) else None
        applied = [(_STEPS[type(step)], step) for step in rest]
        self._before, self._lookup, self._after = split(applied)

    @property
    def cut(self) -> str:
        """How a recording becomes samples, in words: positions in it mean the same where this is
        the same."""
        if self.window is None:
            return "whole"
        return f"windows of {self.window.length}, every {self.window.hop}"

    def decoded(self, sample: Sample) -> Sample:
        """A sample as numbers in this machine's byte order: an encoded image decoded, anything else
        as it is.

        Raises:
            BadInput: an image that cannot be decoded.
        """
        value = _native(np.asarray(sample))
        return value if self._decode is None else image.decode(value, self._decode)

    def require_colours(self) -> None:
        """Refuse frames where no step `decode` says in which order of colours the model takes them.

        Raises:
            EdgeclinError: that step is missing.
        """
        if self._decode is None:
            raise EdgeclinError(
                "frames of a camera or video need the step `decode` in model.toml, which says the "
                "order of colours"
            )

    def coloured(self, frame: np.ndarray) -> Sample:
        """A frame as OpenCV gives it, uint8 [height, width, 3] in BGR, as if it had been decoded
        from a file; see `require_colours`."""
        assert self._decode is not None
        return image.coloured(frame, self._decode)

    def windows(self, recording: Sample) -> Iterator[Sample]:
        """The samples in a recording: its windows, or itself when no step cuts it.

        A recording shorter than one window is a sample too, which cannot be judged.

        Args:
            recording: [samples] or [samples, leads] when the first step is `window`.
        """
        starts = self.starts(recording)
        if self.window is None or not starts:
            yield recording
            return
        for start in starts:
            yield recording[start : start + self.window.length]

    def starts(self, recording: Sample) -> range:
        """Where the full windows of a recording begin; without a `window` step it is one."""
        if self.window is None:
            return range(1)
        return range(0, len(recording) - self.window.length + 1, self.window.hop)

    def __call__(self, sample: Sample) -> np.ndarray:
        """Prepare one sample.

        Returns:
            float32 of `shape`; axes of length one are added or dropped as the engine wants them.

        Raises:
            BadInput: a wrong shape, an undecodable image, or values that are not finite.
        """
        raw, value = self._begun(sample)
        looked_up = self._lookup(value)
        return self._finished(raw, value, looked_up)

    def for_engine(self, sample: Sample, backend: Backend) -> np.ndarray | None:
        """Prepare one sample for `backend.run`, which gives the bits that it gives for what
        `__call__` returns, in less time for a picture of bytes.

        Returns:
            float32 of `shape`, or the engine's own dtype; None where it is in the engine's place.

        Raises:
            BadInput: as `__call__`.
        """
        raw, value = self._begun(sample)
        if (
            not self._after
            and value.shape == self.shape
            and self._lookup.fill(value, backend.place)
        ):
            return None
        return self._finished(raw, value, self._lookup(value, backend.input))

    def _begun(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """The sample, and what the steps before those by value make of it."""
        value = _native(np.asarray(sample))
        if value.dtype.kind not in "buif" or value.itemsize > 8:
            raise BadInput(f"values of type {value.dtype}, expected numbers of at most 64 bits")
        if not value.ndim or not value.size:
            raise BadInput(f"shape {_shape(value.shape)}, expected an array of values")
        if self.window is not None and len(value) != self.window.length:
            raise BadInput(f"{len(value)} samples, expected a window of {self.window.length}")
        raw = value
        _require_finite(raw)  # before a step such as `clip` can hide an infinite value
        for apply, step in self._before:
            value = apply(value, step)
        return raw, value

    def _finished(
        self, raw: np.ndarray, value: np.ndarray, looked_up: np.ndarray | None
    ) -> np.ndarray:
        value = self._lookup.through(value) if looked_up is None else looked_up
        for apply, step in self._after:
            value = apply(value, step)
        if value.shape != self.shape and _squeezed(value.shape) != _squeezed(self.shape):
            raise BadInput(
                f"shape {_shape(value.shape)}, expected {_shape(self.shape)}"
                + self._remedy(value.shape)
            )
        if looked_up is not None:
            return np.ascontiguousarray(value).reshape(self.shape)
        prepared = np.ascontiguousarray(value, np.float32).reshape(self.shape)
        if not (value is raw and value.dtype == np.float32):
            _require_finite(prepared)
        return prepared

    def _remedy(self, shape: tuple[int, ...]) -> str:
        first = (*shape[-1:], *shape[:-1])
        if first == self.shape:
            return "; is the step `channels_first` missing?"
        if len(shape) > 1 and _squeezed(shape[:-1]) == _squeezed(self.shape):
            return f"; the step `leads` takes one of these {shape[-1]} in model.toml"
        return ""


def _native(value: np.ndarray) -> np.ndarray:
    """In this machine's byte order: OpenCV would read any other as if it were in it."""
    if value.dtype.isnative:
        return value
    return value.astype(value.dtype.newbyteorder("="))


def _require_finite(value: np.ndarray) -> None:
    if value.dtype.kind in "bui":
        return
    # Half the time of looking at each value; a sum that overflows tells nothing.
    if value.dtype == np.float32 and isfinite(np.vdot(value, value)):
        return
    finite = np.isfinite(value)
    if not finite.all():
        raise BadInput(f"{int((~finite).sum())} of {value.size} values are not finite")


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
