"""Models and data that change while they are converted: what is on record is what was used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ECG

from edgeclin.bundle import Bundle
from edgeclin.convert import Conversion, convert
from edgeclin.convert.model_copies import copy_model, model_sha256
from edgeclin.convert.ranges import Method
from edgeclin.convert.unchanging import unchanging
from edgeclin.datasets import Dataset, open_dataset
from edgeclin.description import load_description
from edgeclin.errors import BadFile
from edgeclin.gates import Margins
from edgeclin.profiles import load_profile

pytest.importorskip("ai_edge_quantizer", reason="the convert extra is not installed")

DATA = Path(__file__).parent / "data"


@pytest.fixture
def beats(tmp_path: Path) -> Path:
    """Validation samples, each in a file."""
    folder = tmp_path / "beats"
    folder.mkdir()
    with np.load(ECG / "data" / "validation.npz") as arrays:
        for number, beat in enumerate(arrays["X"][:40]):
            np.savetxt(folder / f"{number:02}.txt", beat)
    return folder


@pytest.fixture
def job(tmp_path: Path, beats: Path) -> Conversion:
    return Conversion(
        model=Path(shutil.copy(DATA / "ecg_float.tflite", tmp_path / "m.tflite")),
        profile=load_profile("cpu-x86_64"),
        description=load_description(ECG / "edge.toml"),
        described=True,
        calibration=open_dataset(ECG / "data" / "train.npz"),
        validation=open_dataset(beats),
        output=tmp_path / "x.edgeclin",
        signer=None,
        margins=Margins(),
        methods=(Method.MIN_MAX,),
        allow_failed_gates=True,
    )


@pytest.mark.convert
def test_a_model_that_is_replaced_meanwhile_is_converted_and_recorded_as_it_was(
    job: Conversion,
) -> None:
    before = model_sha256(job.model)

    def replace_model(step: str) -> None:
        if not step.startswith("preparing"):
            job.model.write_bytes(b"another model")

    made = Bundle.open(convert(job, replace_model).path, allow_unsigned=True)
    assert json.loads(made.read("verification.json"))["model_sha256"] == before
    assert before in made.read("sbom.json").decode()


@pytest.mark.convert
@pytest.mark.parametrize("step", ["judging the INT8 engine", "writing the bundle"])
def test_samples_that_change_meanwhile_end_the_conversion_without_a_bundle(
    job: Conversion, beats: Path, step: str
) -> None:
    def change_samples(now: str) -> None:
        if now.startswith(step):
            for file in beats.iterdir():
                np.savetxt(file, np.loadtxt(file)[::-1])

    with pytest.raises(BadFile, match=r"beats: sample \d+ \(\d\d\.txt\) changed while the model"):
        convert(job, change_samples)
    assert not job.output.exists()


def test_a_sample_may_be_read_again_but_not_be_another() -> None:
    samples = np.zeros((2, 3), np.float32)
    watched = unchanging(Dataset(Path("d"), samples))
    samples[1] = 1
    assert watched[0].tolist() == watched[0].tolist() == [0, 0, 0]
    assert watched[1].tolist() == [1, 1, 1]
    samples[1] = 2
    with pytest.raises(BadFile, match=r"d: sample 1 changed .* convert again"):
        watched[1]
    assert len(watched) == 2


def test_a_copy_has_the_hash_of_the_model_with_all_its_files(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the convert extra is not installed")
    path = tmp_path / "m.onnx"
    model = onnx.load(DATA / "ecg_float.onnx")
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=64)
    folder = tmp_path / "saved"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "0").write_bytes(b"weights")
    (tmp_path / "copies").mkdir()
    for source in (path, folder):
        copy = copy_model(source, tmp_path / "copies")
        assert copy.name == source.name
        assert model_sha256(copy) == model_sha256(source)
    (tmp_path / "copies" / "m.data").write_bytes(b"other weights")
    assert model_sha256(tmp_path / "copies" / "m.onnx") != model_sha256(path)
