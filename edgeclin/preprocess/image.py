"""Steps for images: encoded bytes, or arrays [height, width, channels]."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

import numpy as np

from edgeclin import steps
from edgeclin.errors import BadInput, MissingExtra

MAX_PIXELS = 1 << 26
"""Of an image that is decoded, 200 MB in three colours: a file of a few kilobytes can claim to hold
a thousand times more than a device has. OpenCV's own limit is 2**30."""
_LIMIT = "OPENCV_IO_MAX_IMAGE_PIXELS"


def decode(value: np.ndarray, step: steps.Decode) -> np.ndarray:
    """Decode encoded bytes (uint8 [bytes]); an image that is already decoded passes unchanged.

    Returns:
        uint8 [height, width, 3] in the step's colour order, or [height, width, 1] for grey.

    Raises:
        BadInput: OpenCV does not recognise the bytes.
    """
    if value.ndim >= 2:
        return value
    if value.dtype != np.uint8:
        raise BadInput(
            f"{value.size} values of {value.dtype}, where the step `decode` takes an image's "
            "bytes: in model.toml take that step out, and is `kind` right?"
        )
    cv2 = opencv()
    try:
        decoded = cv2.imdecode(value, cv2.IMREAD_COLOR) if value.size else None
    except cv2.error as exc:
        raise BadInput(
            "an image that OpenCV refuses to decode, such as one of over "
            f"{os.environ.get(_LIMIT, MAX_PIXELS)} pixels ({_LIMIT})"
        ) from exc
    if decoded is None:
        raise BadInput("not an image that OpenCV can decode")
    return coloured(decoded, step)


def coloured(picture: np.ndarray, step: steps.Decode) -> np.ndarray:
    """What OpenCV decoded, uint8 [height, width, 3] in BGR, as `decode` gives it."""
    cv2 = opencv()
    if step.colour == "rgb":
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    elif step.colour == "grey":
        # Not IMREAD_GRAYSCALE: each codec, and each build of it, weighs the colours otherwise.
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)[..., np.newaxis]
    return picture


def resize(value: np.ndarray, step: steps.Resize) -> np.ndarray:
    """Resize to [height, width, channels] of the same dtype.

    Raises:
        BadInput: OpenCV has no such interpolation for this dtype or so many channels.
    """
    cv2 = opencv()
    _expect_image(value)
    flag = getattr(cv2, f"INTER_{step.interpolation.upper()}")
    try:
        resized: np.ndarray = cv2.resize(value, (step.width, step.height), interpolation=flag)
    except cv2.error as exc:
        kind = f"an image of {value.dtype} and shape {value.shape}"
        raise BadInput(f"{kind}, which OpenCV cannot resize ({step.interpolation})") from exc
    return resized if resized.ndim == value.ndim else resized[..., np.newaxis]


def crop(value: np.ndarray, step: steps.Crop) -> np.ndarray:
    """Cut the central [height, width].

    Raises:
        BadInput: the image is smaller than that.
    """
    _expect_image(value)
    height, width = value.shape[:2]
    if height < step.height or width < step.width:
        raise BadInput(
            f"an image of {height} x {width}, smaller than the crop {step.height} x {step.width}"
        )
    top, left = (height - step.height) // 2, (width - step.width) // 2
    return value[top : top + step.height, left : left + step.width]


def voi_window(value: np.ndarray, step: steps.VOIWindow) -> np.ndarray:
    """0 below the window, 1 above it, linear within (PS3.3 C.11.2.1.2.1); float32, same shape."""
    exact = value.astype(np.float64)
    within = (exact - (step.centre - 0.5)) / (step.width - 1) + 0.5
    # NaN stays NaN, so that it is refused later rather than hidden.
    return np.clip(within, 0.0, 1.0).astype(np.float32)


def normalise(
    value: np.ndarray, step: steps.Normalise, out: np.ndarray | None = None
) -> np.ndarray:
    """(value * scale - mean) / std along the last axis; float32 of the same shape, in `out` where
    it is given, which is contiguous.

    Raises:
        BadInput: mean or std has neither one entry nor one a channel.
    """
    channels = value.shape[-1] if value.ndim else 1
    # Over whole rows of pixels: NumPy is slow along an axis as short as the channels'.
    width = value.shape[-2] if value.ndim > 1 else 1
    scale, mean, std = _rows(step, width, channels)
    normalised = np.empty(value.shape, np.float32) if out is None else out
    np.copyto(normalised, value, casting="unsafe")
    rows = normalised.reshape(-1, width * channels)
    if scale is not None:
        rows *= scale
    if mean is not None:
        rows -= mean
    if std is not None:
        rows /= std
    return normalised


@lru_cache(maxsize=16)
def _rows(
    step: steps.Normalise, width: int, channels: int
) -> tuple[np.float32 | None, np.ndarray | None, np.ndarray | None]:
    """Scale, mean and deviation, float32 [1] or one for each value of a row of `width` pixels; None
    where it would change nothing."""
    rows = []
    for what, entries in (("mean", step.mean), ("std", step.std)):
        if len(entries) not in (1, channels):
            raise BadInput(f"`normalise` has {len(entries)} of {what} for {channels} channels")
        own = np.array(entries, np.float32)
        rows.append(own if own.size == 1 else np.tile(own, width))
    scale, (mean, std) = np.float32(step.scale), rows
    return (
        None if scale == 1 else scale,
        mean if mean.any() else None,
        std if (std != 1).any() else None,
    )


def channels_first(value: np.ndarray, step: steps.ChannelsFirst) -> np.ndarray:
    """[height, width, channels] to [channels, height, width], [samples, leads] to [leads, samples].

    Raises:
        BadInput: there is one axis alone.
    """
    if value.ndim < 2:
        raise BadInput("an array with 1 axis, `channels_first` needs channels or leads")
    return np.moveaxis(value, -1, 0)


def _expect_image(value: np.ndarray) -> None:
    if value.ndim not in (2, 3) or 0 in value.shape:
        raise BadInput(f"an array with {value.ndim} axes, expected an image")


def opencv() -> Any:
    """OpenCV's module.

    Raises:
        MissingExtra: it is not installed.
    """
    os.environ.setdefault(_LIMIT, str(MAX_PIXELS))  # read once, as OpenCV is loaded
    try:
        import cv2
    except ImportError as exc:
        raise MissingExtra("OpenCV, which image steps need", "vision") from exc
    return cv2
