"""`make bench-convert`: `edgeclin convert` against the bare tool doing the same, in one run.

For each model: seconds and peak memory of the whole of `edgeclin convert` (with its proof), of its
calibration and quantisation alone, and of a bare script for TFLiteConverter and for ONNX Runtime's
`quantize_static`; then size and latency of the INT8 engine in those of its float form, from the
bundle's report. These machines are noisy: read the ratios.

Models without data of their own (MobileNetV2, ResNet-50, both without trained weights) are
calibrated with noise, which says nothing of accuracy: here only time, memory and size are measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from edgeclin.bundle import Bundle

ROOT = Path(__file__).parents[2]
SAMPLES = 100

MAKE = """
import sys, keras
keras.utils.set_random_seed(1)
getattr(keras.applications, sys.argv[1])(weights=None, input_shape=(224, 224, 3)).save(sys.argv[2])
"""

BARE = {
    "TFLiteConverter": """
import sys, numpy as np, keras, tensorflow as tf
model = keras.saving.load_model(sys.argv[1], compile=False)
samples = np.load(sys.argv[2], mmap_mode="r")
shape = (1, *samples.shape[1:])
model.export(sys.argv[3] + ".saved", verbose=False,
             input_signature=[keras.InputSpec(shape=shape, dtype="float32")])
converter = tf.lite.TFLiteConverter.from_saved_model(sys.argv[3] + ".saved")
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
open(sys.argv[3], "wb").write(converter.convert())
""",
    "quantize_static": """
import sys, numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
samples, source = np.load(sys.argv[2], mmap_mode="r"), sys.argv[1]
if not source.endswith(".onnx"):
    import keras
    model, source = keras.saving.load_model(source, compile=False), sys.argv[3] + ".float.onnx"
    shape = (1, *samples.shape[1:])
    model.export(source, format="onnx", verbose=False,
                 input_signature=[keras.InputSpec(shape=shape, dtype="float32", name="x")])
import onnx
entry = onnx.load(source).graph.input[0].name
class Reader(CalibrationDataReader):
    rest = iter(samples)
    def get_next(self):
        sample = next(self.rest, None)
        return None if sample is None else {entry: sample[None]}
quantize_static(source, sys.argv[3], Reader(), per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
""",
}


ALONE = """
import sys
from pathlib import Path
from edgeclin.convert.ranges import Method, Statistics, write_ranges
from edgeclin.convert.routes import QUANTISERS, ranges_of
from edgeclin.convert.stages import Workshop
from edgeclin.profiles import load_profile
model, samples, made, profile_name, form = sys.argv[1:]
profile, folder = load_profile(profile_name), Path(made + ".work")
folder.mkdir()
workshop = Workshop(folder, profile, lambda _: None)
seen, _ = workshop.run(ranges_of(form), Path(model), samples=samples)
write_ranges(folder / "ranges.npz", Statistics.load(seen).ranges(Method.MIN_MAX))
quantiser = next(iter(QUANTISERS[profile.engine].values()))
engine, _ = workshop.run(quantiser, Path(model), ranges=str(folder / "ranges.npz"))
engine.rename(made)
"""


@dataclass(frozen=True)
class Cost:
    """What one process and its children took."""

    seconds: float
    peak_mb: float
    size: int


def measured(command: list[str], made: Path) -> Cost:
    """Run a command in a process of its own, quietly; its size is that of what it made."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": ""}
    watch = (
        "import json, resource, subprocess, sys, time; began = time.monotonic();"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE);"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss;"
        "print(json.dumps([done.returncode, time.monotonic() - began, peak,"
        " done.stderr.decode(errors='replace')[-2000:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", watch, *command],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **quiet},
    )
    status, seconds, peak, said = json.loads(done.stdout)
    if status:
        raise click.ClickException(f"{' '.join(command)[:200]} ended with {status}: {said}")
    return Cost(seconds, peak / 1024, made.stat().st_size)


def models(names: tuple[str, ...], folder: Path) -> list[tuple[str, Path, Path]]:
    """Name, Keras file and prepared samples of each model that is asked for."""
    found = []
    for name in names:
        if name == "ecg":
            with np.load(ROOT / "examples" / "ecg" / "data" / "train.npz") as arrays:
                samples = arrays["X"][:SAMPLES, :, np.newaxis].astype(np.float32)
            path = ROOT / "examples" / "ecg" / "edge.keras"
        elif name in ("malaria", "iegm"):
            data = os.environ.get("EDGECLIN_TEST_DATA")
            if not data:
                click.echo(f"{name}: EDGECLIN_TEST_DATA names no folder with it")
                continue
            path, samples = trained(name, Path(data))
        else:
            samples = np.random.default_rng(1).uniform(-1, 1, (SAMPLES, 224, 224, 3))
            path = folder / f"{name}.keras"
            subprocess.run(
                [sys.executable, "-c", MAKE, name, str(path)], check=True, capture_output=True
            )
        np.save(folder / f"{name}.npy", samples.astype(np.float32))
        found.append((name, path, folder / f"{name}.npy"))
    return found


