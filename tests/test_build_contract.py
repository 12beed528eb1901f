"""`edgeclin build` against fakes of TensorRT 8.5, 10 and 11: nothing here ran on a GPU.

The fakes (`fake_nvidia/`) refuse what the real versions refuse by their documentation; whether the
real ones agree is not proven by these tests. The calls for version 10 and 11 are also made of a
real binary, TensorRT-RTX, in `test_tensorrt_rtx.py`.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import ECG, FAKE_NVIDIA, Gpu
from polling import wait_until

pytest.importorskip("onnx", reason="the convert extra is not installed")
pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")

import onnx

from edgeclin.backends import load_backend
from edgeclin.build import build
from edgeclin.bundle import Bundle, write_bundle
from edgeclin.cli import main
from edgeclin.description import load_description
from edgeclin.errors import BadFile, EngineUnavailable, SelfTestFailed
from edgeclin.golden import write_golden
from edgeclin.manifest import Difference, Engine, Golden, Manifest
from edgeclin.preprocess import Preprocess
from edgeclin.profiles import load_profile
from edgeclin.runtime import Runtime
from edgeclin.tensorrt.cache import DamagedEngine, EngineCache
from edgeclin.tensorrt.cuda import open_cuda
from edgeclin.tensorrt.families import Version8, Version10, Version11, check_version, family_of
from edgeclin.tensorrt.library import load_library
from edgeclin.tensorrt.plan import build_plan

DATA = Path(__file__).parent / "data"
PROFILE = {"8.5.2.2": "jetson-xavier-nx", "10.3.0": "jetson-orin-nano", "11.0.0": "of-11"}
"""Versions of the fakes, and the profiles whose bundles they fit."""
Make = Callable[[str], Path]


@pytest.fixture
def make(tmp_path: Path, manifest_and_files: tuple[Manifest, dict[str, bytes]]) -> Make:
    """A Jetson's bundle as `edgeclin convert` writes it, for one of the fakes' versions."""
    description = load_description(ECG / "edge.toml")
    with np.load(ECG / "data" / "validation.npz") as arrays:
        beats = list(arrays["X"][:4])

    def write(version: str) -> Path:
        name = "ecg_tensorrt8.onnx" if version.startswith("8") else "ecg_tensorrt.onnx"
        model = (DATA / name).read_bytes()
        backend, preprocess = load_backend("onnx", model), Preprocess(description.inputs[0])
        outputs = np.stack([backend.run(preprocess(beat)) for beat in beats])
        profile = load_profile("jetson-thor" if version[:2] == "11" else PROFILE[version])
        if version.startswith("11"):
            toolchain = {**profile.toolchain, "tensorrt": "11.0"}
            profile = msgspec.structs.replace(profile, toolchain=toolchain)
        primary = Engine(
            backend="tensorrt", file="engine.onnx", precision="int8", state="not compiled"
        )
        twin = Engine(backend="onnx", file="engine.onnx", precision="int8", role="cpu-twin")
        manifest = msgspec.structs.replace(
            manifest_and_files[0],
            profile=profile,
            engines=(primary, twin),
            golden=Golden(file="golden.npz", samples=4, tolerance=Difference(0.25, 0.05)),
        )
        files = {"engine.onnx": model, "golden.npz": write_golden(beats, outputs)}
        return write_bundle(tmp_path / f"{version}.edgeclin", manifest, files, None)

    return write


def opened(path: Path) -> Bundle:
    return Bundle.open(path, allow_unsigned=True)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, list(map(str, arguments)))


def left(folder: Path) -> set[str]:
    """What is in the folder of engines but the lock."""
    return {path.name for path in folder.glob("*")} - {"lock"}


# -- each version ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "cuda", "flags"),
    [
        ("8.5.2.2", "pycuda", ("INT8", "TF32")),
        ("8.5.2.2", "cudart", ("INT8", "TF32")),
        ("10.3.0", "bindings", ("TF32",)),
        ("11.0.0", "bindings", ("TF32",)),
    ],
)
def test_an_engine_is_built_tested_kept_and_then_answers(
    gpu: Gpu, make: Make, engines: Path, version: str, cuda: str, flags: tuple[str, ...]
) -> None:
    gpu(version, cuda)
    bundle = opened(make(version))
    before = Runtime(bundle)
    outcome = build(bundle, EngineCache(engines))
    assert outcome.made
    assert {path.name for path in outcome.folder.iterdir()} == {"engine.plan", "build.json"}
    record = json.loads((outcome.folder / "build.json").read_text())
    assert tuple(sorted(record["flags"])) == flags
    assert record["identity"]["tensorrt"] == version
    assert record["identity"]["device"] == "Fake GPU (no GPU at all)"
    tested = record["self_test"]
    assert tested["tolerance"] == {"worst": 0.25, "mean": 0.05}
    assert tested["off"]["worst"] <= 0.25
    assert tested["samples"] == 4
    after = Runtime(bundle)
    sample = np.load(ECG / "data" / "test.npz")["X"][7]
    one, other = before.predict(sample), after.predict(sample)
    assert one.degraded == "the primary engine is not compiled"
    assert other.engine == f"tensorrt int8: TensorRT {version} on Fake GPU (no GPU at all)"
    assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    after.close()


def test_each_version_is_asked_in_its_own_way(gpu: Gpu) -> None:
    """What the fakes refuse when the wrong family asks them."""
    model = (DATA / "ecg_tensorrt.onnx").read_bytes()
    gpu("11.0.0")
    library = load_library()
    with pytest.raises(AttributeError, match="INT8"):
        Version8().configure(library.module, library.module.Builder(None).create_builder_config())
    with pytest.raises(AttributeError, match="EXPLICIT_BATCH"):
        Version8().create_network(library.module, library.module.Builder(None))
    gpu("10.3.0")

    class Both(Version10):
        configure = Version8.configure

    library = load_library()
    wrong = type(library)(library.module, library.version, Both(), library.title)
    with pytest.raises(EngineUnavailable, match=r"TensorRT 10\.3\.0 did not build .*kINT8"):
        build_plan(wrong, model, 64)
    gpu("8.5.2.2")
    library = load_library()
    with pytest.raises(EngineUnavailable, match=r"refuses the model at node .*DequantizeLinear"):
        build_plan(library, model, 64)
    wrong = type(library)(library.module, library.version, Version11(), library.title)
    with pytest.raises(EngineUnavailable, match="wants an explicit batch dimension"):
        build_plan(wrong, model, 64)

    class Forgets(Version8):
        def configure(self, trt: Any, config: Any) -> None: ...

    wrong = type(library)(library.module, library.version, Forgets(), library.title)
    with pytest.raises(EngineUnavailable, match="int8 is not configured in the builder"):
        build_plan(wrong, (DATA / "ecg_tensorrt8.onnx").read_bytes(), 64)


def test_a_shape_without_a_profile_and_a_foreign_file_are_refused_in_tensorrt_s_words(
    gpu: Gpu,
) -> None:
    gpu("10.3.0")
    model = onnx.load(DATA / "ecg_tensorrt.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    with pytest.raises(EngineUnavailable, match="no optimization profile has been defined"):
        build_plan(load_library(), model.SerializeToString(), 64)
    with pytest.raises(EngineUnavailable, match=r"refuses the model: Failed to parse"):
        build_plan(load_library(), b"no model", 64)


@pytest.mark.parametrize("version", ["8.4.3", "7.2", "9.3.0", "12.0", "unknown"])
def test_a_version_that_nobody_looked_at_is_refused(version: str) -> None:
    with pytest.raises(EngineUnavailable, match=r"8\.5, 8\.6, 10 and 11 are"):
        family_of(version)


def test_another_major_version_than_the_profile_s_is_refused_another_minor_recorded(
    gpu: Gpu, make: Make, engines: Path
) -> None:
    assert check_version("10.3.0.26", "10.3") == ""
    gpu("11.0.0")
    with pytest.raises(EngineUnavailable, match=r"written for TensorRT 10\.3, here is 11\.0\.0"):
        build(opened(make("10.3.0")), EngineCache(engines))
    gpu("10.7.0")
    made = build(opened(make("10.3.0")), EngineCache(engines)).build
    assert made.notes == ("built with TensorRT 10.7.0, the profile names 10.3",)


# -- the cache -----------------------------------------------------------------------------------


def test_what_is_built_is_found_again_and_the_next_build_uses_its_timings(
    gpu: Gpu, make: Make, engines: Path
) -> None:
    gpu("10.3.0")
    bundle, cache = opened(make("10.3.0")), EngineCache(engines)
    first = build(bundle, cache)
    again = build(bundle, cache)
    assert (first.made, first.build.timings) == (True, False)
    assert not again.made
    assert again.build == first.build
    (first.folder / "engine.plan").unlink()
    said: list[str] = []
    assert build(bundle, cache, said.append).build.timings
    assert said[0].startswith("the built engine is damaged and is built anew")


def test_another_tensorrt_gpu_or_driver_has_an_engine_of_its_own(
    gpu: Gpu, make: Make, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu("10.3.0")
    bundle = opened(make("10.3.0"))
    first = build(bundle, EngineCache(engines))
    identity = first.build.identity
    for name in msgspec.structs.fields(type(identity)):
        other = "x" if name.type is str else ("x",) if name.name == "settings" else 1
        changed = msgspec.structs.replace(identity, **{name.name: other})
        assert changed.name != identity.name
        assert EngineCache(engines).find(changed) is None
    gpu("10.7.0")
    result = Runtime(bundle).predict(np.load(ECG / "data" / "test.npz")["X"][0])
    assert "the primary engine is not compiled for this TensorRT and GPU" in result.degraded


def test_a_changed_plan_is_refused_and_built_anew(gpu: Gpu, make: Make, engines: Path) -> None:
    gpu("10.3.0")
    bundle, cache = opened(make("10.3.0")), EngineCache(engines)
    made = build(bundle, cache)
    plan = made.folder / "engine.plan"
    data = bytearray(plan.read_bytes())
    data[-9] ^= 1
    plan.write_bytes(data)
    with pytest.raises(DamagedEngine, match="its bytes are not those that were built"):
        cache.find(made.build.identity)
    result = Runtime(bundle).predict(np.load(ECG / "data" / "test.npz")["X"][0])
    assert "the engine built from the primary one cannot be used" in result.degraded
    assert build(bundle, cache).made
    assert Runtime(bundle).predict(np.zeros(140)).engine.startswith("tensorrt int8")


@pytest.mark.parametrize("name", [".", "engine.plan", "build.json"])
def test_a_plan_that_others_may_write_is_not_executed(
    gpu: Gpu, make: Make, engines: Path, name: str
) -> None:
    gpu("10.3.0")
    bundle, cache = opened(make("10.3.0")), EngineCache(engines)
    made = build(bundle, cache)
    (made.folder / name).chmod(0o777)
    with pytest.raises(DamagedEngine, match="others may write it"):
        cache.find(made.build.identity)


def test_a_second_build_at_the_same_time_is_refused_and_a_killed_one_s_draft_cleared(
    gpu: Gpu, make: Make, engines: Path
) -> None:
    gpu("10.3.0")
    path = make("10.3.0")
    with EngineCache(engines).claim():
        refused = run("build", path, "--allow-unsigned")
    assert refused.exit_code == 4
    assert "another `edgeclin build` is at work" in refused.output
    cache, built = EngineCache(engines), build(opened(path), EngineCache(engines))
    timings = next(engines.glob("*.timings"))
    killed = cache.draft(built.build.identity)
    (killed.__enter__() / "engine.plan").write_bytes(b"half")
    (engines / f".{timings.name}.a_1b2c3d").write_bytes(b"half")
    assert len(list(engines.glob(".*"))) == 2
    done = run("build", path, "--allow-unsigned")
    assert done.exit_code == 0, done.output
    assert not list(engines.glob(".*"))


def test_what_else_lies_in_the_folder_of_engines_stays_as_it_is(engines: Path) -> None:
    (engines / ".ssh").mkdir(parents=True)
    others = [engines / ".ssh" / "id", engines / ".bashrc", engines / "lock", engines / ".a.tmp"]
    for other in others:
        other.write_bytes(b"somebody's")
    with EngineCache(engines).claim():
        pass
    assert all(other.read_bytes() == b"somebody's" for other in others)


# -- what must leave nothing behind -------------------------------------------------------------


def test_an_engine_that_computes_something_else_is_not_kept(
    gpu: Gpu, make: Make, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu("10.3.0")
    monkeypatch.setenv("FAKE_TENSORRT_OFF", "0.5")
    with pytest.raises(SelfTestFailed, match=r"off by up to 0\.5, .* with TensorRT 10"):
        build(opened(make("10.3.0")), EngineCache(engines))
    assert left(engines) == set()
    assert run("build", make("10.3.0"), "--allow-unsigned").exit_code == 4


def test_an_engine_that_no_longer_passes_the_self_test_makes_way_for_another_or_the_cpu_twin(
    gpu: Gpu, make: Make, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu("10.3.0")
    bundle, cache, said = opened(make("10.3.0")), EngineCache(engines), list[str]()
    kept = build(bundle, cache).folder
    monkeypatch.setenv("FAKE_TENSORRT_OFF", "0.5")
    with pytest.raises(SelfTestFailed):
        Runtime(bundle)
    with pytest.raises(SelfTestFailed):
        build(bundle, cache, said.append)
    assert "off by up to 0.5" in said[1]
    assert not kept.exists()
    assert Runtime(bundle).predict(np.zeros(140)).degraded
    monkeypatch.delenv("FAKE_TENSORRT_OFF")
    assert build(bundle, cache).made


def test_a_crash_of_tensorrt_is_one_sentence(
    gpu: Gpu, make: Make, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu("10.3.0")
    monkeypatch.setenv("FAKE_TENSORRT_CRASH", "1")
    done = run("build", make("10.3.0"), "--allow-unsigned")
    assert done.exit_code == 4
    assert "the process that asks TensorRT was killed by SIGSEGV" in done.output
    assert left(engines) == set()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_build_at_once_and_leaves_nothing(
    gpu: Gpu,
    make: Make,
    engines: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    status: int,
) -> None:
    gpu("10.3.0")
    monkeypatch.setenv("FAKE_TENSORRT_SECONDS", "60")
    command = [sys.executable, "-m", "edgeclin", "build", make("10.3.0"), "--allow-unsigned"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    wait_until(lambda: list(engines.glob(".*/model.onnx")), "a build that has begun")
    process.send_signal(number)
    process.communicate(timeout=15)
    assert process.returncode == status
    assert not list(engines.glob(".*"))
    assert left(engines) == set()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    gpu: Gpu, make: Make, small_disk: Path
) -> None:
    gpu("10.3.0")
    bundle = opened(make("10.3.0"))
    with (
        pytest.raises(BadFile, match="cannot be written"),
        (small_disk / "fill").open("wb") as file,
    ):
        file.write(bytes(shutil.disk_usage(small_disk).free - (24 << 10)))
        file.flush()
        build(bundle, EngineCache(small_disk / "engines"))
    assert not list((small_disk / "engines").glob(".*"))


# -- what a machine lacks -----------------------------------------------------------------------


def test_no_gpu_is_one_sentence(
    gpu: Gpu, make: Make, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GPUS", "0")
    for cuda, words in (("bindings", "cudaErrorNoDevice"), ("pycuda", "no CUDA-capable device")):
        gpu("10.3.0", cuda)
        with pytest.raises(EngineUnavailable, match=words):
            build(opened(make("10.3.0")), EngineCache(engines))


def test_a_bundle_with_nothing_to_build_is_refused(bundle_path: Path, trust: list[Any]) -> None:
    with pytest.raises(EngineUnavailable, match="only tensorrt ones are"):
        build(Bundle.open(bundle_path, trust), EngineCache(Path("engines")))


def test_a_plan_of_another_tensorrt_is_refused(gpu: Gpu) -> None:
    gpu("10.3.0")
    with pytest.raises(EngineUnavailable, match="build it here with `edgeclin build`"):
        load_backend("tensorrt", b"FAKE PLAN of 8.5.2.2")


@pytest.mark.parametrize("cuda", ["bindings", "cudart", "pycuda"])
def test_closing_an_engine_gives_all_its_memory_back(gpu: Gpu, cuda: str) -> None:
    gpu("11.0.0", cuda)
    plan = build_plan(load_library(), (DATA / "ecg_tensorrt.onnx").read_bytes(), 64)
    backend = load_backend("tensorrt", plan.data)
    import fake_gpu

    assert len(fake_gpu.memory) == 2
    answers = [backend.run(np.full((140, 1), value, np.float32)) for value in (0, 1, 0)]
    assert not np.array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])
    backend.close()
    assert not fake_gpu.memory


@pytest.mark.parametrize("cuda", ["bindings", "cudart", "pycuda"])
def test_an_engine_answers_in_another_thread_than_loaded_it(gpu: Gpu, cuda: str) -> None:
    gpu("11.0.0", cuda)
    plan = build_plan(load_library(), (DATA / "ecg_tensorrt.onnx").read_bytes(), 64)
    sample = np.ones((140, 1), np.float32)
    with ThreadPoolExecutor(1) as loader, ThreadPoolExecutor(1) as judge:
        backend = loader.submit(load_backend, "tensorrt", plan.data).result()
        first = loader.submit(backend.run, sample).result()
        np.testing.assert_array_equal(judge.submit(backend.run, sample).result(), first)
        loader.submit(backend.close).result()
    import fake_gpu

    assert not fake_gpu.memory


# -- the commands ---------------------------------------------------------------------------------


def test_build_inspect_and_doctor_say_what_is_built(
    gpu: Gpu, make: Make, engines: Path, tmp_path: Path
) -> None:
    gpu("10.3.0")
    path = make("10.3.0")
    config = tmp_path / "device.toml"
    config.write_text(
        f'schema = 1\nsite = "s"\ndevice = "d"\nbundle = "{path}"\n'
        f'[queue]\npath = "{tmp_path / "queue.sqlite"}"\n'
    )
    assert "not built here" in run("inspect", path, "--allow-unsigned").output
    said = run("doctor", "--config", config).output
    assert f"edgeclin build {path}" in said
    assert re.search(r"ok +TensorRT \(edgeclin build\) +10\.3\.0 on Fake GPU", said)
    done = run("build", path, "--allow-unsigned")
    assert done.exit_code == 0, done.output
    assert (
        "4 samples, off by up to 0, 0 in the mean (allowed: 0.25, 0.05 in the mean)" in done.output
    )
    assert "built here with TensorRT 10.3.0" in run("inspect", path, "--allow-unsigned").output
    said = run("doctor", "--config", config).output
    assert "its tensorrt engine is built here with TensorRT 10.3.0" in said
    assert "self-test passed with tensorrt int8" in run("verify", path, "--allow-unsigned").output
    assert "already built" in run("build", path, "--allow-unsigned").output
    facts = json.loads(run("build", path, "--allow-unsigned", "--json").stdout)
    assert facts["made"] is False


def test_a_check_of_the_model_says_who_parsed_it_and_builds_nothing(
    gpu: Gpu, make: Make, engines: Path
) -> None:
    gpu("10.3.0")
    done = run("build", make("10.3.0"), "--allow-unsigned", "--check-model")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("parsed by TensorRT 10.3.0: ")
    assert "nothing was built, and nothing ran" in done.output
    assert not engines.exists()


# -- the names that the fakes have ---------------------------------------------------------------


def test_the_real_cuda_python_has_every_function_with_the_fake_s_parameters() -> None:
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    sys.path.insert(0, str(FAKE_NVIDIA / "common"))
    try:
        import fake_cuda_python as fake
    finally:
        sys.path.remove(str(FAKE_NVIDIA / "common"))
    for name in [name for name in vars(fake) if name.startswith("cuda") and name[4].isupper()]:
        if callable(getattr(fake, name)) and not isinstance(getattr(fake, name), type):
            signature = getattr(real, name).__doc__.splitlines()[0]
            taken = fake.__dict__[name].__code__
            for parameter in taken.co_varnames[: taken.co_argcount]:
                assert parameter in signature, (name, signature)
    assert isinstance(real.cudaDeviceProp().name, bytes)
    assert real.cudaDeviceProp().major == real.cudaDeviceProp().minor == 0
    assert int(real.cudaStream_t(7)) == 7
    assert int(real.cudaError_t.cudaSuccess) == 0
    for kind in fake.cudaMemcpyKind:
        assert getattr(real.cudaMemcpyKind, kind.name) == kind


def test_the_real_cuda_python_without_a_gpu_is_one_sentence() -> None:
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    if int(real.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("there is a GPU here")
    with pytest.raises(EngineUnavailable, match=r"CUDA: cudaGetDeviceCount failed \(cudaError"):
        open_cuda()
