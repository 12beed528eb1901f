"""A bundle made again from its record, and a plan without a conversion."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import ECG

from edgeclin.cli import main
from edgeclin.convert import Conversion, Converted
from edgeclin.convert.stages import Progress
from edgeclin.keys import KeyPair

pytest.importorskip("ai_edge_quantizer", reason="the convert extra is not installed")
pytestmark = pytest.mark.convert

TRAIN, VALIDATION = ECG / "data" / "train.npz", ECG / "data" / "validation.npz"
FLOAT = Path(__file__).parent / "data" / "ecg_float.tflite"
Convert = Callable[..., Result]


@pytest.fixture(scope="module")
def keys(key_pair: KeyPair) -> str:
    return str(key_pair.public.parent)


def invoke(keys: str, *arguments: object) -> Result:
    runner = CliRunner(env={"EDGECLIN_KEYS": keys})
    return runner.invoke(main, ["convert", *map(str, arguments)])


@pytest.fixture(scope="module")
def bundle(keys: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "ecg.edgeclin"
    done = invoke(
        keys, FLOAT, "--profile", "cpu-x86_64", "--description", ECG / "edge.toml",
        "--calibration", TRAIN, "--validation", VALIDATION, "-o", path,
        "--calibration-method", "min-max",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return path


def again(keys: str, bundle: Path, *arguments: object, model: Path = FLOAT) -> Result:
    return invoke(keys, model, "--reproduce", bundle, *arguments)


def test_the_same_model_and_data_give_the_same_engine(keys: str, bundle: Path) -> None:
    data = ("--calibration", TRAIN, "--validation", VALIDATION)
    found = json.loads(again(keys, bundle, *data, "--json").stdout)
    assert found["holds"]
    assert found["same_bytes"]
    assert found["difference"] == {"worst": 0, "mean": 0}
    assert all(gate["agrees"] for gate in found["gates"])
    assert found["tools"] == {}


def test_another_model_or_other_samples_are_refused(
    keys: str, bundle: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.tflite"
    other.write_bytes(FLOAT.read_bytes() + b"\0")
    done = again(keys, bundle, "--calibration", TRAIN, "--validation", VALIDATION, model=other)
    assert done.exit_code == 1
    assert "is not the model that" in done.stderr
    with np.load(TRAIN) as arrays:
        np.savez(tmp_path / "less.npz", X=arrays["X"][1:], y=arrays["y"][1:])
    for data in (
        ("--calibration", tmp_path / "less.npz", "--validation", VALIDATION),
        ("--calibration", TRAIN),
    ):
        done = again(keys, bundle, *data)
        assert done.exit_code == 1
        assert "holds other samples than the bundle was made with" in done.stderr


def test_other_labels_or_groups_are_refused(keys: str, bundle: Path, tmp_path: Path) -> None:
    with np.load(TRAIN) as arrays:
        labels = arrays["y"].copy()
        labels[7] = (labels[7] + 1) % 5
        np.savez(tmp_path / "labels.npz", X=arrays["X"], y=labels)
    done = again(keys, bundle, "--calibration", tmp_path / "labels.npz", "--validation", VALIDATION)
    assert done.exit_code == 1
    assert "holds other labels or groups than the bundle was made with" in done.stderr


def test_a_reproduction_that_differs_is_exit_3_and_says_where(
    keys: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeclin.convert import reproducing

    convert = reproducing.convert

    def with_noise(job: Conversion, progress: Progress) -> Converted:
        noise = np.random.default_rng(1).standard_normal((350, 140))
        calibration = replace(job.calibration, samples=noise)
        return convert(replace(job, calibration=calibration), progress)

    monkeypatch.setattr(reproducing, "convert", with_noise)
    done = again(keys, bundle, "--calibration", TRAIN, "--validation", VALIDATION)
    assert done.exit_code == 3
    assert "DIFFERS" in done.stdout
    assert "NOT reproduced" in done.stdout


def test_a_plan_names_the_way_and_converts_nothing(keys: str, tmp_path: Path) -> None:
    target = tmp_path / "x.edgeclin"
    done = invoke(
        keys, FLOAT, "--profile", "cpu-x86_64-onnx", "--description", ECG / "edge.toml",
        "--calibration", TRAIN, "--validation", VALIDATION, "-o", target, "--dry-run", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert plan["converters"] == "onnx_from_tflite → static_onnx_from_onnx"
    assert plan["calibration"] == "350 samples of train.npz"
    assert plan["bundle"] == str(target)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"PVC", "supraventricular", "unclassified"]', '"PVC", "supraventricular"]',
         "answers with 5 values, the description has 4 labels; mend output.labels"),
        ('step = "zscore"', 'step = "decode"\ncolour = "rgb"',
         "train.npz: sample 0: 140 values of float16, where the step `decode` takes an image's"),
        ('intended_use = "', 'intended_use = "FILL IN: ', "still says FILL IN in intended_use;"),
    ],
)  # fmt: skip
def test_a_plan_looks_at_the_first_sample_and_at_what_the_model_answers(
    keys: str, tmp_path: Path, old: str, new: str, words: str
) -> None:
    text = (ECG / "edge.toml").read_text()
    assert old in text
    (tmp_path / "model.toml").write_text(text.replace(old, new))
    done = invoke(
        keys, FLOAT, "--profile", "cpu-x86_64", "--description", tmp_path / "model.toml",
        "--calibration", TRAIN, "--validation", VALIDATION, "--dry-run",
    )  # fmt: skip
    assert done.exit_code == 1
    assert words in done.stderr


def test_a_plan_refuses_what_the_conversion_would_refuse(keys: str, tmp_path: Path) -> None:
    shutil.copy(TRAIN, tmp_path / "same.npz")
    done = invoke(
        keys, FLOAT, "--profile", "cpu-x86_64", "--description", ECG / "edge.toml",
        "--calibration", TRAIN, "--validation", tmp_path / "same.npz", "--dry-run",
    )  # fmt: skip
    assert done.exit_code == 1
    assert "shares 350 samples" in done.stderr


def test_a_conversion_has_a_profile_or_a_bundle_to_follow(keys: str, bundle: Path) -> None:
    both = again(keys, bundle, "--profile", "cpu-x86_64", "--calibration", TRAIN)
    neither = invoke(keys, FLOAT, "--calibration", TRAIN)
    for done in (both, neither):
        assert done.exit_code == 2
        assert "give --profile, or --reproduce with a bundle" in done.stderr
