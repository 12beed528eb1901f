"""Sources can be taken up again, and a broken line does not end them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from conftest import ECG
from delivered import delivered
from polling import wait_until

from edgeclin.datasets import Dataset, open_dataset
from edgeclin.description import Input
from edgeclin.errors import BadInput
from edgeclin.inbox import Inbox
from edgeclin.preprocess import Preprocess
from edgeclin.sources import JsonLinesSource, ReplaySource
from edgeclin.steps import Window

PLAIN = Preprocess(Input(name="beat", kind="signal", shape=(140, 1)))


@pytest.mark.parametrize("start", [0, 1, 4_499, 4_500])
def test_a_replay_goes_on_where_it_was_left(start: int, beats: np.ndarray) -> None:
    source = ReplaySource(open_dataset(ECG / "data" / "test.npz"), PLAIN)
    arrivals = delivered(source, start)
    assert [arrival.position for arrival in arrivals] == list(range(start, 4_500))
    for arrival in arrivals[:2]:
        np.testing.assert_array_equal(arrival.sample, beats[arrival.position])


def test_windows_of_all_recordings_are_numbered_through() -> None:
    preprocess = Preprocess(
        Input(name="ecg", kind="signal", shape=(4,), preprocessing=(Window(length=4, hop=2),))
    )
    recordings = [np.arange(10), np.arange(100, 107)]
    source = ReplaySource(Dataset(Path("two"), recordings), preprocess)
    got = [(arrival.position, list(arrival.sample)) for arrival in delivered(source, 2)]
    assert got == [
        (2, [4, 5, 6, 7]),
        (3, [6, 7, 8, 9]),
        (4, [100, 101, 102, 103]),
        (5, [102, 103, 104, 105]),
    ]


def test_a_recording_shorter_than_a_window_is_an_arrival_that_cannot_be_judged() -> None:
    preprocess = Preprocess(
        Input(name="ecg", kind="signal", shape=(4,), preprocessing=(Window(length=4, hop=2),))
    )
    recordings = [np.arange(4), np.arange(3), np.arange(4)]
    arrivals = delivered(ReplaySource(Dataset(Path("three"), recordings), preprocess))
    assert [arrival.position for arrival in arrivals] == [0, 1, 2]
    with pytest.raises(BadInput, match="3 samples, expected a window of 4"):
        preprocess(arrivals[1].sample)  # type: ignore[arg-type]


def test_an_image_that_vanishes_is_an_arrival_that_says_so(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    source = ReplaySource(open_dataset(tmp_path), PLAIN)
    (tmp_path / "b.png").unlink()
    found = [arrival.sample for arrival in delivered(source)]
    assert [type(sample) for sample in found] == [np.ndarray, BadInput, np.ndarray]
    assert "b.png: no such file" in str(found[1])


def test_a_folder_has_another_name_when_its_images_are_others(tmp_path: Path) -> None:
    names = set()
    for content in (b"one", b"two", b"three"):
        (tmp_path / "a.png").write_bytes(content)
        names.add(ReplaySource(open_dataset(tmp_path), PLAIN).name)
    (tmp_path / "b.png").write_bytes(b"four")
    names.add(ReplaySource(open_dataset(tmp_path), PLAIN).name)
    assert len(names) == 4
    assert ReplaySource(open_dataset(tmp_path), PLAIN).name in names


def test_a_rate_is_kept_by_sleeping_until_each_sample_is_due() -> None:
    slept: list[float] = []
    source = ReplaySource(
        Dataset(Path("ten"), np.zeros((10, 140))), PLAIN, rate_hz=1000.0, sleep=slept.append
    )
    assert len(delivered(source, 5)) == 5
    assert len(slept) == 4
    assert max(slept) <= 4 / 1000


def test_lines_are_numbered_on_from_the_start() -> None:
    source = JsonLinesSource(io.BytesIO(b"[1, 2]\n\n[3]\n"), PLAIN)
    assert [arrival.position for arrival in delivered(source, 7)] == [7, 8]


@pytest.mark.parametrize(
    "line",
    ["{}", "[", "null", "3", '["a"]', '["1.5"]', "[true]", "[[1], [2, 3]]", "[1,]", "[1e999999]x"],
)
def test_a_line_that_is_no_sample_is_an_arrival_that_says_why(line: str) -> None:
    arrivals = delivered(JsonLinesSource(io.BytesIO(f"[1]\n{line}\n[2]\n".encode()), PLAIN))
    assert isinstance(arrivals[1].sample, BadInput)
    assert isinstance(arrivals[2].sample, np.ndarray)


def test_a_number_beyond_float32_is_infinite_without_a_word(
    recwarn: pytest.WarningsRecorder,
) -> None:
    (arrival,) = delivered(JsonLinesSource(io.BytesIO(b"[1e300, -1e300, 1]\n"), PLAIN))
    sample = arrival.sample
    assert isinstance(sample, np.ndarray)
    assert sample.tolist() == [float("inf"), float("-inf"), 1.0]
    assert not recwarn.list


def test_a_line_without_end_takes_no_more_memory_than_the_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeclin.sources.json_lines.MAX_LINE", 100)
    lines = b"[" + b" " * 1000 + b"1]\n[2]\n" + b"[" + b"1," * 500
    first, second, third = delivered(JsonLinesSource(io.BytesIO(lines), PLAIN))
    assert isinstance(first.sample, BadInput)
    assert isinstance(second.sample, np.ndarray)
    assert isinstance(third.sample, BadInput)
    assert [arrival.position for arrival in (first, second, third)] == [0, 1, 2]


class Other:
    """A source that goes on."""

    def deliver(self, inbox: Inbox) -> None:
        inbox.stopped.wait(30)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_source_that_ends_while_others_go_on_is_told(
    recorded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = Inbox()
    source = (
        ReplaySource(Dataset(Path("beats"), np.zeros((1, 2))), PLAIN)
        if recorded
        else JsonLinesSource(io.BytesIO(b"[1, 2]\n"), PLAIN)
    )
    inbox.feed(source, Other())
    wait_until(lambda: f"{source.name} has ended" in caplog.text, "the end")
    inbox.stop()
    assert inbox.ended == ([] if recorded else ["stdin"])
    assert ("ALARM" in caplog.text) == (not recorded)


def test_the_end_of_the_only_source_is_the_end_of_all(caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox()
    inbox.feed(JsonLinesSource(io.BytesIO(b""), PLAIN))
    assert inbox.take() is None
    assert not inbox.ended
    assert not caplog.text
