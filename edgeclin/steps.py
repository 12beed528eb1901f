"""Preprocessing as data: the steps a description or a manifest may name, with their parameters.

`edgeclin.preprocess` is the one implementation of them, for calibration, verification and run.
"""

from __future__ import annotations

from math import inf, isfinite
from typing import Literal, TypeAlias

import msgspec

from edgeclin.errors import EdgeclinError


class _Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="step"):
    """The base of every step; the key `step` names it."""


class Window(_Step, tag="window", frozen=True):
    """Cut a signal [samples] or [samples, leads] into windows of `length`, one every `hop`."""

    length: int
    hop: int


class Resample(_Step, tag="resample", frozen=True):
    """Change the sampling rate along the first axis, polyphase with an anti-aliasing filter."""

    from_hz: int
    to_hz: int


class Detrend(_Step, tag="detrend", frozen=True):
    """Subtract the mean (`constant`) or the least-squares line (`linear`) along the first axis."""

    kind: Literal["constant", "linear"] = "constant"


class Leads(_Step, tag="leads", frozen=True):
    """Take some columns of a signal [samples, leads], in the order of `take`, counted from 0."""

    take: tuple[int, ...]


class ZScore(_Step, tag="zscore", frozen=True):
    """Shift and scale each lead to mean 0 and population standard deviation 1.

    A flat lead (deviation below `epsilon`) becomes zeros rather than amplified noise.
    """

    epsilon: float = 1e-6


class Clip(_Step, tag="clip", frozen=True):
    """Bound every value to [`low`, `high`]."""

    low: float
    high: float


class Decode(_Step, tag="decode", frozen=True):
    """Decode an encoded image (PNG, JPEG, … bytes) to uint8 [height, width, channels]."""

    colour: Literal["rgb", "bgr", "grey"] = "rgb"


class Resize(_Step, tag="resize", frozen=True):
    """Resize to [height, width] with OpenCV's interpolation of that name."""

    height: int
    width: int
    interpolation: Literal["nearest", "linear", "area", "cubic", "lanczos4"] = "linear"


class Crop(_Step, tag="crop", frozen=True):
    """Cut the central [height, width]."""

    height: int
    width: int


class VOIWindow(_Step, tag="voi_window", frozen=True):
    """Map a radiologist's window to 0..1, what is beyond it to the ends (DICOM's LINEAR)."""

    centre: float
    width: float


class Normalise(_Step, tag="normalise", frozen=True):
    """(value * scale - mean) / std, mean and std one a channel or one for all."""

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


Step: TypeAlias = (
    Window
    | Resample
    | Detrend
    | Leads
    | ZScore
    | Clip
    | Decode
    | Resize
    | Crop
    | VOIWindow
    | Normalise
)


def check_steps(steps: tuple[Step, ...]) -> None:
    """Refuse parameters that no input could satisfy.

    Raises:
        EdgeclinError: names the step, by its position, and its wrong parameter.
    """
    for index, step in enumerate(steps, 1):
        problem = _problem(step, first=index == 1)
        if problem:
            raise EdgeclinError(f"preprocessing step {index}: {problem}")


def _problem(step: Step, *, first: bool) -> str | None:
    match step:
        case Window() if not first:
            return "`window` must be the first step"
        case Decode() if not first:
            return "`decode` must be the first step"
        case Window(length=length, hop=hop) if length < 1 or hop < 1:
            return "`window` needs a length and a hop of at least 1"
        case Resample(from_hz=source, to_hz=target) if source < 1 or target < 1:
            return "`resample` needs rates of at least 1 Hz"
        case Leads(take=take) if not take or min(take) < 0 or len(set(take)) < len(take):
            return "`leads` takes no lead, one twice, or one below 0"
        case VOIWindow(centre=centre, width=width) if not (isfinite(centre) and 1 < width < inf):
            return "`voi_window` needs a width above 1 and numbers that are finite"
        case ZScore(epsilon=epsilon) if not 0 < epsilon < inf:
            return f"`zscore` has the epsilon {epsilon}, not a number above 0"
        case Clip(low=low, high=high) if not -inf < low < high < inf:
            return f"`clip` has low {low} not below high {high}, or one that is not finite"
        case Resize(height=h, width=w) | Crop(height=h, width=w) if h < 1 or w < 1:
            return "height and width must be at least 1"
        case Normalise(std=std) if not std or any(value == 0 for value in std):
            return "`normalise` has a standard deviation of 0"
        case Normalise(mean=mean, std=std, scale=scale) if not (
            mean and all(map(isfinite, (scale, *mean, *std)))
        ):
            return "`normalise` has no mean, or a number that is not finite"
    return None
