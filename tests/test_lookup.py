"""A picture that is looked up in a table gets the same bits as one that goes through the steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclin import steps
from edgeclin.description import Input
from edgeclin.errors import BadInput
from edgeclin.preprocess import Preprocess, image, signal
from edgeclin.preprocess.lookup import Applied, split

NORMALISE = steps.Normalise(scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
GREY = steps.Normalise(scale=1 / 127.5, mean=(1.0,))
CLIP = steps.Clip(low=3.5, high=200.25)
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
    np.testing.assert_array_equal(Preprocess(spec)(raw), value.astype(np.float32))


def test_a_picture_of_bytes_never_goes_through_the_steps_twice() -> None:
    seen: list[int] = []

    def counted(value: np.ndarray, step: steps.Normalise) -> np.ndarray:
        seen.append(value.size)
        return image.normalise(value, step)

    _, lookup, _ = split([(counted, NORMALISE)])
    assert lookup is not None
    for seed in range(5):
        lookup(picture(seed))
    assert seen == [256 * 3]
    lookup(picture(0).astype(np.float32))
    assert seen == [256 * 3, 90]


@pytest.mark.parametrize(
    ("chosen", "before", "table", "after"),
    [
        ((NORMALISE,), 0, True, 0),
        ((steps.Detrend(), CLIP, GREY, steps.ChannelsFirst()), 1, True, 1),
        ((NORMALISE, steps.Detrend()), 2, False, 0),
        ((steps.ChannelsFirst(), NORMALISE), 1, True, 0),
        ((), 0, False, 0),
    ],
)
def test_only_the_last_steps_by_value_become_a_table(
    chosen: tuple[steps.Step, ...], before: int, table: bool, after: int
) -> None:
    head, lookup, tail = split(applied(*chosen))
    assert (len(head), lookup is not None, len(tail)) == (before, table, after)


def test_another_number_of_channels_is_refused_as_the_steps_refuse_it() -> None:
    spec = Input(name="x", kind="image", shape=(6, 5, 4), preprocessing=(NORMALISE,))
    with pytest.raises(BadInput, match="3 of mean for 4 channels"):
        Preprocess(spec)(picture(0, channels=4))
