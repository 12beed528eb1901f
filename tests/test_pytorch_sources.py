"""PyTorch models in: exported programs and TorchScript, asked in PyTorch, written as ONNX."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgeclin.bundle import Bundle
from edgeclin.cli import main
from edgeclin.convert.request import Request
from edgeclin.errors import BadFile, ConversionFailed
from edgeclin.model_files import read_model
from edgeclin.profiles import load_profile
from edgeclin.toolchains import installed, load_toolchain

pytestmark = [pytest.mark.convert, pytest.mark.filterwarnings("ignore")]  # PyTorch has many
torch = pytest.importorskip("torch", reason="the pytorch extra is not installed")
onnx = pytest.importorskip("onnx", reason="the convert extra is not installed")

SHAPE = (3, 16, 16)


class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Strided, depthwise and pointwise convolutions, batch norm, a residual, pools."""

    def __init__(self) -> None:
        super().__init__()
        convolution = torch.nn.Conv2d
        self.stem = convolution(3, 8, 3, stride=2, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.depthwise = convolution(8, 8, 3, padding=1, groups=8)
        self.pointwise = convolution(8, 8, 1)
        self.pool = torch.nn.MaxPool2d(2)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.relu6(self.norm(self.stem(x)))
        x = torch.relu(x + self.pointwise(self.depthwise(x)))
        return self.head(self.pool(x).mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> Any:
    torch.manual_seed(1)
    made = Net()
    made.train()
    with torch.no_grad():
        for _ in range(20):  # statistics of the norm, which conversion must carry over
            made(3 * torch.randn(16, *SHAPE) + 1)
    return made.eval()


@pytest.fixture(scope="module")
def sources(net: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The network as an exported program, fixed and with open axes, scripted and traced."""
    folder, sample = tmp_path_factory.mktemp("torch"), torch.randn(2, *SHAPE)
    paths = {name: folder / name for name in ("fixed.pt2", "open.pt2", "script.pt", "trace.pt")}
    torch.export.save(torch.export.export(net, (sample[:1],)), paths["fixed.pt2"])
    axes = {axis: torch.export.Dim(name, min=1, max=64) for axis, name in enumerate("bchw")}
    shapes = {0: axes[0], 2: 4 * axes[2], 3: 4 * axes[3]}
    torch.export.save(
        torch.export.export(net, (sample,), dynamic_shapes=(shapes,)), paths["open.pt2"]
    )
    torch.jit.script(net).save(paths["script.pt"])
    torch.jit.trace(net, sample).save(paths["trace.pt"])
    return paths


def run_converter(name: str, model: Path, folder: Path, shape: tuple[int, ...] = SHAPE) -> Any:
    from importlib.metadata import entry_points

    np.save(folder / "samples.npy", np.random.default_rng(1).random((4, *shape), np.float32))
    (entry,) = entry_points(group="edgeclin.converters", name=name)
    request = Request(
        model=str(model),
        folder=str(folder),
        profile=load_profile("cpu-x86_64"),
        samples=str(folder / "samples.npy"),
        input_shape=shape,
    )
    return entry.load()(request, lambda _: None)


@pytest.mark.parametrize("name", ["fixed.pt2", "open.pt2", "script.pt", "trace.pt"])
def test_the_onnx_model_answers_as_the_module_does(
    net: Any, sources: dict[str, Path], name: str, tmp_path: Path
) -> None:
    from edgeclin.backends.onnx import ONNXBackend

    form = read_model(sources[name]).source
    outcome = run_converter(f"onnx_from_{form}", sources[name], tmp_path)
    samples = np.load(tmp_path / "samples.npy")
    with torch.no_grad():
        truth = net(torch.from_numpy(samples)).numpy()
    np.testing.assert_allclose(np.load(tmp_path / outcome.answers), truth, atol=1e-5)
    made = (tmp_path / outcome.file).read_bytes()
    backend = ONNXBackend(made)
    found = np.stack([backend.run(sample) for sample in samples])
    np.testing.assert_allclose(found, truth, atol=1e-5)
    assert not list(tmp_path.glob("*.data"))
    (opset,) = onnx.load_from_string(made).opset_import
    assert opset.version == 17
    assert outcome.tools == {"torch": torch.__version__}


def test_facts_agree_with_what_pytorch_says(sources: dict[str, Path]) -> None:
    assert read_model(sources["fixed.pt2"]).inputs == (("x", SHAPE),)
    assert read_model(sources["open.pt2"]).inputs == (("x", (3, None, None)),)
    assert read_model(sources["fixed.pt2"]).outputs == 4
    assert read_model(sources["script.pt"]).inputs == (("input", None),)


def test_a_shape_that_the_model_cannot_take_is_one_sentence(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConversionFailed, match=r"does not take samples of the shape \[5, 8, 8\]"):
        run_converter("onnx_from_torchscript", sources["trace.pt"], tmp_path, (5, 8, 8))


def test_an_operator_without_an_onnx_form_is_one_sentence(tmp_path: Path) -> None:
    class Odd(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.i0(x).mean((2, 3))

    sample = torch.randn(1, *SHAPE)
    torch.jit.trace(Odd(), sample).save(tmp_path / "odd.pt")
    said = "^PyTorch cannot write the TorchScript model as ONNX: Exporting the operator .*i0.*"
    with pytest.raises(ConversionFailed, match=said) as caught:
        run_converter("onnx_from_torchscript", tmp_path / "odd.pt", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_cut_torchscript_file_is_one_sentence(sources: dict[str, Path], tmp_path: Path) -> None:
    for name in ("fixed.pt2", "script.pt"):
        (tmp_path / "cut.pt").write_bytes(sources[name].read_bytes()[:2000])
        with pytest.raises(BadFile, match="a damaged or unusual zip file"):
            read_model(tmp_path / "cut.pt")
    torn = tmp_path / "torn.pt"
    with zipfile.ZipFile(sources["script.pt"]) as old, zipfile.ZipFile(torn, "w") as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry).replace(b"def forward", b"def f0rward"))
    with pytest.raises((BadFile, ConversionFailed), match=r"PyTorch cannot load|damaged"):
        run_converter("onnx_from_torchscript", torn, tmp_path)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_of_a_pytorch_file_is_unpickled(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The converter forbids unpickling in its own process, which is this one here.
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    sprung = tmp_path / "sprung"
    torch.save({"weights": Trap(sprung)}, tmp_path / "weights.pt")
    with pytest.raises(BadFile, match="a pickled PyTorch file"):
        read_model(tmp_path / "weights.pt")
    buffer = io.BytesIO()
    torch.save(Trap(sprung), buffer)
    hostile = tmp_path / "hostile.pt2"
    with zipfile.ZipFile(sources["fixed.pt2"]) as old, zipfile.ZipFile(hostile, "w") as new:
        for entry in old.namelist():
            trap = "sample_inputs" in entry
            new.writestr(entry, buffer.getvalue() if trap else old.read(entry))
    with pytest.raises(ConversionFailed, match="PyTorch cannot load the exported program"):
        run_converter("onnx_from_torch_export", hostile, tmp_path)
    assert not sprung.exists()
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    torch.load(tmp_path / "weights.pt", weights_only=False)  # the trap works
    assert sprung.exists()


# -- the whole way ----------------------------------------------------------------------------

DESCRIPTION = """
schema = 1
name = "net"
version = "1"
task = "classification"
intended_use = "a test"
[[inputs]]
name = "x"
kind = "array"
shape = [3, 16, 16]
[output]
activation = "none"
labels = ["a", "b", "c", "d"]
[provenance]
licence = "none"
source = "a test"
"""


@pytest.fixture
def convert(tmp_path: Path) -> Any:
    (tmp_path / "d.toml").write_text(DESCRIPTION)
    random = np.random.default_rng(2)
    for name, count in (("c", 64), ("v", 40)):
        np.savez(tmp_path / name, X=random.normal(1, 3, (count, *SHAPE)).astype(np.float32))

    def invoke(model: Path, profile: str, *more: str) -> Result:
        return CliRunner().invoke(main, [
            "convert", str(model), "--profile", profile, "--calibration", str(tmp_path / "c.npz"),
            "--validation", str(tmp_path / "v.npz"), "--description", str(tmp_path / "d.toml"),
            "--calibration-method", "min-max", "--unsigned", "-o", str(tmp_path / "x.edgeclin"),
            *more,
        ])  # fmt: skip

    return invoke


@pytest.mark.parametrize(
    ("name", "profile"),
    [("fixed.pt2", "coral-usb"), ("script.pt", "coral-usb"), ("open.pt2", "jetson-orin-nano")],
)
def test_a_pytorch_model_becomes_an_engine(
    convert: Any, sources: dict[str, Path], name: str, profile: str, tmp_path: Path
) -> None:
    if profile == "coral-usb" and installed(load_toolchain("onnx2tf")) is None:
        pytest.skip("the toolchain onnx2tf is not installed: edgeclin toolchain add onnx2tf")
    more = () if name == "fixed.pt2" else ("--input-shape", "3,16,16")
    done = convert(sources[name], profile, *more, "--allow-failed-gates")
    assert done.exit_code == 0, done.output
    bundle = Bundle.open(tmp_path / "x.edgeclin", allow_unsigned=True)
    gates = json.loads(bundle.read("verification.json"))["gates"]
    floats = {gate["stage"]: gate["passed"] for gate in gates if gate["limit"] == 1e-5}
    assert floats.pop("float ONNX")
    assert all(floats.values())
    assert bundle.manifest.tools["torch"] == torch.__version__
    if profile == "coral-usb":
        operators = [
            one["operator"] for one in json.loads(bundle.read("edgetpu.json"))["operators"]
        ]
        assert operators.count("TRANSPOSE") == 1  # from the input's channels-first, and no other
        assert f"{len(operators)} of {len(operators)} operators on the Edge TPU" in done.stdout


def test_a_shape_that_nobody_said_is_one_sentence(convert: Any, sources: dict[str, Path]) -> None:
    for name in ("open.pt2", "script.pt"):
        done = convert(sources[name], "cpu-x86_64")
        assert done.exit_code == 1
        assert "--input-shape" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        done = CliRunner().invoke(main, ["describe", str(sources[name])])
        assert done.exit_code == 1
        assert "--input-shape" in done.stderr
    done = CliRunner().invoke(
        main, ["describe", str(sources["script.pt"]), "--input-shape", "3,16,16"]
    )
    assert "shape = [3, 16, 16]" in done.stdout
    done = convert(sources["open.pt2"], "cpu-x86_64", "--input-shape", "4,16,16")
    assert done.exit_code == 1
    assert "takes [3, ?, ?], --input-shape says [4, 16, 16]" in done.stderr
    done = convert(sources["open.pt2"], "cpu-x86_64", "--input-shape", "3x16")
    assert done.exit_code == 2
