"""wfdb_records: physical units, the header's order of leads, one sentence for what is broken."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

wfdb = pytest.importorskip("wfdb", reason="the wfdb extra is not installed")

from edgeclin.datasets import open_dataset, read_sample  # noqa: E402
from edgeclin.errors import BadFile, MissingExtra  # noqa: E402

GAIN = 200.0
"""Stored units a millivolt."""


def record(
    path: Path,
    stored: np.ndarray,
    leads: tuple[str, ...] = ("I", "II"),
    units: tuple[str, ...] = ("mV", "mV"),
    rate: int = 250,
    **more: Any,
) -> Path:
    """A record of format 16 from int16 [samples, leads]; its header's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        path.name, fs=rate, units=list(units), sig_name=list(leads), d_signal=stored,
        fmt=["16"] * len(leads), adc_gain=[GAIN] * len(leads), baseline=[0] * len(leads),
        write_dir=str(path.parent), **more,
    )  # fmt: skip
    return path.with_suffix(".hea")


RAMP = np.stack([np.arange(1000), -2 * np.arange(1000)], axis=1).astype(np.int16)


@settings(deadline=None, max_examples=25)
@given(stored=hnp.arrays(np.int16, st.tuples(st.integers(1, 50), st.just(2)),
                         elements=st.integers(-32767, 32767)))  # fmt: skip
def test_what_a_recorder_wrote_is_read_in_millivolts(
    tmp_path_factory: pytest.TempPathFactory, stored: np.ndarray
) -> None:
    path = record(tmp_path_factory.getbasetemp() / "any", stored)
    sample = read_sample(path)
    assert sample.dtype == np.float32
    np.testing.assert_array_equal(sample, (stored / GAIN).astype(np.float32))


@pytest.mark.parametrize(
    ("unit", "factor"), [("mV", 1), ("uV", 1e-3), ("V", 1e3), ("mmHg", 1), ("NU", 1)]
)
def test_voltages_come_as_millivolts_and_the_rest_as_it_is(
    tmp_path: Path, unit: str, factor: float
) -> None:
    sample = read_sample(record(tmp_path / "r", RAMP, units=("mV", unit)))
    np.testing.assert_allclose(sample[:, 0], RAMP[:, 0] / GAIN, rtol=1e-6)
    np.testing.assert_allclose(sample[:, 1], RAMP[:, 1] / GAIN * factor, rtol=1e-6)


def test_an_invalid_sample_is_not_a_number(tmp_path: Path) -> None:
    stored = RAMP.copy()
    stored[7, 0] = -32768
    sample = read_sample(record(tmp_path / "r", stored))
    assert np.argwhere(np.isnan(sample)).tolist() == [[7, 0]]


def test_a_folder_of_records(tmp_path: Path) -> None:
    record(tmp_path / "102", RAMP[:300])
    record(tmp_path / "101", RAMP[:200])
    (tmp_path / "101.atr").write_bytes(b"\0\0")
    (tmp_path / "notes.txt").write_text("not a signal beside records")
    (tmp_path / "RECORDS").write_text("101\n102\n")
    data = open_dataset(tmp_path)
    assert [len(sample) for sample in data] == [200, 300]
    assert data.groups == ("101", "102")
    assert data.leads == ("I", "II")
    assert data.sampling_hz == 250.0
    assert data.labels is None


def test_one_record_is_a_data_set_and_a_sample(tmp_path: Path) -> None:
    path = record(tmp_path / "100", RAMP)
    data = open_dataset(path)
    assert len(data) == 1
    np.testing.assert_array_equal(data[0], read_sample(path))


def test_a_table_names_stretches_and_only_these_are_read(tmp_path: Path) -> None:
    record(tmp_path / "100", RAMP)
    (tmp_path / "labels.csv").write_text(
        "file,label,start,end\n100.hea,VT,250,500\n100.hea,SR,,250\n100.hea,VT,900,\n"
    )
    data = open_dataset(tmp_path)
    assert data.labels == ("VT", "SR", "VT")
    assert data.groups == ("100",) * 3
    for sample, (start, end) in zip(data, ((250, 500), (0, 250), (900, 1000)), strict=True):
        np.testing.assert_array_equal(sample, (RAMP[start:end] / GAIN).astype(np.float32))


def test_samples_come_whole_or_not_at_all_beyond_the_end(tmp_path: Path) -> None:
    record(tmp_path / "100", RAMP)
    (tmp_path / "labels.csv").write_text("file,label,start,end\n100.hea,VT,900,1100\n")
    with pytest.raises(BadFile, match=r"100\.hea: has 1000 samples, labels\.csv wants 1100"):
        open_dataset(tmp_path)
    (tmp_path / "labels.csv").write_text("file,label,start\n100.hea,VT,1000\n")
    with pytest.raises(BadFile, match=r"has 1000 samples, labels\.csv starts at 1000"):
        open_dataset(tmp_path)