def trained(name: str, data: Path) -> tuple[Path, np.ndarray]:
    """A trained model; what it is calibrated with is real for the electrograms."""
    if name == "iegm":
        with np.load(data / "iegm" / "iegm_train_subset.npz") as arrays:
            samples = arrays["X"][:SAMPLES].reshape(-1, 1, 1250, 1)
        return data / "iegm" / "vatml_model_best.onnx", samples
    samples = np.random.default_rng(1).uniform(0, 255, (SAMPLES, 64, 64, 3))
    return data / "malaria" / "malaria_dwcnn64.keras", samples


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Benchmark NAMES (default: ecg malaria iegm MobileNetV2 ResNet50)."""
    chosen = names or ("ecg", "malaria", "iegm", "MobileNetV2", "ResNet50")
    click.echo(f"{SAMPLES} calibration samples, one run each; ratios are against the bare tool\n")
    click.echo(f"{'model':<13}{'what':<42}{'seconds':>9}{'ratio':>7}{'peak MB':>9}{'bytes':>12}")
    with tempfile.TemporaryDirectory(prefix="edgeclin-bench-") as place:
        folder = Path(place)
        for name, model, samples in models(chosen, folder):
            for bare, profile, suffix in (
                ("TFLiteConverter", "cpu-x86_64", "tflite"),
                ("quantize_static", "cpu-x86_64-onnx", "onnx"),
            ):
                if model.suffix == ".onnx" and suffix == "tflite":
                    continue  # there is no bare tool for this way
                compare(name, model, samples, bare, profile, folder / f"{name}.{suffix}")


def compare(name: str, model: Path, samples: Path, bare: str, profile: str, made: Path) -> None:
    """Three lines of the table."""
    script = [sys.executable, "-c", BARE[bare], str(model), str(samples), str(made)]
    reference = measured(script, made)
    show(name, f"bare {bare}, from the {model.suffix} file", reference, reference)
    np.savez(Path(f"{made}.npz"), X=np.load(samples), y=np.zeros(SAMPLES, int))
    bundle = Path(f"{made}.edgeclin")
    whole = measured(
        [
            sys.executable, "-m", "edgeclin", "convert", str(model), "--profile", profile,
            "--calibration", str(Path(f"{made}.npz")), "-o", str(bundle), "--unsigned",
            "--allow-failed-gates", "--calibration-method", "min-max",
        ],
        bundle,
    )  # fmt: skip
    show(name, f"edgeclin convert --profile {profile}", whole, reference)
    report = json.loads(Bundle.open(bundle, allow_unsigned=True).read("report.json"))
    click.echo(
        f"{name:<13}  INT8 in parts of float: size {report['size_ratio']:.2f}, latency "
        f"{report['latency_ratio']:.2f} (medians of {report['runs']} runs in turn)"
    )
    form = "tflite" if made.suffix == ".tflite" else "static_onnx"
    floats = float_form(model, samples, made.parent / f"{name}-{form}", profile, form)
    engine = Path(f"{made}.alone")
    script = [sys.executable, "-c", ALONE, str(floats), str(samples), str(engine), profile, form]
    show(name, "  of that, calibrating and quantising", measured(script, engine), reference)


def float_form(model: Path, samples: Path, folder: Path, profile: str, form: str) -> Path:
    """The float form that calibration starts from."""
    from edgeclin.convert.routes import route
    from edgeclin.convert.stages import Stage, Workshop
    from edgeclin.convert.worker import converter_names
    from edgeclin.profiles import load_profile

    folder.mkdir()
    np.save(folder / "few.npy", np.load(samples)[:2])
    source = model.suffix.lstrip(".")
    way = route(source, form, converter_names())
    workshop = Workshop(folder, load_profile(profile), lambda _: None)
    _, stages = workshop.float_stages(
        Stage(source, model), way, folder / "few.npy", np.load(folder / "few.npy").shape[1:]
    )
    return stages[-1].path


def show(name: str, what: str, cost: Cost, reference: Cost) -> None:
    click.echo(
        f"{name:<13}{what:<42}{cost.seconds:>9.1f}{cost.seconds / reference.seconds:>7.2f}"
        f"{cost.peak_mb:>9.0f}{cost.size:>12,}"
    )


if __name__ == "__main__":
    main()
