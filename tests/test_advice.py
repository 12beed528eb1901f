"""Each remedy is advised by what was measured, and only then."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edgeclin.convert.advice import Facts, Remedy, advise
from edgeclin.convert.layers import Error, Layer, Layers
from edgeclin.gates import Gate

MISSED = Gate("INT8 engine", "output error", "at most", 0.2, 0.1, 0.3, 0.05, 100, False)


def layer(order: int, **changes: Any) -> Layer:
    well = Error(sqnr_db=40.0, channel_db=38.0, mse=1e-4, cosine=1.0)
    plain = Layer(
        order=order,
        name=f"layer {order}",
        operator="Conv",
        tensors=(f"layer {order}",),
        accumulated=well,
        own=well,
        saturated=0.0,
        low=-1.0,
        high=1.0,
        least=-1.0,
        most=1.0,
        channel_spread=2.0,
        mixture=3.0,
        weight_spread=2.0,
        weight_scales=8,
    )
    return msgspec.structs.replace(plain, **changes)


def advised(gate: Gate = MISSED, **changes: Any) -> list[Remedy]:
    layers = changes.pop("layers", (layer(0), layer(1), layer(2)))
    known = {"instability": 0.0, "outside": 0.0, "clipping": False, **changes}
    found = Layers(samples=32, executed_by="test", layers=layers)
    return [one.remedy for one in advise(Facts(gates=[gate], layers=found, **known))]


def test_without_a_missed_gate_nothing_is_advised() -> None:
    assert advised(msgspec.structs.replace(MISSED, passed=True), outside=0.5) == []


def test_a_float_stage_that_misses_is_the_first_to_mend() -> None:
    assert advised(msgspec.structs.replace(MISSED, stage="float ONNX")) == [Remedy.SOURCE]


def test_a_source_that_is_not_what_it_should_be_is_nothing_that_an_engine_mends() -> None:
    missed = msgspec.structs.replace(MISSED, stage="source model")
    assert advised(missed, outside=0.5) == [Remedy.MODEL]


@pytest.mark.parametrize("stage", ["INT8 engine", "source model"])
def test_too_few_samples_want_more_of_them(stage: str) -> None:
    missed = msgspec.structs.replace(MISSED, stage=stage, n=9, least=30)
    assert advised(missed) == [Remedy.VALIDATION]


UNDECIDED = Gate(
    "INT8 engine",
    "change of accuracy",
    "lower bound at least",
    -0.005,
    -0.024,
    0.01,
    -0.02,
    300,
    False,
)


def test_a_loss_that_is_not_shown_wants_more_validation_samples_and_no_training() -> None:
    found = advise(
        Facts([UNDECIDED], Layers(samples=32, executed_by="test", layers=(layer(0),)), 0, 0, False)
    )
    assert [one.remedy for one in found] == [Remedy.VALIDATION]
    assert "about 483 validation samples" in found[0].sentence  # 300 x (0.019 / 0.015)^2


def test_a_loss_that_is_shown_is_none_of_the_validation_data() -> None:
    assert advised(msgspec.structs.replace(UNDECIDED, value=-0.021)) == [Remedy.TRAINING]
    shown = Layers(samples=32, executed_by="test", layers=(layer(0),))
    found = advise(Facts([UNDECIDED, MISSED], shown, 0, 0, False))
    assert [one.remedy for one in found] == [Remedy.TRAINING]


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"instability": 0.21}, Remedy.CALIBRATION),
        ({"instability": 0.19}, Remedy.TRAINING),
        ({"outside": 0.002}, Remedy.CALIBRATION),
        ({"outside": 0.0005}, Remedy.TRAINING),
        ({"layers": (layer(0, saturated=0.02), layer(1))}, Remedy.CALIBRATION),
        ({"layers": (layer(0, saturated=0.02), layer(1)), "clipping": True}, Remedy.TRAINING),
        ({"layers": (layer(0), layer(1, mixture=500.0, high=640.0))}, Remedy.SPLIT),
        ({"layers": (layer(0), layer(1, mixture=500.0))}, Remedy.TRAINING),
        ({"layers": (layer(0), layer(1, low=999.9, high=1000.1))}, Remedy.OFFSET),
        ({"layers": (layer(0), layer(1, low=9.0, high=11.0))}, Remedy.TRAINING),
        ({"layers": (layer(0, channel_spread=17.0), layer(1))}, Remedy.EQUALISE),
        ({"layers": (layer(0), layer(1, channel_spread=17.0))}, Remedy.TRAINING),
        ({"layers": (layer(0, weight_spread=17.0, weight_scales=1), layer(1))}, Remedy.EQUALISE),
        ({"layers": (layer(0, weight_spread=17.0), layer(1))}, Remedy.TRAINING),
        ({}, Remedy.TRAINING),
    ],
)
def test_the_remedy_follows_the_figures(changes: Any, remedy: Remedy) -> None:
    assert advised(**changes) == [remedy]
