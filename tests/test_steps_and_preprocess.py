"""steps and preprocess: what they compute, against references that share no code with them."""

from __future__ import annotations

import io
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from edgeclin import steps
from edgeclin.description import Input
from edgeclin.errors import BadInput, EdgeclinError, MissingExtra
from edgeclin.preprocess import Preprocess, image, signal

quick = settings(deadline=None, max_examples=60)
values = st.floats(-1e4, 1e4, width=32)
recordings = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=1, max_dims=2, min_side=2, max_side=60), elements=values
)
Interpolation = Any


def prepare(shape: tuple[int, ...], *preprocessing: steps.Step) -> Preprocess:
    return Preprocess(Input(name="x", kind="array", shape=shape, preprocessing=preprocessing))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def photo(height: int, width: int) -> np.ndarray:
    """A smooth colour picture: JPEG and interpolation are judged on what they are made for."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [np.sin(x / 17) + np.cos(y / 11), np.sin((x + y) / 23), np.cos(x / 9 - y / 31)]
    picture = np.stack(waves, axis=-1)
    return np.round(127.5 + 127.5 * picture / np.abs(picture).max()).astype(np.uint8)


def encoded(picture: np.ndarray, kind: str, **options: Any) -> np.ndarray:
    """An image file as pillow writes it, as the uint8 [bytes] that a source delivers."""
    buffer = io.BytesIO()
    squeezed = picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
    Image.fromarray(squeezed).save(buffer, kind, **options)
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8)


# Signals


@quick
@given(recording=recordings)
def test_zscore_is_the_statistician_s(recording: np.ndarray) -> None:
    assume((recording.std(axis=0) > 1e-3).all())
    expected = scipy.stats.zscore(recording, axis=0, ddof=0)
    np.testing.assert_allclose(signal.zscore(recording, steps.ZScore()), expected, atol=1e-9)


@quick
@given(recording=recordings, gain=st.floats(0.01, 100), offset=values)
def test_zscore_forgets_gain_and_offset_of_the_amplifier(
    recording: np.ndarray, gain: float, offset: float
) -> None:
    assume((recording.std(axis=0) > 1.0).all())
    once = signal.zscore(recording, steps.ZScore())
    again = signal.zscore(recording * gain + offset, steps.ZScore())
    np.testing.assert_allclose(once, again, atol=1e-6)


def test_a_flat_lead_becomes_zeros_and_leaves_the_others_alone() -> None:
    recording = np.stack([np.full(50, 3.3), np.sin(np.arange(50))], axis=1)
    scaled = signal.zscore(recording, steps.ZScore())
    assert not scaled[:, 0].any()
    np.testing.assert_allclose(scaled[:, 1].std(), 1.0)


def test_epsilon_says_what_is_flat() -> None:
    recording = np.array([0.0, 1e-4] * 10)
    assert not signal.zscore(recording, steps.ZScore(epsilon=1e-3)).any()
    assert signal.zscore(recording, steps.ZScore(epsilon=1e-5)).std() == pytest.approx(1.0)


@quick
@given(recording=recordings, kind=st.sampled_from(["constant", "linear"]))
def test_detrend_is_scipy_s(recording: np.ndarray, kind: Any) -> None:
    expected = scipy.signal.detrend(recording, axis=0, type=kind)
    got = signal.detrend(recording, steps.Detrend(kind=kind))
    np.testing.assert_allclose(got, expected, atol=1e-6)


@quick
@given(slope=values, offset=values, length=st.integers(2, 400))
def test_a_line_is_all_trend(slope: float, offset: float, length: int) -> None:
    line = slope * np.arange(length) + offset
    rest = signal.detrend(line, steps.Detrend(kind="linear"))
    assert np.abs(rest).max() <= 1e-9 * max(1.0, np.abs(line).max())


def test_one_sample_has_no_slope() -> None:
    assert signal.detrend(np.array([5.0]), steps.Detrend(kind="linear")).tolist() == [0.0]


RATES = [(360, 250), (250, 360), (500, 250), (128, 125), (250, 1000)]


@pytest.mark.parametrize(("source", "target"), RATES)
def test_a_resampled_tone_is_the_tone_sampled_at_the_other_rate(source: int, target: int) -> None:
    seconds, tone_hz = 4, 7.0
    time, expected_at = np.arange(seconds * source) / source, np.arange(seconds * target) / target
    recording = np.stack([np.sin(2 * np.pi * tone_hz * time), np.cos(tone_hz * time)], axis=1)
    got = signal.resample(recording, steps.Resample(from_hz=source, to_hz=target))
    assert got.shape == (seconds * target, 2)
    middle = slice(target // 2, -target // 2)
    np.testing.assert_allclose(
        got[middle, 0], np.sin(2 * np.pi * tone_hz * expected_at)[middle], atol=0.01
    )


@pytest.mark.parametrize(("source", "target"), RATES)
def test_resampling_agrees_with_the_fourier_method(source: int, target: int) -> None:
    """scipy's `resample` works in the frequency domain: another method for the same answer."""
    rng, length = np.random.default_rng(5), 8 * source
    band = np.fft.rfft(rng.normal(size=length))
    band[np.fft.rfftfreq(length, 1 / source) > 0.3 * min(source, target)] = 0
    recording = np.fft.irfft(band, length)
    expected = scipy.signal.resample(recording, 8 * target)
    got = signal.resample(recording, steps.Resample(from_hz=source, to_hz=target))
    middle = slice(target, -target)
    error = np.abs(got[middle] - expected[middle]).max()
    assert error < 0.01 * np.abs(expected).max()


