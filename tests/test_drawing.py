"""What is drawn of a sample: small, and nothing in it that was not there."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from bedsides import PICTURE

pytest.importorskip("uvicorn", reason="the http extra is not installed")

from edgeclin.description import Input
from edgeclin.endpoint.drawing import LEADS, PIXELS, POINTS, draw
from edgeclin.errors import BadInput
from edgeclin.steps import Decode, VOIWindow

SIGNAL = Input(name="ecg", kind="signal", shape=(250, 2), sampling_hz=125.0, leads=("I", "II"))


def signal(sample: np.ndarray, spec: Input = SIGNAL) -> dict[str, Any]:
    media_type, data = draw(sample, spec)
    assert media_type == "application/json"
    return json.loads(data)


def test_a_long_signal_keeps_its_extremes_in_few_points() -> None:
    sample = np.zeros((100_000, 2), np.float32)
    sample[777, 0], sample[88_888, 1] = 5.0, -3.0
    drawn = signal(sample)
    assert [lead["name"] for lead in drawn["leads"]] == ["I", "II"]
    assert all(len(lead["low"]) == len(lead["high"]) == POINTS for lead in drawn["leads"])
    assert max(drawn["leads"][0]["high"]) == 5.0
    assert min(drawn["leads"][1]["low"]) == -3.0
    assert drawn["seconds"] == 800.0


def test_a_short_signal_is_drawn_point_by_point() -> None:
    sample = np.random.default_rng(0).normal(size=(250, 2))
    first = signal(sample)["leads"][0]
    np.testing.assert_allclose(first["low"], sample[:, 0], rtol=1e-5)
    assert first["low"] == first["high"]


def test_what_is_missing_is_a_gap_and_not_a_value() -> None:
    sample = np.zeros((250, 2), np.float32)
    sample[10, 0], sample[20, 0] = np.nan, np.inf
    low = signal(sample)["leads"][0]["low"]
    assert [index for index, value in enumerate(low) if value is None] == [10, 20]


def test_leads_that_are_left_out_are_counted() -> None:
    drawn = signal(np.zeros((100, LEADS + 3)), Input(name="eeg", kind="signal", shape=(100, 15)))
    assert (len(drawn["leads"]), drawn["left_out"]) == (LEADS, 3)


@pytest.mark.parametrize("shape", [(), (0,), (2, 3, 4), (0, 3)])
def test_what_is_no_signal_is_not_drawn(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput):
        draw(np.zeros(shape), SIGNAL)


def picture(sample: np.ndarray, spec: Input = PICTURE) -> np.ndarray:
    cv2 = pytest.importorskip("cv2", reason="the vision extra is not installed")
    media_type, data = draw(sample, spec)
    assert media_type == "image/png"
    shown: np.ndarray = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return shown if shown.ndim == 2 else shown[..., ::-1]


def test_a_picture_is_small_and_in_its_colours() -> None:
    sample = np.zeros((1000, 500, 3), np.uint8)
    sample[..., 0] = 200
    shown = picture(sample)
    assert shown.shape == (PIXELS, PIXELS // 2, 3)
    assert shown[100, 100].tolist() == [200, 0, 0]


def test_a_compressed_picture_is_drawn_as_the_model_sees_it() -> None:
    cv2 = pytest.importorskip("cv2", reason="the vision extra is not installed")
    sample = np.zeros((20, 30, 3), np.uint8)
    sample[..., 2] = 200  # red, as OpenCV writes
    encoded = cv2.imencode(".png", sample)[1]
    assert picture(encoded)[5, 5].tolist() == [200, 0, 0]
    other = Input(name="p", kind="image", shape=(8, 8, 3), preprocessing=(Decode(colour="bgr"),))
    assert picture(encoded, other)[5, 5].tolist() == [200, 0, 0]


def test_measurements_are_drawn_through_the_model_s_own_window() -> None:
    ct = Input(
        name="ct",
        kind="image",
        shape=(8, 8, 1),
        preprocessing=(VOIWindow(centre=0.0, width=200.0),),
    )
    sample = np.full((20, 30, 1), 0.0, np.float32)
    sample[0, 0], sample[0, 1], sample[0, 2] = -1000, 3000, np.nan
    shown = picture(sample, ct)
    assert shown.shape == (20, 30)
    assert (shown[0, 0], shown[0, 1], shown[5, 5]) == (0, 255, 127)


def test_a_picture_that_is_none_is_not_drawn() -> None:
    pytest.importorskip("cv2", reason="the vision extra is not installed")
    for sample in (np.zeros((2, 3, 4, 5), np.uint8), np.arange(10, dtype=np.uint8)):
        with pytest.raises(BadInput):
            draw(sample, PICTURE)