def test_records_with_other_leads_or_rates_are_not_taken_for_the_same(tmp_path: Path) -> None:
    record(tmp_path / "a", RAMP)
    record(tmp_path / "b", RAMP, leads=("II", "I"))
    with pytest.raises(BadFile, match=r"b\.hea: its leads: II, I; of a\.hea: I, II; keep"):
        open_dataset(tmp_path)
    record(tmp_path / "b", RAMP, rate=360)
    with pytest.raises(BadFile, match=r"b\.hea: its rate: 360 Hz; of a\.hea: 250 Hz"):
        open_dataset(tmp_path)


def test_samples_that_change_make_another_data_set(tmp_path: Path) -> None:
    record(tmp_path / "a", RAMP)
    before = open_dataset(tmp_path).fingerprint()
    assert open_dataset(tmp_path).fingerprint() == before
    (tmp_path / "a.dat").write_bytes(bytes(4000))
    assert open_dataset(tmp_path).fingerprint() != before


LINE = "a.dat 16 200/mV 16 0 0 0 0 I\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not the header of a WFDB record"),
        ("\x00\xff garbage", "not the header of a WFDB record"),
        ("b 0 250 100\n", "describes no signals|not the header"),
        ("b 2 250 100\n" + LINE, "describes no signals|not the header"),
        ("b 1 250 100\nc.dat 16 200/mV 16 0 0 0 0 I\n", r"c\.dat: no such file, although b\.hea"),
        ("b 1 250 100\n../a.dat 16 200/mV 16 0 0 0 0 I\n", "not the header of a WFDB record"),
        ("b 1 250 100\n/etc/passwd 16 200/mV 16 0 0 0 0 I\n", "not the header"),
        ("b 1 250 9999\n" + LINE, "its samples cannot be read; is a file of it cut short"),
        ("b 1 250 99999999999999\n" + LINE, "its samples cannot be read"),
        ("b 1 250 100\na.dat 999 200/mV 16 0 0 0 0 I\n", "its samples cannot be read"),
        ("b 1 250 100\na.dat 16x2 200/mV 16 0 0 0 0 I\n", "holds several samples a frame"),
        ("b/2 1 250 200\na 100\na 100\n", r"a record of several segments; name its segments"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, text: str, problem: str) -> None:
    record(tmp_path / "a", RAMP)
    (tmp_path / "b.hea").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadFile, match=problem) as caught:
        open_dataset(tmp_path / "b.hea")[0]
    assert "\n" not in str(caught.value)


def test_samples_that_are_gone_are_named_when_they_are_asked_for(tmp_path: Path) -> None:
    data = open_dataset(record(tmp_path / "a", RAMP))
    (tmp_path / "a.dat").unlink()
    with pytest.raises(BadFile, match=r"a\.dat: no such file"):
        data[0]


HEADER = b"a 2 250 1000\na.dat 16 200/mV 16 0 0 0 0 I\na.dat 16 200/mV 16 0 0 0 0 II\n"


@settings(deadline=None, max_examples=100)
@given(flips=st.lists(st.tuples(st.integers(0, len(HEADER) - 1), st.integers(0, 255)), max_size=3))
def test_a_damaged_header_is_read_or_bad_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "flipped"
    record(folder / "a", RAMP)
    damaged = bytearray(HEADER)
    for position, value in flips:
        damaged[position] = value
    (folder / "a.hea").write_bytes(damaged)
    try:
        (sample,) = open_dataset(folder / "a.hea")
    except BadFile as exc:
        assert str(folder) in str(exc)
        return
    assert sample.dtype == np.float32
    assert sample.ndim == 2


def test_without_the_package_the_line_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(tmp_path / "a", RAMP)
    monkeypatch.setitem(sys.modules, "wfdb", None)
    with pytest.raises(MissingExtra, match=r"pip install 'edgeclin\[wfdb\]'"):
        open_dataset(path)


def test_mit_bih_record_100(shared_data: Path, tmp_path: Path) -> None:
    """Against a decoder of format 212 that shares no code: 12-bit pairs in three bytes."""
    for suffix in ("hea", "dat", "atr"):
        shutil.copy(shared_data / "ecg_wfdb" / f"100.{suffix}", tmp_path)
    (sample,) = open_dataset(tmp_path)
    raw = np.fromfile(tmp_path / "100.dat", dtype=np.uint8)
    low, middle, high = raw.reshape(-1, 3).astype(np.int16).T
    leads = np.stack([low | (middle & 0x0F) << 8, high | (middle & 0xF0) << 4], axis=1)
    leads = np.where(leads > 2047, leads - 4096, leads)
    np.testing.assert_array_equal(sample, ((leads - 1024) / 200).astype(np.float32))
    assert open_dataset(tmp_path).leads == ("MLII", "V5")