def test_what_the_new_rate_cannot_carry_is_filtered_out_not_folded_back() -> None:
    time = np.arange(8 * 500) / 500
    hum = np.sin(2 * np.pi * 190 * time)  # would alias to 10 Hz at 100 Hz
    got = signal.resample(hum, steps.Resample(from_hz=500, to_hz=100))
    assert np.abs(got[100:-100]).max() < 0.01


@quick
@given(length=st.integers(1, 300), source=st.integers(1, 400), target=st.integers(1, 400))
def test_resampling_keeps_the_duration(length: int, source: int, target: int) -> None:
    got = signal.resample(np.ones(length), steps.Resample(from_hz=source, to_hz=target))
    assert len(got) == -(-length * target // source)


def test_equal_rates_change_nothing() -> None:
    recording = np.random.default_rng(0).normal(size=(99, 3))
    got = signal.resample(recording, steps.Resample(from_hz=250, to_hz=250))
    np.testing.assert_allclose(got, recording)


@quick
@given(recording=recordings, bounds=st.tuples(values, values).map(sorted))
def test_clip_bounds_every_value(recording: np.ndarray, bounds: list[float]) -> None:
    low, high = bounds
    got = signal.clip(recording, steps.Clip(low=low, high=high))
    assert got.ravel().tolist() == [min(max(v, low), high) for v in recording.ravel().tolist()]


@quick
@given(
    leads=st.integers(0, 3),
    length=st.integers(1, 20),
    hop=st.integers(1, 20),
    more=st.integers(0, 70),
)
def test_windows_are_every_full_window_and_no_other(
    leads: int, length: int, hop: int, more: int
) -> None:
    samples = length + more
    recording = np.arange(samples * max(1, leads)).reshape((samples, leads) if leads else samples)
    preprocess = prepare((length, max(1, leads)), steps.Window(length=length, hop=hop))
    expected = np.lib.stride_tricks.sliding_window_view(recording, length, axis=0)[::hop]
    got = list(preprocess.windows(recording))
    assert len(got) == len(expected)
    for window, wanted in zip(got, expected, strict=True):
        # sliding_window_view puts the window's axis last.
        np.testing.assert_array_equal(window, wanted if not leads else wanted.T)
        assert preprocess(window).shape == (length, max(1, leads))


@quick
@given(leads=st.integers(0, 3), length=st.integers(1, 20), data=st.data())
def test_a_recording_shorter_than_a_window_is_one_sample_that_cannot_be_judged(
    leads: int, length: int, data: st.DataObject
) -> None:
    samples = data.draw(st.integers(0, length - 1))
    recording = np.zeros((samples, leads) if leads else samples)
    preprocess = prepare((length, max(1, leads)), steps.Window(length=length, hop=1))
    (only,) = preprocess.windows(recording)
    assert only is recording
    with pytest.raises(BadInput):
        preprocess(only)


def test_without_a_window_step_a_recording_is_one_sample() -> None:
    recording = np.zeros(500)
    (only,) = prepare((500,)).windows(recording)
    assert only is recording


@quick
@given(recording=recordings, data=st.data())
def test_leads_are_taken_in_the_order_that_is_asked_for(
    recording: np.ndarray, data: st.DataObject
) -> None:
    assume(recording.ndim == 2)
    count = recording.shape[1]
    take = data.draw(st.lists(st.integers(0, count - 1), min_size=1, unique=True))
    got = signal.leads(recording, steps.Leads(take=tuple(take)))
    for column, lead in zip(got.T, take, strict=True):
        np.testing.assert_array_equal(column, recording[:, lead])


@pytest.mark.parametrize(
    ("shape", "words"), [((9,), "a signal of 1 axes"), ((9, 2), "a signal of 2 leads")]
)
def test_a_lead_that_is_not_there_is_said(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(BadInput, match=f"{words}, `leads` takes number 2, from 0"):
        signal.leads(np.zeros(shape), steps.Leads(take=(0, 2)))


def test_real_heartbeats_come_out_as_the_formula_says(beats: np.ndarray) -> None:
    preprocess = prepare((140, 1), steps.ZScore())
    for beat in beats[::50]:
        exact = beat.astype(np.float64)
        expected = (exact - exact.mean()) / exact.std()
        np.testing.assert_allclose(preprocess(beat)[:, 0], expected, atol=1e-6)


def test_a_real_recording_is_resampled_and_cut(shared_data: Path) -> None:
    """MIT-BIH record 100: 12-bit pairs in 3 bytes, 360 Hz, 2 leads, 200 units a millivolt."""
    raw = np.fromfile(shared_data / "ecg_wfdb" / "100.dat", dtype=np.uint8)
    low, middle, high = raw.reshape(-1, 3)[: 360 * 60].astype(np.int16).T
    leads = np.stack([low | (middle & 0x0F) << 8, high | (middle & 0xF0) << 4], axis=1)
    leads = np.where(leads > 2047, leads - 4096, leads)
    assert leads[0].tolist() == [995, 1011]  # as 100.hea says
    millivolts = (leads - 1024) / 200
    preprocess = prepare(
        (250, 2), steps.Window(length=360, hop=360), steps.Resample(from_hz=360, to_hz=250)
    )
    minute = [preprocess(window) for window in preprocess.windows(millivolts)]
    assert len(minute) == 60
    assert 1.0 < max(float(second.max()) for second in minute) < 2.5  # R waves, in millivolts


# Images


@quick
@given(
    pixels=hnp.arrays(np.int16, (3, 4)),
    centre=st.integers(-2000, 2000),
    width=st.integers(2, 4000),
)
def test_a_window_of_grey_values_is_dicom_s(pixels: np.ndarray, centre: int, width: int) -> None:
    pydicom = pytest.importorskip("pydicom", reason="the vision extra is not installed")
    from pydicom.pixels import apply_windowing

    header = pydicom.Dataset()
    header.PhotometricInterpretation, header.BitsStored = "MONOCHROME2", 16
    header.PixelRepresentation = 1
    header.WindowCenter, header.WindowWidth = centre, width
    expected = (apply_windowing(pixels, header) + 2**15) / (2**16 - 1)
    got = image.voi_window(pixels, steps.VOIWindow(centre=centre, width=width))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 5, 3), (64, 48, 3), (33, 100, 1)])
