"""A signal is cut into the same windows however it comes, and one stream never holds up another."""

from __future__ import annotations

import io
import json
from collections import Counter

import numpy as np
import pytest
from delivered import delivered
from hypothesis import given
from hypothesis import strategies as st

from edgeclin.description import Input
from edgeclin.errors import BadInput
from edgeclin.inbox import LINE, Arrival, Inbox
from edgeclin.preprocess import Preprocess
from edgeclin.sources import JsonLinesSource
from edgeclin.steps import Window
from edgeclin.streams import SignalStream


def preprocess(length: int, hop: int) -> Preprocess:
    cut = (Window(length=length, hop=hop),)
    return Preprocess(Input(name="ecg", kind="signal", shape=(length,), preprocessing=cut))


@given(
    length=st.integers(1, 9),
    hop=st.integers(1, 12),
    sizes=st.lists(st.integers(0, 15), max_size=12),
    leads=st.sampled_from([(), (1,), (3,)]),
)
def test_windows_of_a_stream_are_those_of_its_recording(
    length: int, hop: int, sizes: list[int], leads: tuple[int, ...]
) -> None:
    recording = np.arange(sum(sizes) * int(np.prod(leads, dtype=int))).reshape(sum(sizes), *leads)
    stream = SignalStream(Window(length=length, hop=hop))
    chunks = np.split(recording, np.cumsum(sizes)[:-1]) if sizes else []
    came = [window for chunk in chunks for window in stream.feed(chunk)]
    cut = preprocess(length, hop)
    wanted = list(cut.windows(recording)) if cut.starts(recording) else []
    assert [window.tolist() for window in came] == [window.tolist() for window in wanted]


def test_a_window_is_the_caller_s_own() -> None:
    stream = SignalStream(Window(length=4, hop=1))
    first, second = stream.feed(np.arange(5.0))
    assert (first.tolist(), second.tolist()) == ([0, 1, 2, 3], [1, 2, 3, 4])


def test_without_a_window_every_arrival_is_a_sample() -> None:
    assert [list(one) for one in SignalStream(None).feed(np.array([1, 2]))] == [[1, 2]]


def test_other_leads_begin_a_new_window_and_are_told() -> None:
    stream = SignalStream(Window(length=3, hop=3))
    assert list(stream.feed(np.zeros((2, 2)))) == []
    with pytest.raises(BadInput, match="3 leads after 2"):
        list(stream.feed(np.zeros((1, 3))))
    (window,) = stream.feed(np.ones((3, 3)))
    assert window.tolist() == np.ones((3, 3)).tolist()


def test_no_samples_change_no_leads() -> None:
    stream = SignalStream(Window(length=2, hop=2))
    assert not list(stream.feed(np.zeros((1, 2))))
    assert not list(stream.feed(np.asarray([])))
    (window,) = stream.feed(np.ones((1, 2)))
    assert window.tolist() == [[0, 0], [1, 1]]


def lines(*values: object) -> io.BytesIO:
    return io.BytesIO("".join(f"{json.dumps(value)}\n" for value in values).encode())


def chunk(stream: str, *samples: float) -> dict[str, object]:
    return {"stream": stream, "samples": samples}


def test_streams_on_standard_input_are_cut_and_numbered_each_for_itself() -> None:
    text = lines(chunk("a", 1), chunk("b", 10, 20, 30), chunk("a", 2), [7, 8], chunk("a", 3, 4))
    found = delivered(JsonLinesSource(text, preprocess(2, 1)), start=5)
    by_stream: dict[str, list[tuple[int, list[float]]]] = {}
    for arrival in found:
        assert isinstance(arrival.sample, np.ndarray)
        samples = by_stream.setdefault(arrival.stream, [])
        samples.append((arrival.position, arrival.sample.tolist()))
    assert by_stream == {
        "stdin/a": [(5, [1, 2]), (6, [2, 3]), (7, [3, 4])],
        "stdin/b": [(5, [10, 20]), (6, [20, 30])],
        "stdin": [(5, [7, 8])],
    }


