"""dicom: frames become numbers that mean the same in every file, and no patient gets out."""

from __future__ import annotations

import io
import logging
import shutil
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

pytest.importorskip("pydicom", reason="the vision extra is not installed")
import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset as Header
from pydicom.dataset import FileMetaDataset
from pydicom.pixels.decoders import JPEGLSLosslessDecoder
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

from edgeclin.datasets import open_dataset, read_sample
from edgeclin.errors import BadFile, MissingExtra

NAME, NUMBER = "DOE^JANE", "4711-0815"
BARS = [
    (255, 0, 0), (255, 128, 128), (0, 255, 0), (128, 255, 128), (0, 0, 255),
    (128, 128, 255), (0, 0, 0), (64, 64, 64), (192, 192, 192), (255, 255, 255),
]  # fmt: skip
"""What pydicom's colour test images show, in ten bars from the top."""


def shipped(name: str) -> Path:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return Path(path)


def header(pixels: np.ndarray, photometric: str = "MONOCHROME2", **more: Any) -> Header:
    """A small image as a scanner writes it; `pixels` [rows, columns] or [frames, rows, columns]."""
    made = Header()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, generate_uid()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.PatientName, made.PatientID, made.Modality = NAME, NUMBER, "OT"
    made.Rows, made.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        made.NumberOfFrames = len(pixels)
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, photometric
    made.BitsAllocated = made.BitsStored = 8 * pixels.itemsize
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = pixels.tobytes()
    for key, value in more.items():
        setattr(made, key, value)
    return made


def saved(path: Path, made: Header) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


COUNTS = np.arange(48, dtype=np.uint16).reshape(4, 12)


# Numbers


@settings(deadline=None, max_examples=40)
@given(
    pixels=hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.uint16]),
        hnp.array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=6),
    ),
    slope=st.sampled_from([None, 1.0, 0.5, 2.25]),
    intercept=st.sampled_from([0.0, -1024.0, 0.25]),
    compressed=st.booleans(),
)
def test_what_a_scanner_wrote_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    pixels: np.ndarray,
    slope: float | None,
    intercept: float,
    compressed: bool,
) -> None:
    scale = {} if slope is None else {"RescaleSlope": slope, "RescaleIntercept": intercept}
    made = header(pixels, **scale)
    if compressed:
        made.compress(RLELossless)
    data = open_dataset(saved(tmp_path_factory.getbasetemp() / "any.dcm", made))
    frames = pixels if pixels.ndim == 3 else pixels[np.newaxis]
    expected = frames if slope is None else frames * slope + intercept
    assert len(data) == len(frames)
    for frame, wanted in zip(data, expected, strict=True):
        assert frame.dtype == np.float32
        np.testing.assert_array_equal(frame[..., 0], wanted.astype(np.float32))


def test_a_real_ct_is_in_hounsfield_units() -> None:
    sample = read_sample(shipped("CT_small.dcm"))
    stored = pydicom.dcmread(shipped("CT_small.dcm")).pixel_array
    np.testing.assert_array_equal(sample[..., 0], stored.astype(np.float32) - 1024)
    assert -1000 < sample.min() < -800  # air, in this scan


def test_a_modality_table_is_looked_up(tmp_path: Path) -> None:
    table = Header()
    table.LUTDescriptor = [4, 0, 16]
    table.LUTData = [10, 20, 40, 80]
    pixels = np.array([[0, 1], [2, 3]], np.uint16)
    made = header(pixels, ModalityLUTSequence=Sequence([table]))
    made.ModalityLUTSequence[0]["LUTDescriptor"].VR = "US"
    made.ModalityLUTSequence[0]["LUTData"].VR = "US"
    sample = read_sample(saved(tmp_path / "t.dcm", made))
    assert sample[..., 0].tolist() == [[10, 20], [40, 80]]