@pytest.mark.parametrize("kind", ["png", "bmp", "tiff"])
def test_a_lossless_image_is_decoded_to_its_very_pixels(
    kind: str, shape: tuple[int, int, int]
) -> None:
    picture = noise(*shape)
    colour: Any = "grey" if shape[2] == 1 else "rgb"
    got = image.decode(encoded(picture, kind), steps.Decode(colour=colour))
    np.testing.assert_array_equal(got, picture)
    assert got.dtype == np.uint8


def test_bgr_is_rgb_reversed() -> None:
    picture = noise(9, 8, 3)
    got = image.decode(encoded(picture, "png"), steps.Decode(colour="bgr"))
    np.testing.assert_array_equal(got, picture[..., ::-1])


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "webp"])
def test_grey_is_weighed_as_bt_601_says_whatever_the_codec(kind: str) -> None:
    picture = noise(40, 40, 3)
    file = encoded(picture, kind, **({"lossless": True} if kind == "webp" else {}))
    got = image.decode(file, steps.Decode(colour="grey"))
    assert got.shape == (40, 40, 1)
    expected = picture @ np.array([0.299, 0.587, 0.114])
    assert np.abs(got[..., 0] - expected).max() < 0.51


def test_a_grey_image_read_as_colour_has_three_equal_channels() -> None:
    picture = noise(6, 7, 1)
    got = image.decode(encoded(picture, "png"), steps.Decode())
    np.testing.assert_array_equal(got, np.repeat(picture, 3, axis=2))


def test_jpeg_is_decoded_as_pillow_decodes_it() -> None:
    file = encoded(photo(96, 120), "jpeg", quality=90)
    expected = np.asarray(Image.open(io.BytesIO(file.tobytes())).convert("RGB")).astype(int)
    got = image.decode(file, steps.Decode()).astype(int)
    assert np.abs(got - expected).mean() < 0.5
    assert np.abs(got - expected).max() <= 8


def test_an_image_that_is_decoded_already_passes() -> None:
    picture = noise(4, 5, 3)
    assert image.decode(picture, steps.Decode()) is picture


