"""csv_signals: text as instruments and spreadsheets write it, and the line that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeclin.datasets import open_dataset, read_sample
from edgeclin.datasets.described import same_rate
from edgeclin.errors import BadFile

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def written(folder: Path, text: str | bytes, name: str = "s.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@settings(deadline=None, max_examples=60)
@given(
    signal=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 40), st.integers(1, 4)), elements=floats
    ),
    separator=st.sampled_from(",;\t"),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    last=st.booleans(),
    time=st.booleans(),
)
def test_what_was_written_is_read_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory,
    signal: np.ndarray,
    separator: str,
    newline: str,
    last: bool,
    time: bool,
) -> None:
    leads = [f"lead {number}" for number in range(signal.shape[1])]
    lines = [separator.join(["time"] * time + leads)]
    for number, row in enumerate(signal):
        lines.append(separator.join([str(number / 250)] * time + [repr(float(v)) for v in row]))
    text = newline.join(lines) + newline * last
    path = written(tmp_path_factory.getbasetemp(), text)
    sample = read_sample(path)
    assert sample.dtype == np.float32
    np.testing.assert_array_equal(sample, signal)
    assert open_dataset(path).leads == tuple(leads)


@settings(deadline=None, max_examples=60)
@given(signal=hnp.arrays(np.float32, st.integers(1, 60), elements=floats))
def test_one_value_a_line_is_one_signal(
    tmp_path_factory: pytest.TempPathFactory, signal: np.ndarray
) -> None:
    text = "".join(f"{value!r}\n" for value in map(float, signal))
    path = written(tmp_path_factory.getbasetemp(), text, "s.txt")
    np.testing.assert_array_equal(read_sample(path), signal)
    assert open_dataset(path).leads is None


@pytest.mark.parametrize(
    ("text", "leads", "expected"),
    [
        ("I,II\n1,2\n3,4\n", ("I", "II"), [[1, 2], [3, 4]]),
        ('"I","II"\n"1","2"\n', ("I", "II"), [[1, 2]]),
        ("\ufeffI;II\r\n1;2\r\n\r\n", ("I", "II"), [[1, 2]]),
        ("Time [s],I\n0.0,5\n0.1,6\n", ("I",), [[5], [6]]),
        ("t\tI\n0\t-5e-3\n", ("I",), [[-0.005]]),
        ("I\n1\n2\n", ("I",), [[1], [2]]),
        ("1\n2", None, [1, 2]),
        ("-1.5e-3\n\n2\n", None, [-0.0015, 2]),
        ("I,II\n1,nan\n", ("I", "II"), [[1, np.nan]]),
    ],
)  # fmt: skip
def test_forms(
    tmp_path: Path, text: str, leads: tuple[str, ...] | None, expected: list[object]
) -> None:
    path = written(tmp_path, text)
    np.testing.assert_array_equal(read_sample(path), np.array(expected, np.float32))
    assert open_dataset(path).leads == leads


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty or begins with an empty line"),
        ("\n1\n", "begins with an empty line"),
        ("I,II\n", "holds no samples"),
        ("I,II\n1,2\n3\n", "line 3 has 1 cells, expected 2; every line is one sample"),
        ("I,II\n1,2,3\n", "line 2 has 3 cells, expected 2|names 2 columns and has 3"),
        ("I,II\n1,2\n3,4,5\n", "line 3 has 3 cells, expected 2"),
        ("I,II\n1,\n", "line 2, cell 2 is not a number"),
        ("I,II\n1,2\n\n3,Doe\n", "line 4, cell 2 is not a number"),
        ("1\n2\n3 4\n", "line 3, cell 1 is not a number"),
        ("1,2\n3,4\n", "2 columns without names; name the leads in the first line, and write dec"),
        ("0,5\n0,6\n", "2 columns without names"),
        ("I;II\n0,5;1\n", "line 2, cell 1 is not a number: write decimals with a point"),
        ("time\n1\n", "has a column for the time and none for a lead"),
        (b"\xff\xfe1\x00\n\x00", "not text in UTF-8"),
        (b"1\n2\0\n", "not text but binary data"),
        ("# comment\n1\n2 # why\n", "line 3, cell 1 is not a number"),
    ],
)
def test_the_line_that_is_wrong_is_named_without_what_it_holds(
    tmp_path: Path, text: str | bytes, problem: str
) -> None:
    with pytest.raises(BadFile, match=problem) as caught:
        read_sample(written(tmp_path, text))
    assert "Doe" not in str(caught.value)


@settings(deadline=None, max_examples=300)
@given(
    data=st.binary(max_size=60) | st.text("0123456789.,;-+eE\n\r\t \"'#IVnaif_x").map(str.encode)
)
def test_any_text_is_read_or_bad_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = written(tmp_path_factory.getbasetemp(), data, "any.csv")
    try:
        sample = read_sample(path)
    except BadFile as exc:
        assert str(path) in str(exc)
        return
    assert sample.dtype == np.float32
    assert sample.ndim in (1, 2)
    assert sample.size


def test_a_number_beyond_float32_is_infinite_without_a_word(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    assert read_sample(written(tmp_path, "1e300\n1\n")).tolist() == [float("inf"), 1.0]
    assert not recwarn.list


def test_a_table_names_stretches(tmp_path: Path) -> None:
    written(tmp_path, "".join(f"{value}\n" for value in range(10)), "a.txt")
    written(tmp_path, "5\n6\n", "b.txt")
    written(tmp_path, "file,label,start,end\na.txt,x,2,4\na.txt,y,8,\nb.txt,x,,\n", "labels.csv")
    data = open_dataset(tmp_path)
    assert [sample.tolist() for sample in data] == [[2, 3], [8, 9], [5, 6]]
    assert data.labels == ("x", "y", "x")
    assert data.groups == ("a.txt", "a.txt", "b.txt")
    for cells in ("2,11", "10,"):
        written(tmp_path, f"file,label,start,end\na.txt,x,{cells}\n", "labels.csv")
        with pytest.raises(BadFile, match=r"a\.txt: has 10 samples, labels\.csv wants those from"):
            open_dataset(tmp_path)[0]


def test_signals_of_several_kinds_of_recorder_are_not_one_data_set(tmp_path: Path) -> None:
    written(tmp_path, "I,II\n1,2\n", "a.csv")
    written(tmp_path, "II,I\n1,2\n", "b.csv")
    with pytest.raises(BadFile, match=r"b\.csv: its leads: II, I; of a\.csv: I, II"):
        open_dataset(tmp_path)


def test_a_line_about_a_patient_is_not_repeated_as_names_of_leads(tmp_path: Path) -> None:
    written(tmp_path, "1\n2\n", "a.txt")
    written(tmp_path, "Jane Doe, born 1 April 1970\n2,3\n", "b.txt")
    with pytest.raises(
        BadFile, match=r"b\.txt: its leads: 2 with no names of leads; of a"
    ) as caught:
        open_dataset(tmp_path)
    assert "Doe" not in str(caught.value)
    written(tmp_path, "John Roe, born 2 April 1971\n2,3\n", "a.txt")
    with pytest.raises(BadFile, match=r"b\.txt: its leads: 2 with no names of leads; of a"):
        open_dataset(tmp_path)


def test_real_segments_are_read_as_the_instrument_wrote_them(shared_data: Path) -> None:
    data = open_dataset(shared_data / "iegm" / "raw")
    assert len(data) == 20
    with np.load(shared_data / "iegm" / "iegm_train_subset.npz") as arrays:
        known = {row.tobytes() for row in arrays["X"]}
    with np.load(shared_data / "iegm" / "iegm_test_dev.npz") as arrays:
        known |= {row.tobytes() for row in arrays["X"]}
    assert {sample.shape for sample in data} == {(1250,)}
    assert sum(sample.tobytes() in known for sample in data) > 0


def timed(name: str, times: np.ndarray) -> str:
    return f"{name},I\n" + "".join(f"{float(at)!r},{number}\n" for number, at in enumerate(times))


@pytest.mark.parametrize(
    ("name", "times", "rate"),
    [
        ("time_s", np.arange(500) / 125, 125),
        ("Time [s]", 1.7e9 + np.arange(500) / 250, 250),
        ("t_ms", np.arange(500) * 4, 250),
        ("t [s]", np.arange(500) / 250, 250),
        ("time (us)", np.arange(500) * 4000.0, 250),
        ("time_s", np.round(np.arange(500) / 360, 3), 360),
        ("time", np.arange(500) / 250, None),
        ("t", np.arange(500), None),
        ("time_s", np.arange(20) / 250, None),
        ("time_s", np.arange(5000) // 250, None),
        ("time_s", np.r_[0:200, 400:700] / 250, 250),
        ("time (1/256 s)", np.arange(500), None),
        ("time (h:m:s)", np.arange(500), None),
    ],
)
def test_a_column_of_time_tells_the_rate_where_its_unit_is_named(
    tmp_path: Path, name: str, times: np.ndarray, rate: float | None
) -> None:
    path = written(tmp_path, timed(name, times))
    found = open_dataset(path).sampling_hz
    assert found == (None if rate is None else pytest.approx(rate, rel=0.005))


@pytest.mark.parametrize("hz", [60, 62.5, 125, 128, 250, 256, 360, 500, 512, 700, 1000, 1024, 2000])
@pytest.mark.parametrize("decimals", [2, 3, 4, 6, 17])
@pytest.mark.parametrize("to", [np.round, np.trunc])
def test_even_times_are_even_however_they_are_rounded(
    tmp_path: Path, hz: float, decimals: int, to: Callable[[np.ndarray], np.ndarray]
) -> None:
    times = np.arange(3000) / hz
    if decimals < 17:
        times = to(times * 10**decimals) / 10**decimals
    path = written(tmp_path, timed("time_s", times))
    assert read_sample(path).shape == (3000, 1)
    found = open_dataset(path)
    assert same_rate(hz, found.sampling_hz, found.sampling_error)
    if decimals > 2:
        assert not same_rate(hz * 1.02, found.sampling_hz, found.sampling_error)
    with pytest.raises(BadFile, match="the time goes on by"):
        read_sample(written(tmp_path, timed("time_s", np.r_[times[:999], times[1100:]])))


MILLISECONDS = np.arange(30_000)


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("time_ms", np.r_[MILLISECONDS[:18_000], MILLISECONDS[18_000::2]]),
        ("time_ms", np.r_[MILLISECONDS[:18_000], MILLISECONDS[18_000:24_000].repeat(2)]),
        ("time_ms", np.delete(MILLISECONDS, np.arange(15_000, 24_000, 10))),
        ("time_ms", np.delete(MILLISECONDS, [15_000, 15_001])),
        ("time_s", np.delete(MILLISECONDS, np.arange(15_000, 24_000, 10)) / 1000),
        ("t", np.delete(MILLISECONDS, 15_000)),
        ("time", np.insert(MILLISECONDS, 15_000, 15_000)),
    ],
    ids=["half the rate", "each twice", "a tenth lost", "two lost", "in s", "counted", "twice"],
)
def test_what_is_lost_shows_also_where_a_step_is_what_times_are_rounded_to(
    tmp_path: Path, name: str, times: np.ndarray
) -> None:
    with pytest.raises(BadFile, match="the time goes on by"):
        read_sample(written(tmp_path, timed(name, times)))


@pytest.mark.parametrize("hz", [999.5, 1000.5])
def test_whole_milliseconds_may_be_written_as_floats(tmp_path: Path, hz: float) -> None:
    times = np.round(np.arange(30_000) * 1000 / hz)
    assert len(read_sample(written(tmp_path, timed("time_ms", times)))) == 30_000


@pytest.mark.parametrize("hz", [1, 100, 1000])
@pytest.mark.parametrize("start", [0, 1_700_000_000])
def test_one_sample_lost_or_doubled_shows_where_times_are_written_finer_than_a_step(
    tmp_path: Path, hz: int, start: int
) -> None:
    whole = start + np.arange(5000) / hz
    for times in (whole, np.delete(whole, 2500), np.insert(whole, 2500, whole[2500])):
        path = written(tmp_path, "time_s,I\n" + "".join(f"{at:.6f},1\n" for at in times))
        if times is whole:
            assert len(read_sample(path)) == 5000
            continue
        with pytest.raises(BadFile, match="the time goes on by"):
            read_sample(path)


def test_a_stretch_at_another_rate_than_its_file_begins_with_is_refused(tmp_path: Path) -> None:
    times = np.r_[np.arange(20_000) / 360, 1000 + np.arange(2000) / 250]
    written(tmp_path, timed("time_s", times), "a.csv")
    table = "file,label,start,end\na.csv,x,0,20000\na.csv,x,20000,\n"
    written(tmp_path, table, "labels.csv")
    data = open_dataset(tmp_path)
    assert (data.sampling_hz, len(data[0])) == (pytest.approx(360), 20_000)
    with pytest.raises(BadFile, match="250 Hz from sample 20000 on, 360 Hz before"):
        data[1]


@pytest.mark.parametrize("form", ["%.18e", "%.10g", "%.6f", "%g"])
@pytest.mark.parametrize("hz", [250, 512, 700])
def test_rounded_times_are_even_in_whatever_form_they_are_written(
    tmp_path: Path, form: str, hz: float
) -> None:
    """%g leaves six digits: of times above 1,000 s hundredths."""
    times = np.round(np.arange(960 * hz, 1200 * hz) / hz, 3)
    text = "time_s,I\n" + "".join(f"{form % at},1\n" for at in times)
    path = written(tmp_path, text)
    assert len(read_sample(path)) == len(times)
    found = open_dataset(path)
    assert same_rate(hz, found.sampling_hz, found.sampling_error)
    gap = "time_s,I\n" + "".join(f"{form % at},1\n" for at in [*times[:5000], *times[5100:]])
    with pytest.raises(BadFile, match="the time goes on by"):
        read_sample(written(tmp_path, gap))


def test_a_clock_that_stands_still_is_no_time(tmp_path: Path) -> None:
    for times, still in ((np.full(100, 5.123), True), (np.full(200, 5.0), False)):
        path = written(tmp_path, timed("time_s", times))
        if not still:
            assert len(read_sample(path)) == 200, "250 Hz in whole seconds"
            continue
        with pytest.raises(BadFile, match=r"the time of all 100 samples is 5\.123"):
            read_sample(path)


@pytest.mark.parametrize("hz", [667, 800, 1024, 2000])
def test_whole_milliseconds_are_no_count_of_samples(tmp_path: Path, hz: float) -> None:
    times = np.floor(np.arange(5000) / hz * 1000)
    assert len(read_sample(written(tmp_path, timed("time", times)))) == 5000


@pytest.mark.parametrize(
    "changed",
    [lambda ms: ms * 1e-3, lambda ms: ms / 1000, lambda ms: (ms + 1.7e12) / 1000 - 1.7e9],
    ids=["times a thousandth", "by a thousand", "epoch less epoch"],
)
def test_what_arithmetic_leaves_of_rounded_times_is_no_precision(
    tmp_path: Path, changed: Callable[[np.ndarray], np.ndarray]
) -> None:
    path = written(tmp_path, timed("time_s", changed(np.round(np.arange(3000) / 700 * 1000))))
    assert len(read_sample(path)) == 3000
    found = open_dataset(path)
    assert same_rate(700, found.sampling_hz, found.sampling_error)
    assert not same_rate(1000, found.sampling_hz, found.sampling_error)


@pytest.mark.parametrize("form", ["%g", "%.5g"])
@pytest.mark.parametrize("over_s", [0.3, 0.5, 3, 20])
def test_digits_that_run_out_a_little_before_the_end_are_no_gap(
    tmp_path: Path, form: str, over_s: float
) -> None:
    power = 1000 if form == "%g" else 100
    times = np.arange(0, power + over_s, 1 / 250)
    text = "time_s,I\n" + "".join(f"{form % at},1\n" for at in times)
    assert len(read_sample(written(tmp_path, text))) == len(times)


@pytest.mark.parametrize(("leads", "hz", "decimals"), [(12, 500, 2), (64, 1000, 3), (1, 250, 0)])
def test_as_much_is_looked_at_as_tells_the_rate_however_wide_the_rows(
    tmp_path: Path, leads: int, hz: float, decimals: int
) -> None:
    names = ",".join(f"L{number}" for number in range(leads))
    rows = (f"{at / hz:.{decimals}f}{',0.12345' * leads}\n" for at in range(60_000))
    path = written(tmp_path, f"time_s,{names}\n" + "".join(rows))
    found = open_dataset(path)
    assert found.sampling_hz is not None
    assert same_rate(hz, found.sampling_hz, found.sampling_error)
    assert not same_rate(hz / 2, found.sampling_hz, found.sampling_error)


def test_pieces_of_a_recording_with_jitter_are_of_its_rate(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    times = (np.arange(20_000) + draw.uniform(-0.2, 0.2, 20_000)) / 250
    written(tmp_path, timed("time_s", times), "a.csv")
    rows = "".join(f"a.csv,x,{at},{at + 100}\n" for at in range(0, 20_000, 100))
    written(tmp_path, f"file,label,start,end\n{rows}", "labels.csv")
    assert sum(len(sample) for sample in open_dataset(tmp_path)) == 20_000


@pytest.mark.parametrize(
    "name", ["t/s", "t / s", "t-s", "t.s", "time/s", "Time (s)", "time-seconds", "t_s", "time.sec"]
)
def test_a_unit_may_stand_behind_whatever_mark(tmp_path: Path, name: str) -> None:
    found = open_dataset(written(tmp_path, timed(name, np.arange(500) / 250)))
    assert (found.leads, found.sampling_hz) == (("I",), pytest.approx(250))


def test_a_lead_whose_name_ends_like_a_unit_is_a_lead(tmp_path: Path) -> None:
    for name in ("T wave [s]", "t_inverted_us", "tms"):
        assert open_dataset(written(tmp_path, f"{name},I\n1,2\n3,4\n")).leads == (name, "I")


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (np.r_[0:50, 60:100] / 250, "between samples 49 and 50 the time goes on by 0.044, elsewh"),
        (np.r_[0:50, 20:100] / 250, "between samples 49 and 50 the time goes back by 0.116"),
        (np.r_[0:50, 49, 50:100] / 250, "between samples 49 and 50 the time goes on by 0, elsewh"),
        (np.r_[0, 0, 0, 1, 1, 1, 0, 0.0], "between samples 5 and 6 the time goes back by 1"),
        (np.r_[0, 0, 0, 1, 1, 1, 3, 3.0], "between samples 5 and 6 the time goes on by 2, elsewh"),
        (np.r_[0:50, np.nan, 51:100] / 250, "the time of sample 50 is not a number"),
    ],
)
def test_a_recording_whose_time_jumps_is_refused(
    tmp_path: Path, times: np.ndarray, said: str
) -> None:
    path = written(tmp_path, timed("time", times))
    with pytest.raises(BadFile, match=said):
        read_sample(path)


def test_a_gap_is_seen_between_times_with_exponents_too(tmp_path: Path) -> None:
    for step in ("1e-3", "4E-3"):
        times = [f"{number}{step[1:]}" for number in (*range(50), *range(60, 100))]
        lines = "".join(f"{time},1\n" for time in times)
        with pytest.raises(BadFile, match=r"the time goes on by 0\.011"):
            read_sample(written(tmp_path, f"time,I\n{lines}"))


def test_a_time_too_coarse_to_tell_samples_apart_is_no_gap(tmp_path: Path) -> None:
    path = written(tmp_path, timed("time", np.arange(500) // 250))
    assert read_sample(path).shape == (500, 1)


def test_files_of_other_rates_are_no_data_set_and_one_that_does_not_tell_is_of_either(
    tmp_path: Path,
) -> None:
    written(tmp_path, timed("time", np.arange(20) / 250), "a.csv")
    written(tmp_path, timed("time_s", np.arange(500) / 250), "b.csv")
    assert open_dataset(tmp_path).sampling_hz == pytest.approx(250)
    written(tmp_path, timed("time_s", np.arange(500) / 360), "c.csv")
    with pytest.raises(BadFile, match=r"its rate: 360 Hz; of a\.csv: 250 Hz"):
        open_dataset(tmp_path)
