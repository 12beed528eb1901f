"""What a sample looks like, small enough for a page: a signal in few points, a picture in few
pixels."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from edgeclin import steps
from edgeclin.description import Input
from edgeclin.errors import BadInput
from edgeclin.preprocess.image import decode, opencv
from edgeclin.records import Record

POINTS = 1000
LEADS = 12
PIXELS = 480
"""Of a picture's longer side, as drawn."""


class Lead(Record, frozen=True):
    """One line of a signal: the lowest and highest value of each stretch, null where none is
    finite."""

    name: str
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]


class SignalDrawing(Record, frozen=True):
    """A signal.

    Attributes:
        seconds: how long it is, where the rate is known.
        left_out: leads beyond the first `LEADS`.
    """

    leads: tuple[Lead, ...]
    units: str
    seconds: float | None
    left_out: int = 0


def draw(sample: np.ndarray, spec: Input) -> tuple[str, bytes]:
    """Draw a raw sample.

    Returns:
        the media type, JSON of a signal or PNG of a picture, and the bytes.

    Raises:
        BadInput: it is neither.
        MissingExtra: OpenCV is not installed.
    """
    if spec.kind == "image":
        return "image/png", _picture(sample, spec)
    return "application/json", msgspec.json.encode(_signal(sample, spec))


def _signal(sample: np.ndarray, spec: Input) -> SignalDrawing:
    if sample.ndim not in (1, 2) or not sample.size or sample.dtype.kind not in "buif":
        raise BadInput("neither a signal nor a picture, so there is nothing to draw")
    columns = sample.reshape(len(sample), -1).astype(np.float64)
    count = columns.shape[1]
    first = next((step for step in spec.preprocessing if isinstance(step, steps.Resample)), None)
    rate = first.from_hz if first is not None else spec.sampling_hz
    return SignalDrawing(
        leads=tuple(
            _lead(_name(spec, index, count), columns[:, index])
            for index in range(min(count, LEADS))
        ),
        units=spec.units,
        seconds=None if not rate else len(columns) / rate,
        left_out=max(0, count - LEADS),
    )


def _name(spec: Input, index: int, count: int) -> str:
    if len(spec.leads) == count:
        return spec.leads[index]
    return "" if count == 1 else str(index + 1)


def _lead(name: str, values: np.ndarray) -> Lead:
    size = math.ceil(len(values) / POINTS)
    starts = np.arange(0, len(values), size)
    known = np.isfinite(values)
    low = np.minimum.reduceat(np.where(known, values, np.inf), starts)
    high = np.maximum.reduceat(np.where(known, values, -np.inf), starts)
    return Lead(name, _finite(low), _finite(high))


def _finite(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(float(f"{v:.6g}") if math.isfinite(v) else None for v in values.tolist())


def _picture(sample: np.ndarray, spec: Input) -> bytes:
    step = next((one for one in spec.preprocessing if isinstance(one, steps.Decode)), None)
    picture = _channels_last(decode(sample, step or steps.Decode()))
    cv2 = opencv()
    height, width = picture.shape[:2]
    shrink = PIXELS / max(height, width)
    if shrink < 1:
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        picture = cv2.resize(_plain(picture), size, interpolation=cv2.INTER_AREA)
    shown = _grey_levels(picture, spec)
    if shown.ndim == 3 and (step is None or step.colour != "bgr"):
        shown = shown[..., ::-1]
    done, data = cv2.imencode(".png", np.ascontiguousarray(shown))
    if not done:
        raise BadInput("a picture that OpenCV cannot write")
    return bytes(data)


def _channels_last(picture: np.ndarray) -> np.ndarray:
    """[height, width] or [height, width, 3]."""
    if picture.ndim == 3 and picture.shape[0] in (1, 3) and picture.shape[-1] not in (1, 3):
        picture = np.moveaxis(picture, 0, -1)
    if picture.ndim == 3 and picture.shape[-1] == 1:
        picture = picture[..., 0]
    if picture.ndim == 2 or (picture.ndim == 3 and picture.shape[-1] == 3):
        return picture
    raise BadInput(f"a picture of shape {list(picture.shape)}, which cannot be drawn")


def _plain(picture: np.ndarray) -> np.ndarray:
    """In a type that OpenCV resizes."""
    return picture if picture.dtype == np.uint8 else picture.astype(np.float32)


def _grey_levels(picture: np.ndarray, spec: Input) -> np.ndarray:
    """uint8: through the model's own window where it has one, else from the lowest to the highest
    value."""
    if picture.dtype == np.uint8:
        return picture
    window = next((one for one in spec.preprocessing if isinstance(one, steps.VOIWindow)), None)
    values = np.nan_to_num(picture.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if window is not None:
        low, high = window.centre - window.width / 2, window.centre + window.width / 2
    span = high - low or 1.0
    levels: np.ndarray = (np.clip((values - low) / span, 0, 1) * 255).astype(np.uint8)
    return levels