@pytest.mark.parametrize(
    "sample",
    [
        np.zeros(0, np.uint8),
        noise(500),
        np.frombuffer(b"\x89PNG\r\n\x1a\n", np.uint8),
        encoded(noise(9, 9, 3), "png")[:30],
        encoded(noise(9, 9, 3), "png").astype(np.int64),
        encoded(noise(9, 9, 3), "png").astype(np.float32),
        np.arange(140, dtype=np.float64),
    ],
    ids=["empty", "noise", "magic", "cut", "int64", "float32", "signal"],
)
def test_what_is_no_image_is_bad_input(sample: np.ndarray) -> None:
    with pytest.raises(BadInput):
        image.decode(sample, steps.Decode())


def test_an_image_that_claims_a_huge_size_is_bad_input() -> None:
    file = bytearray(encoded(noise(9, 9, 3), "png").tobytes())
    file[16:24] = (1 << 20).to_bytes(4, "big") * 2  # the size in the IHDR chunk
    file[29:33] = zlib.crc32(file[12:29]).to_bytes(4, "big")
    with pytest.raises(BadInput):
        image.decode(np.frombuffer(bytes(file), np.uint8), steps.Decode())


@quick
@given(data=st.data())
def test_a_damaged_image_is_decoded_or_bad_input_and_nothing_else(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["png", "jpeg", "bmp", "tiff", "gif", "webp"]))
    file = bytearray(encoded(photo(12, 10), kind).tobytes())
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = image.decode(np.frombuffer(bytes(file), np.uint8), steps.Decode())
    except BadInput:
        return
    assert got.dtype == np.uint8
    assert got.shape[2] == 3


def kernel_resize(
    picture: np.ndarray, height: int, width: int, kernel: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Separable interpolation at pixel centres, with the edge pixel repeated; float64."""
    result = picture.astype(np.float64)
    for axis, size in ((0, height), (1, width)):
        length = result.shape[axis]
        centres = (np.arange(size) + 0.5) * length / size - 0.5
        taps = np.floor(centres)[:, np.newaxis] + np.arange(-7, 9)
        weights = kernel(centres[:, np.newaxis] - taps)
        weights /= weights.sum(axis=1, keepdims=True)
        matrix = np.zeros((size, length))
        rows = np.arange(size)[:, np.newaxis]
        np.add.at(matrix, (rows, np.clip(taps, 0, length - 1).astype(int)), weights)
        result = np.moveaxis(np.tensordot(matrix, result, axes=(1, axis)), 0, axis)
    return result


def hat(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1 - np.abs(x))


def keys_cubic(x: np.ndarray) -> np.ndarray:
    """Keys 1981 with a = -0.75, which is OpenCV's."""
    a, x = -0.75, np.abs(x)
    inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
    outer = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))


def lanczos4(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 4, np.sinc(x) * np.sinc(x / 4), 0.0)


KERNELS = {"linear": hat, "cubic": keys_cubic, "lanczos4": lanczos4}
SIZES = [((31, 45), (64, 64)), ((64, 64), (48, 80)), ((20, 20), (20, 20)), ((90, 70), (33, 41))]


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("name", KERNELS)
def test_resize_is_the_textbook_s_kernel(
    name: Interpolation, old: tuple[int, int], new: tuple[int, int]
) -> None:
    picture = photo(*old).astype(np.float32)
    step = steps.Resize(height=new[0], width=new[1], interpolation=name)
    expected = kernel_resize(picture, *new, KERNELS[name])
    got = image.resize(picture, step)
    assert got.shape == (*new, 3)
    assert np.abs(got - expected).max() < 0.05


@pytest.mark.parametrize("name", KERNELS)
def test_resize_of_bytes_rounds_the_same_values(name: Interpolation) -> None:
    picture = photo(40, 52)
    step = steps.Resize(height=64, width=37, interpolation=name)
    expected = kernel_resize(picture, 64, 37, KERNELS[name]).clip(0, 255)
    got = image.resize(picture, step)
    assert got.dtype == np.uint8
    assert np.abs(got - expected).max() <= 1.01


def test_linear_resize_agrees_with_scipy() -> None:
    picture = noise(30, 40, 1).astype(np.float32)
    step = steps.Resize(height=71, width=53)
    rows, columns = (np.arange(71) + 0.5) * 30 / 71 - 0.5, (np.arange(53) + 0.5) * 40 / 53 - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    expected = scipy.ndimage.map_coordinates(picture[..., 0], grid, order=1, mode="nearest")
    np.testing.assert_allclose(image.resize(picture, step)[..., 0], expected, atol=0.01)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_nearest_takes_pixels_and_invents_none(old: tuple[int, int], new: tuple[int, int]) -> None:
    picture = noise(*old, 3)
    step = steps.Resize(height=new[0], width=new[1], interpolation="nearest")
    rows = np.arange(new[0]) * old[0] // new[0]
    columns = np.arange(new[1]) * old[1] // new[1]
    np.testing.assert_array_equal(image.resize(picture, step), picture[rows][:, columns])


