"""A picture that is looked up in a table gets the same bits as one that goes through the steps."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclin import steps
from edgeclin.backends import TensorSpec, load_backend
from edgeclin.backends.fake import FakeBackend
from edgeclin.description import Input
from edgeclin.errors import BadInput
from edgeclin.preprocess import Preprocess, image, signal
from edgeclin.preprocess.lookup import Applied, split

DATA = Path(__file__).parent / "data"
NORMALISE = steps.Normalise(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
GREY = steps.Normalise(scale=1 / 127.5, mean=(1.0,))
EXACT = steps.Normalise(scale=0.5, mean=(-0.25, 0.0, 3.0), std=(1.0, 2.0, -4.0))
CLIP = steps.Clip(low=3.5, high=200.25)
FIRST = steps.ChannelsFirst()
VOI = steps.VOIWindow(centre=90, width=77)
APPLY = {
    steps.Normalise: image.normalise,
    steps.Clip: signal.clip,
    steps.VOIWindow: image.voi_window,
    steps.ChannelsFirst: image.channels_first,
    steps.Detrend: signal.detrend,
}


def applied(*chosen: steps.Step) -> list[Applied]:
    return [(APPLY[type(step)], step) for step in chosen]  # type: ignore[index]


class Given(FakeBackend):
    """An engine that has a given input, and perhaps a place for it."""

    def __init__(self, spec: TensorSpec, room: np.ndarray | None = None) -> None:
        self.input, self.room = spec, room

    def place(self) -> np.ndarray | None:
        return self.room


def picture(seed: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (6, 5, channels), dtype=np.uint8)


@given(
    chosen=st.lists(st.sampled_from([NORMALISE, GREY, CLIP, VOI]), min_size=1, max_size=4),
    channels_first=st.booleans(),
    seed=st.integers(0, 99),
)
def test_both_ways_give_the_same_bits(
    chosen: list[steps.Step], channels_first: bool, seed: int
) -> None:
    last = (steps.ChannelsFirst(),) if channels_first else ()
    shape = (3, 6, 5) if channels_first else (6, 5, 3)
    spec = Input(name="x", kind="image", shape=shape, preprocessing=(*chosen, *last))
    value = raw = picture(seed)
    for apply, step in applied(*chosen, *last):
        value = apply(value, step)
    assert Preprocess(spec)(raw).tobytes() == value.astype(np.float32).tobytes()


@st.composite
def integer_inputs(draw: st.DrawFn) -> TensorSpec:
    dtype = draw(st.sampled_from(["int8", "uint8"]))
    bounds = np.iinfo(dtype)
    return TensorSpec(
        name="x",
        shape=(16, 16, 3),
        dtype=dtype,
        # Dyadic ones give values half-way between two steps.
        scale=draw(
            st.sampled_from([2.0, 1.0, 0.5, 1 / 255, 1 / 127.5, 2**-7])
            | st.floats(1e-6, 1e3, allow_subnormal=False)
        ),
        zero_point=draw(st.integers(int(bounds.min), int(bounds.max))),
    )


def long_way(chosen: tuple[steps.Step, ...], raw: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """The steps, then the quantisation, each value by itself, in float32 as LiteRT does it."""
    value = raw
    for apply, step in applied(*chosen):
        value = apply(value, step)
    divided = value.astype(np.float32) / np.float32(spec.scale)
    bounds = np.iinfo(spec.dtype)
    whole = np.rint(divided) + np.float32(spec.zero_point)
    return whole.clip(bounds.min, bounds.max).astype(spec.dtype)


@given(
    chosen=st.lists(st.sampled_from([NORMALISE, GREY, CLIP, VOI, EXACT]), max_size=4),
    channels_first=st.booleans(),
    engine=integer_inputs(),
    seed=st.integers(0, 99),
)
def test_a_table_of_the_engines_own_values_gives_the_bits_of_the_long_way(
    chosen: list[steps.Step], channels_first: bool, engine: TensorSpec, seed: int
) -> None:
    last = (steps.ChannelsFirst(),) if channels_first else ()
    shape = (3, 16, 16) if channels_first else (16, 16, 3)
    every = np.random.default_rng(seed).permuted(
        np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis], 3, axis=1), axis=0
    )
    raw = every.reshape(16, 16, 3)
    spec = Input(name="x", kind="image", shape=shape, preprocessing=(*chosen, *last))
    prepared = Preprocess(spec).for_engine(raw, Given(engine))
    assert prepared is not None
    assert prepared.dtype == engine.dtype
    np.testing.assert_array_equal(prepared, long_way((*chosen, *last), raw, engine))


def test_halves_go_to_the_even_step() -> None:
    engine = TensorSpec("x", (1, 6, 1), "int8", scale=2.0, zero_point=-3)
    spec = Input(name="x", kind="image", shape=(1, 6, 1))
    raw = np.array([[[0], [1], [3], [5], [254], [255]]], np.uint8)
    prepared = Preprocess(spec).for_engine(raw, Given(engine))
    assert prepared is not None
    assert prepared.ravel().tolist() == [-3, -3, -1, -1, 124, 125]


def test_an_engine_answers_the_same_about_a_picture_of_bytes_either_way() -> None:
    pytest.importorskip("ai_edge_litert", reason="the tflite extra is not installed")
    engine = load_backend("tflite", (DATA / "ecg_int8_io.tflite").read_bytes())
    step = steps.Normalise(scale=1 / 40, mean=(3.0,))
    spec = Input(name="x", kind="array", shape=engine.input.shape, preprocessing=(step,))
    prepare = Preprocess(spec)
    for seed in range(50):
        raw = np.random.default_rng(seed).integers(0, 256, (140, 1, 1), np.uint8)
        quick = prepare.for_engine(raw, engine)
        assert quick is not None
        assert quick.dtype == np.int8
        assert engine.run(quick).tobytes() == engine.run(prepare(raw)).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_engines_of_other_types_are_given_float32(dtype: str) -> None:
    engine = TensorSpec("x", (6, 5, 3), dtype, scale=None if dtype == "float32" else 0.1)
    for chosen in ((NORMALISE,), ()):
        spec = Input(name="x", kind="image", shape=(6, 5, 3), preprocessing=chosen)
        prepared = Preprocess(spec).for_engine(picture(0), Given(engine))
        assert prepared is not None
        assert prepared.dtype == np.float32


def test_values_that_are_not_finite_are_refused_as_the_steps_refuse_them() -> None:
    huge = steps.Normalise(scale=3e38)
    spec = Input(name="x", kind="image", shape=(6, 5, 3), preprocessing=(huge,))
    prepare = Preprocess(spec)
    integers = Given(TensorSpec("x", (6, 5, 3), "int8", scale=0.1))
    floats = Given(TensorSpec("x", (6, 5, 3), "float32"), np.zeros((6, 5, 3), np.float32))
    for attempt in (
        partial(prepare, picture(0)),
        partial(prepare.for_engine, picture(0), integers),
        partial(prepare.for_engine, picture(0), floats),
    ):
        with np.errstate(over="ignore"), pytest.raises(BadInput, match="values are not finite"):
            attempt()


@given(step=st.sampled_from([NORMALISE, GREY, EXACT]), seed=st.integers(0, 99))
def test_a_picture_made_in_the_engines_place_has_the_bits_of_the_long_way(
    step: steps.Normalise, seed: int
) -> None:
    spec = Input(name="x", kind="image", shape=(6, 5, 3), preprocessing=(step,))
    engine = Given(TensorSpec("x", (6, 5, 3), "float32"), np.full((6, 5, 3), np.nan, np.float32))
    assert Preprocess(spec).for_engine(picture(seed), engine) is None
    assert engine.room is not None
    assert engine.room.tobytes() == image.normalise(picture(seed), step).tobytes()


@pytest.mark.parametrize(
    ("chosen", "shape", "room", "raw"),
    [
        ((CLIP,), (6, 5, 3), np.zeros((6, 5, 3), np.float32), picture(0)),
        ((NORMALISE, CLIP), (6, 5, 3), np.zeros((6, 5, 3), np.float32), picture(0)),
        ((NORMALISE, FIRST), (3, 3, 3), np.zeros((3, 3, 3), np.float32), picture(0)[:3, :3]),
        ((NORMALISE, FIRST), (3, 6, 5), np.zeros((3, 6, 5), np.float32), picture(0)),
        ((NORMALISE,), (6, 5, 3), np.zeros((6, 5, 3), np.float64), picture(0)),
        ((NORMALISE,), (6, 5, 3), np.zeros((1, 6, 5, 3), np.float32), picture(0)),
        ((NORMALISE,), (1, 6, 5, 3), np.zeros((1, 6, 5, 3), np.float32), picture(0)),
        ((NORMALISE,), (6, 5, 3), np.zeros((6, 5, 3), np.float32), picture(0).astype(float)),
    ],
)  # fmt: skip
def test_whatever_does_not_fit_the_engines_place_is_made_elsewhere(
    chosen: tuple[steps.Step, ...], shape: tuple[int, ...], room: np.ndarray, raw: np.ndarray
) -> None:
    spec = Input(name="x", kind="image", shape=shape, preprocessing=chosen)
    made = Preprocess(spec).for_engine(raw, Given(TensorSpec("x", shape, "float32"), room))
    assert made is not None
    assert made.tobytes() == Preprocess(spec)(raw).tobytes()
    assert not room.any()


def test_litert_answers_the_same_about_a_sample_in_its_place_and_once_only() -> None:
    pytest.importorskip("ai_edge_litert", reason="the tflite extra is not installed")
    engine = load_backend("tflite", (DATA / "ecg_int8.tflite").read_bytes())
    step = steps.Normalise(scale=1 / 40, mean=(3.0,))
    spec = Input(name="x", kind="array", shape=engine.input.shape, preprocessing=(step,))
    prepare = Preprocess(spec)
    for seed in range(50):
        raw = np.random.default_rng(seed).integers(0, 256, engine.input.shape, np.uint8)
        assert prepare.for_engine(raw, engine) is None
        assert engine.run(None).tobytes() == engine.run(prepare(raw)).tobytes()
        with pytest.raises(RuntimeError, match="no sample is in its place"):
            engine.run(None)


@pytest.mark.parametrize("engine", [None, TensorSpec("x", (6, 5, 3), "int8", scale=0.1)])
def test_a_picture_of_bytes_never_goes_through_the_steps_twice(engine: TensorSpec | None) -> None:
    seen: list[int] = []

    def counted(value: np.ndarray, step: steps.VOIWindow) -> np.ndarray:
        seen.append(value.size)
        return image.voi_window(value, step)

    _, lookup, _ = split([(counted, VOI)])
    for seed in range(5):
        assert lookup(picture(seed), engine) is not None
    assert seen == [256 * 3]
    assert lookup(picture(0).astype(np.float32), engine) is None


@pytest.mark.parametrize(
    ("chosen", "before", "after"),
    [
        ((NORMALISE,), 0, 0),
        ((steps.Detrend(), CLIP, GREY, steps.ChannelsFirst()), 1, 1),
        ((NORMALISE, steps.Detrend()), 2, 0),
        ((steps.ChannelsFirst(), NORMALISE), 1, 0),
        ((), 0, 0),
    ],
)
def test_only_the_last_steps_by_value_become_a_table(
    chosen: tuple[steps.Step, ...], before: int, after: int
) -> None:
    head, _, tail = split(applied(*chosen))
    assert (len(head), len(tail)) == (before, after)


def test_another_number_of_channels_is_refused_as_the_steps_refuse_it() -> None:
    spec = Input(name="x", kind="image", shape=(6, 5, 4), preprocessing=(NORMALISE,))
    with pytest.raises(BadInput, match="3 of mean for 4 channels"):
        Preprocess(spec)(picture(0, channels=4))