def test_each_frame_of_an_enhanced_file_has_its_own_slope(tmp_path: Path) -> None:
    def group(slope: float) -> Header:
        rescale, made = Header(), Header()
        rescale.RescaleSlope, rescale.RescaleIntercept = slope, 0
        made.PixelValueTransformationSequence = Sequence([rescale])
        return made

    pixels = np.stack([COUNTS, COUNTS])
    own = header(pixels, PerFrameFunctionalGroupsSequence=Sequence([group(2), group(3)]))
    first, second = open_dataset(saved(tmp_path / "own.dcm", own))
    np.testing.assert_array_equal(first[..., 0], 2 * COUNTS)
    np.testing.assert_array_equal(second[..., 0], 3 * COUNTS)
    shared = header(pixels, SharedFunctionalGroupsSequence=Sequence([group(5)]))
    for frame in open_dataset(saved(tmp_path / "shared.dcm", shared)):
        np.testing.assert_array_equal(frame[..., 0], 5 * COUNTS)


@pytest.mark.parametrize(("kind", "bits"), [(np.uint8, 8), (np.uint16, 12), (np.int16, 16)])
def test_more_is_brighter_whatever_the_file_calls_white(
    tmp_path: Path, kind: Any, bits: int
) -> None:
    top = (1 << (bits - 1)) - 1 if kind is np.int16 else (1 << bits) - 1
    low = -top - 1 if kind is np.int16 else 0
    negative = np.array([[low, top], [low + 1, top - 1]], kind)
    made = header(negative, "MONOCHROME1", BitsStored=bits, HighBit=bits - 1)
    mirrored = read_sample(saved(tmp_path / "x.dcm", made))[..., 0]
    assert mirrored.tolist() == [[top, low], [top - 1, low + 1]]


@pytest.mark.parametrize("unit", [{"Modality": "CT"}, {"RescaleType": "OD"}])
def test_a_measurement_is_never_mirrored(tmp_path: Path, unit: dict[str, str]) -> None:
    made = header(COUNTS, "MONOCHROME1", RescaleSlope=1, RescaleIntercept=0, **unit)
    with pytest.raises(BadFile, match=r"MONOCHROME1 \(low is white\) with values in a unit"):
        read_sample(saved(tmp_path / "x.dcm", made))


def test_a_slope_without_its_intercept_is_not_guessed_at(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="slope and intercept without the other"):
        read_sample(saved(tmp_path / "x.dcm", header(COUNTS, RescaleSlope=2)))


# Colours and codecs


@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("SC_rgb_rle.dcm", 0),
        ("SC_rgb_dcmtk_+eb+cr.dcm", 1),  # JPEG, stored as RGB
        ("SC_rgb_dcmtk_+eb+cy+np.dcm", 8),  # JPEG, YBR_FULL_422
        ("SC_rgb_jpeg_lossy_gdcm.dcm", 8),  # JPEG, YBR_FULL
        ("SC_ybr_full_422_uncompressed.dcm", 5),
        ("SC_rgb_gdcm_KY.dcm", 1),  # JPEG 2000
    ],
)
def test_colours_are_red_green_blue_however_they_are_stored(name: str, off: int) -> None:
    sample = read_sample(shipped(name))
    assert (sample.shape, sample.dtype) == ((100, 100, 3), np.uint8)
    bars = sample[5::10, 50].astype(int)
    assert np.abs(bars - np.array(BARS)).max() <= off


def test_a_palette_becomes_the_colours_it_names() -> None:
    path = shipped("examples_palette.dcm")
    file = pydicom.dcmread(path)
    red = np.frombuffer(file.RedPaletteColorLookupTableData, "<u2")
    sample = read_sample(path)
    assert (sample.shape, sample.dtype) == ((350, 800, 3), np.uint8)
    np.testing.assert_array_equal(sample[..., 0], red[file.pixel_array] >> 8)


@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm",
     "MR_small_implicit.dcm"],
)  # fmt: skip
def test_a_lossless_form_holds_the_same_numbers(name: str) -> None:
    expected = read_sample(shipped("MR_small.dcm"))
    np.testing.assert_array_equal(read_sample(shipped(name)), expected)