def test_area_by_a_whole_factor_is_the_mean_of_the_blocks() -> None:
    picture = noise(48, 60, 3).astype(np.float32)
    step = steps.Resize(height=16, width=15, interpolation="area")
    expected = picture.reshape(16, 3, 15, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(image.resize(picture, step), expected, atol=0.01)


def test_one_channel_stays_one_channel() -> None:
    step = steps.Resize(height=5, width=6)
    assert image.resize(noise(9, 9, 1), step).shape == (5, 6, 1)
    assert image.resize(noise(9, 9, 1)[..., 0], step).shape == (5, 6)


@quick
@given(
    sizes=st.tuples(*[st.integers(1, 40)] * 4),
    level=st.integers(0, 255),
    channels=st.sampled_from([1, 3]),
    name=st.sampled_from(["nearest", "linear", "area", "cubic", "lanczos4"]),
)
def test_a_flat_image_stays_flat_at_any_size(
    sizes: tuple[int, int, int, int], level: int, channels: int, name: Any
) -> None:
    height, width, new_height, new_width = sizes
    step = steps.Resize(height=new_height, width=new_width, interpolation=name)
    got = image.resize(np.full((height, width, channels), level, np.uint8), step)
    assert got.shape == (new_height, new_width, channels)
    assert (got == level).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "f4", "f8"])
@pytest.mark.parametrize("strided", [False, True])
def test_a_picture_in_another_byte_order_is_the_same_picture(
    kind: str, order: str, strided: bool
) -> None:
    picture = np.random.default_rng(0).integers(0, 120, (20, 24, 3))
    spec = Input(
        name="x",
        kind="image",
        shape=(10, 10, 3),
        preprocessing=(steps.Decode(), steps.Resize(height=10, width=10), steps.Normalise()),
    )
    prepare = Preprocess(spec)
    wanted = prepare(picture.astype(kind))
    foreign = picture.astype(order + kind)
    if strided:
        foreign = np.repeat(foreign, 2, axis=0)[::-2][::-1]
    np.testing.assert_array_equal(prepare(foreign), wanted)
    np.testing.assert_array_equal(prepare.decoded(foreign), picture)
    assert prepare.decoded(foreign).dtype.isnative


@pytest.mark.parametrize("kind", ["bool", "int8", "int64", "float16"])
def test_what_opencv_cannot_resize_is_bad_input(kind: str) -> None:
    with pytest.raises(BadInput, match=kind):
        image.resize(np.ones((8, 9, 3), kind), steps.Resize(height=4, width=5))


@quick
@given(old=st.tuples(*[st.integers(1, 30)] * 2), new=st.tuples(*[st.integers(1, 30)] * 2))
def test_crop_cuts_the_middle_or_refuses(old: tuple[int, int], new: tuple[int, int]) -> None:
    rows, columns = np.mgrid[0 : old[0], 0 : old[1]]
    picture = np.stack([rows, columns], axis=-1)
    step = steps.Crop(height=new[0], width=new[1])
    if new[0] > old[0] or new[1] > old[1]:
        with pytest.raises(BadInput, match=f"{new[0]} x {new[1]}"):
            image.crop(picture, step)
        return
    got = image.crop(picture, step)
    assert got.shape[:2] == new
    (above, left), (last_row, last_column) = got[0, 0], got[-1, -1]
    assert 0 <= (old[0] - 1 - last_row) - above <= 1
    assert 0 <= (old[1] - 1 - last_column) - left <= 1
    np.testing.assert_array_equal(got, picture[above : last_row + 1, left : last_column + 1])


@quick
@given(
    picture=hnp.arrays(np.uint8, (4, 5, 3)),
    scale=st.floats(1e-3, 10),
    mean=st.lists(st.floats(-5, 5), min_size=3, max_size=3),
    std=st.lists(st.floats(0.1, 5), min_size=3, max_size=3),
)
def test_normalise_is_its_formula_for_each_channel(
    picture: np.ndarray, scale: float, mean: list[float], std: list[float]
) -> None:
    step = steps.Normalise(scale=scale, mean=tuple(mean), std=tuple(std))
    got = image.normalise(picture, step)
    assert got.dtype == np.float32
    for channel in range(3):
        expected = (picture[..., channel] * scale - mean[channel]) / std[channel]
        np.testing.assert_allclose(got[..., channel], expected, rtol=1e-4, atol=1e-3)