@pytest.mark.parametrize(
    ("value", "words", "stream"),
    [
        ({"stream": "a/b", "samples": [1]}, "stream", "stdin"),
        ({"stream": "a"}, "samples", "stdin"),
        ({"stream": "a", "samples": [1], "rate": 3}, "rate", "stdin"),
        ({"stream": "a", "samples": ["x"]}, "numbers", "stdin/a"),
        ({"stream": "a", "samples": [[1], [1, 2]]}, "numbers", "stdin/a"),
        ({"stream": "a", "samples": [1.5, True]}, "numbers", "stdin/a"),
        ({"stream": "a", "samples": [[1, 0], [0, False]]}, "numbers", "stdin/a"),
        ([2, 1, True], "numbers", "stdin"),
    ],
)
def test_a_broken_line_of_a_stream_is_told_and_the_others_go_on(
    value: object, words: str, stream: str
) -> None:
    found = delivered(JsonLinesSource(lines(value, chunk("b", 1, 2)), preprocess(2, 1)))
    broken = {arrival.stream: str(arrival.sample) for arrival in found}
    assert words in broken[stream]
    assert "stdin/b" in broken


@pytest.mark.parametrize(
    "broken",
    [
        b'{"stream": "a", "samples": ["x"]}',
        b'{"stream": "a", "samples": [3], "rate": 5}',
    ],
)
def test_no_window_spans_samples_that_were_lost(broken: bytes) -> None:
    before = lines(chunk("a", 1), chunk("b", 1)).getvalue()
    after = lines(chunk("a", 5, 6), chunk("b", 2)).getvalue()
    text = io.BytesIO(before.rstrip() + b"\n" + broken + b"\n" + after)
    found = delivered(JsonLinesSource(text, preprocess(2, 2)))
    windows = [
        (arrival.stream, arrival.sample.tolist())
        for arrival in found
        if isinstance(arrival.sample, np.ndarray)
    ]
    assert sorted(windows) == [("stdin/a", [5, 6]), ("stdin/b", [1, 2])]
    assert len(found) == 3


@pytest.mark.parametrize(
    "broken",
    [
        b'{"stream": "a", "samp{"stream": "b", "samples": [3, 4]}',
        b'{"stream": "a", "samp{"stream": "b/',
        b'{"stream": "a", "samples": [3, 4',
        b'{"samples": [3, 4{"stream": "b", "samples": [9]}',
        b'{"str{"stream": "b", "samples": [9]}',
        b'ples": [3, 4]}',
        b'{"stream": "a ", "samples": [3, 4]}',
        b'{"stream": "a\\u0000", "samples": [3, 4]}',
        b'{"stream": "", "samples": [3, 4]}',
        b"\xff\xfe",
    ],
)
def test_no_window_of_any_stream_spans_a_line_that_may_have_held_samples_of_it(
    broken: bytes,
) -> None:
    before = lines(chunk("a", 1), chunk("b", 1)).getvalue()
    after = lines(chunk("a", 5, 6), chunk("b", 7, 8)).getvalue()
    found = delivered(
        JsonLinesSource(io.BytesIO(before + broken + b"\n" + after), preprocess(2, 2))
    )
    windows = [
        (arrival.stream, arrival.sample.tolist())
        for arrival in found
        if isinstance(arrival.sample, np.ndarray)
    ]
    assert sorted(windows) == [("stdin/a", [5, 6]), ("stdin/b", [7, 8])]


def test_a_sample_that_is_missing_is_one_value_of_its_window() -> None:
    text = io.BytesIO(b'{"stream": "a", "samples": [1, NaN, -Infinity, 4]}\n')
    found = delivered(JsonLinesSource(text, preprocess(2, 2)))
    assert str([arrival.sample.tolist() for arrival in found]) == "[[1.0, nan], [-inf, 4.0]]"


def test_names_without_end_take_no_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeclin.sources.json_lines.MAX_STREAMS", 3)
    text = lines(*(chunk(f"bed-{number}", 1, 2) for number in range(5)))
    found = Counter(
        arrival.stream for arrival in delivered(JsonLinesSource(text, preprocess(2, 1)))
    )
    assert found == {"stdin/bed-0": 1, "stdin/bed-1": 1, "stdin/bed-2": 1, "stdin": 2}


def test_a_live_writer_is_not_held_back_and_hears_what_went() -> None:
    inbox = Inbox()
    text = lines(*(chunk("a", number) for number in range(LINE + 6)))
    JsonLinesSource(text, preprocess(1, 1), live=True).deliver(inbox)
    first, *rest = list[Arrival](iter(inbox.take, None))  # type: ignore[arg-type]
    assert "dropped: 6 samples" in str(first.sample)
    assert len(rest) == LINE