def test_a_missing_codec_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JPEGLSLosslessDecoder, "_available", {})
    with pytest.raises(
        BadFile, match=r"no installed codec reads JPEG-LS Lossless.*; pip install python-gdcm"
    ):
        read_sample(shipped("MR_small_jpeg_ls_lossless.dcm"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("priv_SQ.dcm", r"holds no image \(no known kind\)"),
        ("MR_truncated.dcm", r"pixel data \(Explicit VR Little Endian\) are missing, cut short"),
        ("JPEG2000-embedded-sequence-delimiter.dcm", r"pixel data \(JPEG 2000"),
        ("reportsi.dcm", r"holds no image \(Basic Text SR Storage\); take it out"),
        ("no_meta.dcm", "not a DICOM file"),
        ("badVR.dcm", "its header is damaged"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    name: str, words: str, recwarn: pytest.WarningsRecorder
) -> None:
    with pytest.raises(BadFile, match=words):
        read_sample(shipped(name))
    assert not recwarn.list


@pytest.mark.parametrize("photometric", ["HSV", "YBR_PARTIAL_420", "CMYK"])
def test_other_colours_are_refused(tmp_path: Path, photometric: str) -> None:
    with pytest.raises(BadFile, match=f"is in {photometric}, which is not read; convert it to"):
        read_sample(saved(tmp_path / "x.dcm", header(COUNTS, photometric)))


def test_a_deflated_file_is_read() -> None:
    sample = read_sample(shipped("image_dfl.dcm"))
    expected = pydicom.dcmread(shipped("image_dfl.dcm")).pixel_array
    np.testing.assert_array_equal(sample[..., 0], expected)


def test_without_the_package_the_line_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtra, match=r"pip install 'edgeclin\[vision\]'"):
        read_sample(shipped("CT_small.dcm"))


def test_an_image_without_pixels_is_named(tmp_path: Path) -> None:
    made = header(COUNTS)
    del made.PixelData
    with pytest.raises(BadFile, match=r"pixel data .* are missing"):
        read_sample(saved(tmp_path / "x.dcm", made))


def bytes_of(made: Header) -> bytes:
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


SOUND = bytes_of(header(COUNTS, RescaleSlope=2, RescaleIntercept=1))


@settings(deadline=None, max_examples=150)
@given(
    flips=st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), max_size=3),
    length=st.integers(0, len(SOUND)) | st.just(len(SOUND)),
)
def test_a_damaged_file_is_read_or_bad_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], length: int
) -> None:
    damaged = bytearray(SOUND)
    for position, value in flips:
        damaged[position] = value
    path = tmp_path_factory.getbasetemp() / "damaged.dcm"
    path.write_bytes(damaged[:length])
    try:
        list(open_dataset(path))
    except BadFile as exc:
        assert str(path) in str(exc)
        assert NUMBER not in str(exc)


# Files


def test_frames_come_in_the_order_of_files_and_in_each_as_it_holds_them(tmp_path: Path) -> None:
    cine = np.stack([COUNTS, COUNTS + 100, COUNTS + 200])
    saved(tmp_path / "b.dcm", header(cine))
    saved(tmp_path / "a.DCM", header(COUNTS + 7))
    data = open_dataset(tmp_path)
    assert [int(sample[0, 0, 0]) for sample in data] == [7, 0, 100, 200]
    assert int(data[3][0, 0, 0]) == 200
    assert data.labels is None
    with pytest.raises(BadFile, match="holds 3 frames, expected one; give it as a data set"):
        read_sample(tmp_path / "b.dcm")