def test_normalise_takes_one_number_for_all_channels_or_one_for_each() -> None:
    picture = np.ones((2, 2, 3))
    one = image.normalise(picture, steps.Normalise(mean=(0.5,), std=(2.0,)))
    np.testing.assert_allclose(one, 0.25)
    with pytest.raises(BadInput, match="2 of mean for 3 channels"):
        image.normalise(picture, steps.Normalise(mean=(0.5, 0.5)))
    with pytest.raises(BadInput, match="2 of std for 3 channels"):
        image.normalise(picture, steps.Normalise(std=(0.5, 0.5)))


@pytest.mark.parametrize("step", [steps.Resize(height=2, width=2), steps.Crop(height=2, width=2)])
@pytest.mark.parametrize("shape", [(9,), (2, 3, 3, 3), (0, 5, 3)])
def test_image_steps_refuse_what_is_no_image(step: steps.Step, shape: tuple[int, ...]) -> None:
    apply: Any = {steps.Resize: image.resize, steps.Crop: image.crop}[type(step)]
    with pytest.raises(BadInput):
        apply(np.zeros(shape), step)


def test_real_cells_are_prepared_as_pillow_and_the_formula_prepare_them(shared_data: Path) -> None:
    preprocess = prepare(
        (64, 64, 3),
        steps.Decode(),
        steps.Resize(height=64, width=64, interpolation="linear"),
        steps.Normalise(scale=1 / 255),
    )
    files = sorted((shared_data / "malaria" / "test_dev").glob("*.png"))[:40]
    assert len(files) == 40
    for file in files:
        got = preprocess(np.frombuffer(file.read_bytes(), np.uint8))
        pixels = np.asarray(Image.open(file).convert("RGB"))
        expected = kernel_resize(pixels, 64, 64, hat) / 255
        assert np.abs(got - expected).max() < 1.5 / 255


def test_a_real_photo_is_decoded_as_pillow_decodes_it(shared_data: Path) -> None:
    file = shared_data / "coral" / "parrot.jpg"
    expected = np.asarray(Image.open(file).convert("RGB")).astype(int)
    got = image.decode(np.fromfile(file, np.uint8), steps.Decode()).astype(int)
    assert np.abs(got - expected).mean() < 1


# The whole


def test_steps_run_in_their_order() -> None:
    sample = np.array([0.0, 10.0])
    clip, shift = steps.Clip(low=0, high=4), steps.Normalise(mean=(-1.0,))
    assert prepare((2,), clip, shift)(sample).tolist() == [1.0, 5.0]
    assert prepare((2,), shift, clip)(sample).tolist() == [1.0, 4.0]


@pytest.mark.parametrize(
    ("sample", "wanted"), [((140,), (140, 1)), ((1, 140), (140, 1)), ((8, 8), (1, 8, 8, 1))]
)
def test_axes_of_length_one_are_added_and_dropped(
    sample: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    values = np.arange(np.prod(sample), dtype=np.float64).reshape(sample)
    got = prepare(wanted)(values)
    assert got.shape == wanted
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.ravel(), values.ravel())


@pytest.mark.parametrize("shape", [(139,), (141, 1), (140, 2), (2, 70), (70, 2, 1)])
def test_another_shape_is_refused_and_both_are_named(shape: tuple[int, ...]) -> None:
    named = ", ".join(map(str, shape))
    with pytest.raises(BadInput, match=rf"shape \[{named}\], expected \[140, 1\]"):
        prepare((140, 1))(np.zeros(shape))


