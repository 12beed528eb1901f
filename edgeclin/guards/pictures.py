"""What is measured of a decoded picture, on a grid of at most about 64 by 64 of its pixels."""

from __future__ import annotations

from math import sqrt

import numpy as np

from edgeclin.errors import BadInput

_GRID = 64
_CHANNELS = (1, 3, 4)


def measure_picture(sample: np.ndarray) -> tuple[float, ...]:
    """Of the middle channel (green, in either order of colours) the lowest and highest value, of
    all channels the mean (brightness), and of the middle one again the standard deviation
    (contrast), the variance of the Laplacian between direct neighbours (sharpness: Pech-Pacheco et
    al. 2000, "Diatom autofocusing in brightfield microscopy"), and the shares at its own lowest and
    highest value (darkest and brightest: where it is clipped); last the mean of the first channel
    minus that of the last (tint).

    Args:
        sample: [height, width], [height, width, channels] or [channels, height, width].

    Raises:
        BadInput: every pixel has one value, so that nothing is there to judge.
    """
    value = sample if sample.ndim == 3 else np.squeeze(sample)
    if value.ndim == 3 and value.shape[-1] not in _CHANNELS and value.shape[0] in _CHANNELS:
        value = value.transpose(1, 2, 0)
    if value.ndim != 3:
        value = value.reshape(*value.shape[:2], -1) if value.ndim > 1 else value.reshape(1, -1, 1)
    rows, columns = (max(1, -(-(size - 2) // _GRID)) for size in value.shape[:2])
    grid = value[1:-1:rows, 1:-1:columns]
    if not grid.size:
        raise BadInput(f"a picture of {value.shape[0]} x {value.shape[1]} pixels, too small")
    height, width, channels = grid.shape
    pixels = np.ascontiguousarray(grid, np.float64).reshape(-1, channels)
    means = np.full(len(pixels), 1 / len(pixels)).dot(pixels)
    middle = value[..., channels // 2]
    centre = np.ascontiguousarray(pixels[:, channels // 2])
    low, high = centre.item(centre.argmin()), centre.item(centre.argmax())
    if low == high and value.min() == value.max():
        raise BadInput(f"a picture without contrast: every value is {low:g}")
    laplacian = 4 * centre.reshape(height, width)
    laplacian -= middle[:-2:rows, 1:-1:columns]
    laplacian -= middle[2::rows, 1:-1:columns][:height]
    laplacian -= middle[1:-1:rows, :-2:columns]
    laplacian -= middle[1:-1:rows, 2::columns][:, :width]
    return (
        low,
        high,
        float(means.mean()),
        sqrt(_variance(centre - low)),
        _variance(laplacian.ravel()),
        np.count_nonzero(centre == low) / centre.size,
        np.count_nonzero(centre == high) / centre.size,
        float(means[0] - means[-1]),
    )


def _variance(values: np.ndarray) -> float:
    """Of numbers around zero; a third of the time that `var` takes."""
    mean = float(values.sum()) / values.size
    return max(float(values.dot(values)) / values.size - mean * mean, 0.0)