def test_a_table_labels_frames(tmp_path: Path) -> None:
    saved(tmp_path / "x" / "a.dcm", header(np.stack([COUNTS + at for at in range(5)])))
    rows = "file,label,start,end\nx/a.dcm,late,3,\nx/a.dcm,early,,2\n"
    (tmp_path / "labels.csv").write_text(rows)
    data = open_dataset(tmp_path)
    assert data.labels == ("late", "late", "early", "early")
    assert [int(sample[0, 0, 0]) for sample in data] == [3, 4, 0, 1]
    (tmp_path / "labels.csv").write_text("file,label,start,end\nx/a.dcm,late,3,6\n")
    with pytest.raises(BadFile, match=r"a\.dcm: has 5 frames, labels\.csv wants 6"):
        open_dataset(tmp_path)


def test_files_of_a_patient_are_a_group_and_the_table_s_groups_come_first(tmp_path: Path) -> None:
    for name, patient in (("sick/1", "A"), ("well/2", "B"), ("well/3", " A")):
        saved(tmp_path / f"{name}.dcm", header(COUNTS, PatientID=patient))
    data = open_dataset(tmp_path)
    assert data.labels == ("sick", "well", "well")
    assert data.groups is not None
    assert data.groups[0] == data.groups[2] != data.groups[1]
    (tmp_path / "labels.csv").write_text("file,label,group\nsick/1.dcm,x,mine\n")
    assert open_dataset(tmp_path).groups == ("mine",)


def test_a_study_stands_for_a_patient_who_was_taken_out(tmp_path: Path) -> None:
    study = generate_uid()
    for name in "ab":
        saved(tmp_path / f"{name}.dcm", header(COUNTS, PatientID="", StudyInstanceUID=study))
    first, second = open_dataset(tmp_path).groups or ()
    assert first == second
    assert str(study) not in first


def test_nothing_says_whose_image_it_is(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    caplog.set_level(logging.DEBUG)
    made = header(COUNTS, NumberOfFrames=123_456_789)
    (tmp_path / "bad.dcm").write_bytes(bytes_of(made).replace(b"123456789", NUMBER.encode()))
    with pytest.raises(BadFile, match="its header is damaged") as caught:
        open_dataset(tmp_path / "bad.dcm")
    data = open_dataset(saved(tmp_path / "good.dcm", header(COUNTS)))
    said = [repr(data), data.fingerprint(), *data.hashes(), str(caught.value)]
    said += [caplog.text, *capfd.readouterr(), *(str(warning.message) for warning in recwarn)]
    for word in (NUMBER, NAME, "DOE"):
        assert word not in "\n".join(said)


@pytest.mark.parametrize(
    ("tag", "dropped"),
    [
        ("SOPClassUID", "Rows"),
        ("PhotometricInterpretation", None),
        ("Modality", None),
        ("RescaleType", None),
    ],
)
def test_what_stands_in_the_place_of_a_word_is_not_repeated(
    tmp_path: Path, tag: str, dropped: str | None
) -> None:
    made = header(COUNTS, "MONOCHROME1", RescaleSlope=1, RescaleIntercept=0, RescaleType="HU")
    made.add_new(tag, "UI" if tag == "SOPClassUID" else "LO", NAME)
    if dropped is not None:
        delattr(made, dropped)
    with pytest.raises(BadFile) as caught:
        read_sample(saved(tmp_path / "x.dcm", made))
    assert "DOE" not in str(caught.value)


def test_opening_reads_headers_and_a_frame_is_read_alone(tmp_path: Path) -> None:
    cine = np.zeros((64, 512, 512), np.uint16)
    cine[40] = 40
    saved(tmp_path / "cine.dcm", header(cine))
    tracemalloc.start()
    data = open_dataset(tmp_path)
    assert len(data) == 64
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    assert int(data[40].max()) == 40
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_real_files_of_other_makers_are_read(shared_data: Path, tmp_path: Path) -> None:
    for path in (shared_data / "dicom").glob("*.dcm"):
        shutil.copy(path, tmp_path)
    data = open_dataset(tmp_path)
    assert len(data) == 38
    assert {sample.shape[-1] for sample in data} == {1, 3}
    assert len(set(data.groups or ())) == 8