def test_where_a_model_takes_one_lead_of_several_the_step_is_named() -> None:
    with pytest.raises(BadInput, match=r"; the step `leads` takes one of these 2 in model\.toml"):
        prepare((1, 140, 1))(np.zeros((140, 2)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "preprocessing",
    [
        (),
        (steps.ZScore(),),
        (steps.Clip(low=-5, high=5),),
        (steps.Detrend(kind="linear"),),
        (steps.Resample(from_hz=100, to_hz=100),),
        (steps.Normalise(),),
    ],
    ids=["none", "zscore", "clip", "detrend", "resample", "normalise"],
)
def test_a_value_that_is_not_finite_is_refused_whatever_the_steps(
    bad: float, preprocessing: tuple[steps.Step, ...]
) -> None:
    sample = np.sin(np.arange(140.0))
    sample[7] = bad
    with pytest.raises(BadInput, match="1 of 140 values are not finite"):
        prepare((140,), *preprocessing)(sample)


@pytest.mark.filterwarnings("ignore:overflow")
def test_what_overflows_on_the_way_is_refused() -> None:
    with pytest.raises(BadInput, match="not finite"):
        prepare((2,))(np.array([1e300, 0.0]))


def test_a_window_of_another_length_is_refused() -> None:
    with pytest.raises(BadInput, match="99 samples, expected a window of 100"):
        prepare((100,), steps.Window(length=100, hop=1))(np.zeros(99))


def test_a_sample_is_never_changed(beats: np.ndarray) -> None:
    before = beats[:5].astype(np.float32)
    given_away = before.copy()
    given_away.flags.writeable = False
    for preprocessing in ((steps.ZScore(),), (steps.Clip(low=-1, high=1),), (steps.Detrend(),)):
        for beat in given_away:
            prepare((140, 1), *preprocessing)(beat)
    np.testing.assert_array_equal(given_away, before)


anything = st.one_of(
    hnp.arrays(
        st.one_of(
            hnp.integer_dtypes(),
            hnp.unsigned_integer_dtypes(),
            hnp.floating_dtypes(),
            hnp.boolean_dtypes(),
            hnp.complex_number_dtypes(),
            hnp.unicode_string_dtypes(),
            hnp.datetime64_dtypes(),
        ),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
    ),
    st.binary(max_size=80).map(lambda data: np.frombuffer(data, np.uint8)),
)
PIPELINES = [
    prepare((3,)),
    prepare((4, 4), steps.Window(length=4, hop=1), steps.ZScore(), steps.Clip(low=-1, high=1)),
    prepare((3, 2), steps.Resample(from_hz=2, to_hz=3), steps.Detrend(kind="linear")),
    prepare((2, 2, 3), steps.Decode(), steps.Resize(height=2, width=2), steps.Normalise()),
    prepare((3, 1), steps.Leads(take=(1,)), steps.VOIWindow(centre=1, width=2)),
    prepare((2, 2, 1), steps.Crop(height=3, width=3), steps.Resize(height=2, width=2)),
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(deadline=None, max_examples=300)
@given(sample=anything, preprocess=st.sampled_from(PIPELINES))
def test_any_sample_is_prepared_or_bad_input_and_nothing_else(
    sample: np.ndarray, preprocess: Preprocess
) -> None:
    try:
        prepared = preprocess(sample)
    except BadInput:
        return
    assert prepared.shape == preprocess.shape
    assert prepared.dtype == np.float32
    assert np.isfinite(prepared).all()


# Digests, and what is refused before any sample comes

EVERY_STEP: list[steps.Step] = [
    steps.Window(length=10, hop=10),
    steps.Resample(from_hz=500, to_hz=250),
    steps.Detrend(),
    steps.Detrend(kind="linear"),
    steps.ZScore(),
    steps.Clip(low=-1, high=1),
    steps.Decode(),
    steps.Resize(height=2, width=2),
    steps.Crop(height=2, width=2),
    steps.Normalise(),
    steps.Leads(take=(0,)),
    steps.VOIWindow(centre=40, width=400),
]


def test_each_change_of_the_steps_changes_the_digest() -> None:
    variants: list[tuple[steps.Step, ...]] = [(), *((step,) for step in EVERY_STEP)]
    variants += [
        (steps.Window(length=10, hop=9),),
        (steps.Resample(from_hz=500, to_hz=251),),
        (steps.ZScore(epsilon=1e-5),),
        (steps.Clip(low=-1, high=1.5),),
        (steps.Decode(colour="bgr"),),
        (steps.Resize(height=2, width=2, interpolation="area"),),
        (steps.Normalise(mean=(0.5,)),),
        (steps.Leads(take=(1, 0)),),
        (steps.VOIWindow(centre=40, width=80),),
        (steps.ZScore(), steps.Clip(low=-1, high=1)),
        (steps.Clip(low=-1, high=1), steps.ZScore()),
    ]
    digests = {prepare((10,), *variant).digest for variant in variants}
    assert len(digests) == len(variants)
    assert prepare((10, 1)).digest != prepare((10,)).digest


def test_what_does_not_change_the_values_does_not_change_the_digest() -> None:
    bare = Input(name="a", kind="signal", shape=(10,), preprocessing=(steps.ZScore(),))
    told = msgspec.structs.replace(bare, name="b", units="mV", sampling_hz=250.0, leads=("II",))
    assert Preprocess(bare).digest == Preprocess(told).digest


@pytest.mark.parametrize("step", EVERY_STEP, ids=lambda step: type(step).__name__.lower())
def test_a_step_is_the_same_after_its_journey(step: steps.Step) -> None:
    assert msgspec.json.decode(msgspec.json.encode(step), type=steps.Step) == step
    steps.check_steps((step,))


@pytest.mark.parametrize("body", ['{"step": "blur"}', '{"step": "zscore", "sigma": 3}', "{}"])
def test_an_unknown_step_or_parameter_is_an_error(body: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=steps.Step)


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (steps.Window(length=0, hop=1), "window"),
        (steps.Window(length=1, hop=0), "window"),
        (steps.Resample(from_hz=0, to_hz=1), "resample"),
        (steps.Resample(from_hz=1, to_hz=-1), "resample"),
        (steps.ZScore(epsilon=0.0), "epsilon"),
        (steps.ZScore(epsilon=float("nan")), "epsilon"),
        (steps.Clip(low=1, high=1), "clip"),
        (steps.Clip(low=2, high=1), "clip"),
        (steps.Clip(low=float("nan"), high=1), "clip"),
        (steps.Clip(low=float("-inf"), high=1), "clip"),
        (steps.Leads(take=()), "`leads` takes no lead"),
        (steps.Leads(take=(1, 1)), "one twice"),
        (steps.Leads(take=(-1,)), "below 0"),
        (steps.VOIWindow(centre=40, width=1), "width above 1"),
        (steps.VOIWindow(centre=float("nan"), width=9), "finite"),
        (steps.VOIWindow(centre=0, width=float("inf")), "finite"),
        (steps.Resize(height=0, width=1), "height and width"),
        (steps.Crop(height=1, width=-1), "height and width"),
        (steps.Normalise(std=(1.0, 0.0)), "standard deviation of 0"),
        (steps.Normalise(std=()), "standard deviation of 0"),
        (steps.Normalise(mean=()), "no mean"),
        (steps.Normalise(scale=float("inf")), "not finite"),
        (steps.Normalise(std=(float("nan"),)), "not finite"),
    ],
)
def test_a_parameter_that_no_sample_could_satisfy_is_refused(
    step: steps.Step, problem: str
) -> None:
    with pytest.raises(EdgeclinError, match=f"preprocessing step 1: .*{problem}"):
        steps.check_steps((step,))


