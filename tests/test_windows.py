"""windows and described: a recording is its windows everywhere, and of the described kind."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from delivered import delivered
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeclin.convert.calibration import prepare, samples_of
from edgeclin.convert.cautions import of_validation
from edgeclin.datasets import Dataset, full_windows, open_dataset, require_described, windowed
from edgeclin.description import Input
from edgeclin.errors import BadFile, BadInput
from edgeclin.preprocess import Preprocess
from edgeclin.sources import ReplaySource
from edgeclin.steps import Decode, Leads, Resample, Step, Window, ZScore


def described(*steps: Step, **facts: Any) -> Input:
    return Input(name="ecg", kind="signal", shape=(4,), preprocessing=steps, **facts)


CUT = described(Window(length=4, hop=2))


def recordings(*lengths: int, **facts: Any) -> Dataset:
    """Recordings in which every sample is another number."""
    bounds = np.cumsum([0, *lengths])
    samples = [np.arange(a, b, dtype=np.float32) for a, b in pairwise(bounds)]
    return Dataset(Path("recordings"), samples, **facts)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 15), min_size=1, max_size=6))
def test_windows_are_the_ones_that_run_judges(lengths: list[int]) -> None:
    dataset, preprocess = recordings(*lengths), Preprocess(CUT)
    replayed = [arrival.sample for arrival in delivered(ReplaySource(dataset, preprocess))]
    cut = windowed(dataset, preprocess)
    assert len(cut) == len(replayed)
    for index in reversed(range(len(cut))):  # in any order
        np.testing.assert_array_equal(cut[index], replayed[index])


def test_a_window_has_its_recording_s_label_and_group() -> None:
    dataset = recordings(8, 4, 6, labels=("a", "b", "c"), groups=("x", "y", "x"))
    cut = full_windows(dataset, Preprocess(CUT))
    assert [sample.tolist()[0] for sample in cut] == [0, 2, 4, 8, 12, 14]
    assert cut.labels == tuple("aaabcc")
    assert cut.groups == tuple("xxxyxx")
    assert cut.left_out == 0


def test_what_is_too_short_is_counted_and_said() -> None:
    dataset = recordings(8, 3, 4, 1, labels=tuple("abcd"))
    preprocess = Preprocess(CUT)
    cut = full_windows(dataset, preprocess)
    assert cut.labels == tuple("aaac")
    assert cut.left_out == 2
    said = list(of_validation(cut, full_windows(recordings(4), preprocess), 0))
    assert said[0] == "2 recordings of recordings are left out: each is shorter than one window"
    kept = windowed(dataset, preprocess)
    assert kept.labels == tuple("aaabcd")
    with pytest.raises(BadInput, match="3 samples, expected a window of 4"):
        preprocess(kept[3])
    with pytest.raises(BadFile, match="all 2 recordings are shorter than the step `window` wants"):
        full_windows(recordings(3, 2), preprocess)


def test_without_the_step_nothing_is_cut_nor_read() -> None:
    dataset = Dataset(Path("absent"), [])
    assert windowed(dataset, Preprocess(described())) is dataset
    assert full_windows(dataset, Preprocess(described())) is dataset


def test_calibration_gets_every_window_and_whole_recordings_are_held_out(tmp_path: Path) -> None:
    for number in range(10):
        text = "".join(f"{number}.{tick:02}\n" for tick in range(10))
        (tmp_path / f"{number}.txt").write_text(text)
    calibration, validation = samples_of(open_dataset(tmp_path), None, CUT)
    assert (len(calibration), len(validation)) == (32, 8)
    parts = [{int(sample[0]) for sample in part} for part in (calibration, validation)]
    assert len(parts[0]) == 8
    assert not parts[0] & parts[1]
    prepared = prepare(calibration, Preprocess(CUT), tmp_path / "prepared.npy")
    assert prepared.shape == (32, 4)
    np.testing.assert_array_equal(prepared, np.stack(list(calibration)))


def test_a_window_that_is_in_both_sets_is_refused() -> None:
    one = Dataset(Path("one"), [np.arange(6.0)])
    other = Dataset(Path("other"), [np.arange(2.0, 8.0)])
    with pytest.raises(BadFile, match="shares 1 samples with one"):
        samples_of(one, other, CUT)


def test_a_value_that_is_none_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1\n2\n3\n4\n")
    (tmp_path / "b.txt").write_text("1\n2\n3\n4\n5\nnan\n")
    calibration, _ = samples_of(
        open_dataset(tmp_path), Dataset(Path("held"), [np.arange(90.0, 94)]), CUT
    )
    with pytest.raises(BadFile, match=r"sample 2 \(b\.txt\): 1 of 4 values are not finite"):
        prepare(calibration, Preprocess(CUT), tmp_path / "prepared.npy")


@pytest.mark.parametrize(
    ("facts", "steps", "problem"),
    [
        ({"sampling_hz": 250.0}, (), "recorded at 360 Hz, the model is described for 250 Hz"),
        ({"sampling_hz": 250.0}, (Resample(from_hz=500, to_hz=250),), "at 360 Hz.*for 500 Hz"),
        ({}, (ZScore(), Resample(from_hz=500, to_hz=250)), "at 360 Hz.*for 500 Hz"),
        ({"leads": ("V5",)}, (), "its leads give MLII, V5, the model is described for V5"),
        ({"leads": ("V5",)}, (Leads(take=(0,)),), "its leads give MLII, the model.* for V5"),
        ({"leads": ("V5",)}, (Leads(take=(2,)),), "its leads give none, the model.* for V5"),
    ],
)
def test_recordings_of_another_recorder_are_refused(
    facts: dict[str, Any], steps: tuple[Step, ...], problem: str
) -> None:
    dataset = recordings(8, leads=("MLII", "V5"), sampling_hz=360.0)
    with pytest.raises(BadFile, match=problem):
        require_described(dataset, described(*steps, **facts))
    with pytest.raises(BadFile, match=problem):
        samples_of(recordings(4), dataset, described(*steps, **facts))


def test_images_are_never_taken_for_signals() -> None:
    images = Dataset(Path("images"), [np.zeros(9, np.uint8)], encoded=True)
    with pytest.raises(BadFile, match="holds images, and no step of the input 'ecg' decodes them"):
        require_described(images, CUT)
    require_described(images, described(Decode()))


@pytest.mark.parametrize(
    ("facts", "steps"),
    [
        ({}, ()),
        ({"sampling_hz": 360.0, "leads": ("MLII", "V5")}, ()),
        ({"sampling_hz": 250.0}, (Resample(from_hz=360, to_hz=250),)),
        ({"leads": ("V5", "MLII")}, (Leads(take=(1, 0)),)),
    ],
)
def test_recordings_of_the_described_recorder_are_taken(
    facts: dict[str, Any], steps: tuple[Step, ...]
) -> None:
    dataset = recordings(8, leads=("MLII", "V5"), sampling_hz=360.0)
    require_described(dataset, described(*steps, **facts))
    require_described(recordings(8), described(*steps, **facts))