@pytest.mark.parametrize("late", [steps.Window(length=1, hop=1), steps.Decode()])
def test_what_must_be_first_is_refused_later(late: steps.Step) -> None:
    with pytest.raises(EdgeclinError, match=r"step 2: .*must be the first step"):
        steps.check_steps((steps.ZScore(), late))


@pytest.mark.parametrize(
    ("module", "step", "sample", "install"),
    [
        ("cv2", steps.Decode(), np.zeros(9, np.uint8), r"edgeclin\[vision\]"),
        ("cv2", steps.Resize(height=2, width=2), np.zeros((3, 3)), r"edgeclin\[vision\]"),
        ("scipy.signal", steps.Resample(from_hz=2, to_hz=1), np.zeros(9), r"edgeclin\[signal\]"),
    ],
)
def test_a_missing_library_is_one_sentence_with_the_install_line(
    module: str,
    step: steps.Step,
    sample: np.ndarray,
    install: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"pip install '{install}'"):
        prepare((9,), step)(sample)


def test_the_reference_for_resize_knows_a_case_by_hand() -> None:
    row = np.array([[0.0, 10.0]])
    np.testing.assert_allclose(kernel_resize(row, 1, 4, hat), [[0, 2.5, 7.5, 10]])


# -- channels first -----------------------------------------------------------------------------


def channels_first_input(*shape: int, step: bool = True) -> Preprocess:
    taken = (steps.ChannelsFirst(),) if step else ()
    return Preprocess(Input(name="x", kind="image", shape=shape, preprocessing=taken))


@pytest.mark.parametrize("shape", [(4, 6, 3), (250, 12)])
def test_channels_go_before_all_other_axes(shape: tuple[int, ...]) -> None:
    value = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    prepared = channels_first_input(shape[-1], *shape[:-1])(value)
    assert prepared.flags.c_contiguous
    for place in np.ndindex(*shape):
        assert prepared[(place[-1], *place[:-1])] == value[place]


def test_a_picture_of_another_order_is_refused_with_the_step_that_helps() -> None:
    with pytest.raises(BadInput, match="is the step `channels_first` missing"):
        channels_first_input(3, 4, 6, step=False)(np.zeros((4, 6, 3)))
    with pytest.raises(BadInput, match=r"expected \[3, 4, 6\]$"):
        channels_first_input(3, 4, 6, step=False)(np.zeros((4, 7, 3)))


def test_one_axis_has_no_channels_to_move() -> None:
    with pytest.raises(BadInput, match="channels or leads"):
        channels_first_input(3, 4)(np.zeros(12))
