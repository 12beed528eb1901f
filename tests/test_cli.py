"""What a person meets: facts, one-line errors, and the right exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import ECG
from unprivileged import closed

from edgeclin.backends.fake import FakeBackend
from edgeclin.bundle import write_bundle
from edgeclin.cli import main
from edgeclin.cli.signals import on_stop
from edgeclin.description import Input
from edgeclin.errors import MissingExtra
from edgeclin.golden import read_golden, write_golden
from edgeclin.keys import KeyPair, load_signer
from edgeclin.manifest import Manifest
from edgeclin.preprocess import Preprocess
from edgeclin.steps import Leads, Normalise, Resize, Window, ZScore

Run = Callable[..., Result]


@pytest.fixture
def run(key_pair: KeyPair, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command with the test's keys trusted."""
    monkeypatch.setenv("EDGECLIN_KEYS", str(key_pair.public.parent))

    def invoke(*arguments: object, text: str | None = None) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], input=text)

    return invoke


@pytest.fixture
def config(tmp_path: Path, bundle_path: Path) -> Path:
    path = tmp_path / "device.toml"
    path.write_text(
        f'schema = 1\nsite = "ward"\ndevice = "bed"\nbundle = "{bundle_path}"\n'
        f'source = "{ECG / "data" / "validation.npz"}"\n[queue]\npath = "{tmp_path / "q.sqlite"}"\n'
        "[broker]\nport = 1\n"
    )
    return path


def refused(result: Result, code: int, *words: str) -> None:
    """A one-line error with that exit code, and no traceback."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("edgeclin: ")
    for word in words:
        assert word in lines[0]


def test_profiles_lists_the_ten_boards_and_the_cpu_of_onnx_runtime(run: Run) -> None:
    names = {profile["name"] for profile in json.loads(run("profiles", "--json").output)}
    assert names == {
        "cpu-x86_64",
        "cpu-x86_64-onnx",
        "cpu-arm64",
        "raspberry-pi-4",
        "raspberry-pi-5",
        "coral-usb",
        "coral-dev-board",
        "jetson-xavier-nx",
        "jetson-orin-nano",
        "jetson-agx-orin",
        "jetson-thor",
    }
    assert all(name in run("profiles").output for name in names)
    assert "tflite-edgetpu" in run("profiles", "coral-usb").output


def test_an_unknown_profile_is_refused_with_the_known_ones(run: Run) -> None:
    refused(run("profiles", "coral-9"), 1, "coral-9", "coral-usb")


def test_inspect_shows_what_a_bundle_is_and_who_signed_it(
    run: Run, bundle_path: Path, key_pair: KeyPair
) -> None:
    facts = json.loads(run("inspect", bundle_path, "--json").output)
    assert facts["signed_by"] == key_pair.key_id
    assert facts["manifest"]["name"] == "fake-ecg"
    shown = run("inspect", bundle_path).output
    assert "golden.npz" in shown
    assert key_pair.key_id in shown


def test_a_changed_bundle_is_refused_by_every_command(
    run: Run, bundle_path: Path, config: Path, tmp_path: Path
) -> None:
    data = bytearray(bundle_path.read_bytes())
    data[len(data) // 2] ^= 1
    bundle_path.write_bytes(data)
    sample = tmp_path / "beat.npy"
    np.save(sample, np.zeros(140))
    for command in (
        ("inspect", bundle_path),
        ("verify", bundle_path),
        ("predict", bundle_path, sample),
        ("run", "--config", config),
        ("cloud", "offload", bundle_path),
    ):
        refused(run(*command), 1, str(bundle_path))
    assert not (tmp_path / "q.sqlite").exists()


def test_a_bundle_of_an_unknown_signer_needs_trust(
    run: Run, bundle_path: Path, key_pair: KeyPair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGECLIN_KEYS", str(tmp_path / "empty"))
    refused(run("inspect", bundle_path), 1, "trust")
    assert run("inspect", bundle_path, "--trust", key_pair.public).exit_code == 0
    allowed = run("inspect", bundle_path, "--allow-unsigned")
    assert allowed.exit_code == 0
    assert "NOBODY TRUSTED" in allowed.output


def test_verify_measures_on_real_beats_and_exits_3_when_the_promise_does_not_hold(
    run: Run, bundle_path: Path
) -> None:
    plain = run("verify", bundle_path)
    assert plain.exit_code == 0
    assert "self-test passed" in plain.output
    result = run("verify", bundle_path, "--validation", ECG / "data" / "validation.npz", "--json")
    # The fake engine knows nothing of heartbeats.
    measured = json.loads(result.stdout)["measured"]
    assert measured["samples"] == 150
    assert measured["outcome"] == "broken"
    assert measured["confident_error"] > measured["max_error"]
    assert result.exit_code == 3


def test_predict_takes_a_sample_or_a_data_set(run: Run, bundle_path: Path, tmp_path: Path) -> None:
    data = ECG / "data" / "validation.npz"
    with np.load(data) as arrays:
        np.save(tmp_path / "beat.npy", arrays["X"][5])
    (one,) = json.loads(run("predict", bundle_path, tmp_path / "beat.npy", "--json").output)
    (same,) = json.loads(run("predict", bundle_path, data, "--position", 5, "--json").output)
    assert one["probabilities"] == same["probabilities"]
    assert len(json.loads(run("predict", bundle_path, data, "--json").output)) == 150
    refused(run("predict", bundle_path, data, "--position", 150), 1, "150")
    refused(run("predict", bundle_path, tmp_path / "none.npy"), 1, "no such file")


def test_verify_says_who_signed_what_it_proves(
    run: Run, bundle_path: Path, key_pair: KeyPair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert json.loads(run("verify", bundle_path, "--json").output)["signed_by"] == key_pair.key_id
    assert "every byte as signed; self-test" in run("verify", bundle_path).output
    monkeypatch.setenv("EDGECLIN_KEYS", str(tmp_path / "empty"))
    waived = ("verify", bundle_path, "--allow-unsigned")
    assert json.loads(run(*waived, "--json").output)["signed_by"] is None
    assert "every byte as listed, NOT SIGNED by a trusted key; self-test" in run(*waived).output


def partly_broken(path: Path) -> Path:
    samples = np.zeros((4, 140), np.float32)
    samples[2, 7] = np.nan
    np.savez(path, X=samples)
    return path


def test_predict_answers_all_but_the_samples_that_cannot_be_judged(
    run: Run, bundle_path: Path, tmp_path: Path
) -> None:
    data = partly_broken(tmp_path / "d.npz")
    done = run("predict", bundle_path, data, "--json")
    refused(done, 1, "1 of 4 samples could not be judged")
    results = json.loads(done.stdout)
    assert [result["position"] for result in results] == [0, 1, 2, 3]
    assert [result.get("label") is None for result in results] == [False, False, True, False]
    assert results[2]["state"] == "unreviewed"
    assert "rejected: 1 of 140 values are not finite" in results[2]["reason"]
    shown = run("predict", bundle_path, data)
    refused(shown, 1, "1 of 4 samples could not be judged")
    row = shown.stdout.splitlines()[3]
    assert row.startswith("2 ")
    assert "unreviewed" in row
    assert "not finite" in row
    refused(run("predict", bundle_path, data, "--position", 2), 1, "1 of 1 samples")
    assert run("predict", bundle_path, data, "--position", 3).exit_code == 0


@pytest.mark.parametrize("command", ["predict", "verify", "run"])
def test_images_are_not_judged_as_signals_of_as_many_bytes(
    run: Run, bundle_path: Path, tmp_path: Path, config: Path, command: str
) -> None:
    folder = tmp_path / "images" / "normal"
    folder.mkdir(parents=True)
    for name in ("0.png", "1.png"):
        (folder / name).write_bytes(bytes(range(140)))
    if command == "predict":
        refused(run("predict", bundle_path, folder / "0.png"), 1, "0.png", "decodes them")
    arguments = {
        "predict": (bundle_path, folder.parent),
        "verify": (bundle_path, "--validation", folder.parent),
        "run": ("--config", config, "--source", folder.parent),
    }
    refused(run(command, *arguments[command]), 1, "holds images", "decodes them")


def test_predict_loses_no_sample_to_another_one_s_shape(
    run: Run, bundle_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "beats"
    folder.mkdir()
    for name, size in (("0.txt", 140), ("1.txt", 70), ("2.txt", 140)):
        (folder / name).write_text("0.5\n" * size)
    done = run("predict", bundle_path, folder, "--json")
    refused(done, 1, "1 of 3 samples could not be judged")
    states = [result["state"] for result in json.loads(done.stdout)]
    assert states[1] == "unreviewed"
    assert len(states) == 3
    files = [result["file"] for result in json.loads(done.stdout)]
    assert files == ["0.txt", "1.txt", "2.txt"]
    shown = run("predict", bundle_path, folder).stdout.splitlines()
    assert [line.split()[1] for line in shown[1:]] == files


def test_predict_loses_no_sample_to_a_file_that_cannot_be_read(
    run: Run, bundle_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "beats"
    folder.mkdir()
    (folder / "0.txt").write_text("0.5\n" * 140)
    (folder / "1.txt").write_text("0.5\n" * 139 + "flat\n")
    (folder / "labels.csv").write_text("file,label\n1.txt,a\n0.txt,a\n")
    done = run("predict", bundle_path, folder, "--json")
    refused(done, 1, "1 of 2 samples could not be judged")
    first, second = json.loads(done.stdout)
    assert (first["position"], first["state"]) == (0, "unreviewed")
    assert "1.txt: line 140, cell 1 is not a number" in first["reason"]
    assert second["label"]


@pytest.fixture
def monitor(
    tmp_path: Path, key_pair: KeyPair, manifest_and_files: tuple[Manifest, dict[str, bytes]]
) -> Path:
    """A bundle that judges lead II in windows of 140 samples, one every 70."""
    manifest, files = manifest_and_files
    cut = Input(
        name="ecg",
        kind="signal",
        shape=(140, 1),
        sampling_hz=250.0,
        leads=("II",),
        preprocessing=(Window(length=140, hop=70), Leads(take=(1,)), ZScore()),
    )
    golden = [np.stack([beat, beat], axis=1) for beat in read_golden(files["golden.npz"])[0]]
    outputs = read_golden(files["golden.npz"])[1]
    return write_bundle(
        tmp_path / "monitor.edgeclin",
        msgspec.structs.replace(manifest, inputs=(cut,)),
        files | {"golden.npz": write_golden(golden, outputs)},
        load_signer(key_pair.private),
    )


@pytest.fixture(params=["csv", "wfdb"])
def recordings(request: pytest.FixtureRequest, tmp_path: Path, beats: np.ndarray) -> Path:
    """Leads I and II at 250 Hz: 420 samples, and 100, which are no window."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    signal = beats[:3].reshape(420, 1).astype(np.float64) * [1.0, 0.5]
    if request.param == "csv":
        for name, length in (("1.csv", 420), ("2.csv", 100)):
            text = "\n".join(["time,I,II", *(f"0,{i},{ii}" for i, ii in signal[:length])])
            (folder / name).write_text(text)
        return folder
    wfdb = pytest.importorskip("wfdb", reason="the wfdb extra is not installed")
    for name, length in (("1", 420), ("2", 100)):
        wfdb.wrsamp(
            name, fs=250, units=["mV", "mV"], sig_name=["I", "II"], p_signal=signal[:length],
            fmt=["16", "16"], write_dir=str(folder),
        )  # fmt: skip
    return folder


def test_recordings_are_answered_window_by_window(
    run: Run, monitor: Path, recordings: Path, config: Path
) -> None:
    predicted = run("predict", monitor, recordings, "--json")
    refused(predicted, 1, "1 of 6 samples could not be judged")
    answers = json.loads(predicted.stdout)
    assert [answer["position"] for answer in answers] == [0, 1, 2, 3, 4, 5]
    assert "100 samples, expected a window of 140" in answers[5]["reason"]
    done = run("run", "--config", config, "--bundle", monitor, "--source", recordings, "--json")
    assert done.exit_code == 0, done.output
    stored = [json.loads(line)["result"] for line in done.stdout.splitlines()]
    assert [result.get("probabilities") for result in stored] == [
        answer.get("probabilities") for answer in answers
    ]
    one = next(path for path in sorted(recordings.iterdir()) if path.suffix in (".csv", ".hea"))
    assert len(json.loads(run("predict", monitor, one, "--json").stdout)) == 5
    truth = "\n".join(["file,label", f"{one.name},normal"])
    (recordings / "labels.csv").write_text(truth)
    proof = run("verify", monitor, "--validation", recordings, "--json")
    assert json.loads(proof.stdout)["measured"]["samples"] == 5


def test_a_cine_is_judged_frame_by_frame(
    run: Run,
    config: Path,
    tmp_path: Path,
    key_pair: KeyPair,
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
) -> None:
    """30 frames of JPEG, YBR_FULL_422, of 240 x 320, as pydicom ships them."""
    pytest.importorskip("pydicom", reason="the vision extra is not installed")
    from pydicom.data import get_testdata_file

    manifest, _ = manifest_and_files
    steps = (Resize(height=8, width=8, interpolation="area"), Normalise(scale=1 / 255))
    cine = Input(name="cine", kind="image", shape=(8, 8, 3), preprocessing=steps)
    engine = msgspec.json.encode({"input_shape": [8, 8, 3], "labels": 5, "gain": 8.0})
    frame = np.full((9, 9, 3), 99, np.uint8)
    answer = FakeBackend(engine).run(Preprocess(cine)(frame))
    bundle = write_bundle(
        tmp_path / "cine.edgeclin",
        msgspec.structs.replace(
            manifest,
            inputs=(cine,),
            golden=msgspec.structs.replace(manifest.golden, samples=1),
        ),
        {"engine.json": engine, "golden.npz": write_golden([frame], answer[np.newaxis])},
        load_signer(key_pair.private),
    )
    folder = tmp_path / "cines"
    folder.mkdir()
    shutil.copy(str(get_testdata_file("examples_ybr_color.dcm", download=False)), folder)
    done = run("run", "--config", config, "--bundle", bundle, "--source", folder, "--json")
    assert done.exit_code == 0, done.output
    stored = [json.loads(line)["result"] for line in done.stdout.splitlines()]
    assert [result["position"] for result in stored] == list(range(30))
    assert len({tuple(result["probabilities"]) for result in stored}) > 10
    again = run("run", "--config", config, "--bundle", bundle, "--source", folder, "--json")
    assert "goes on at sample 30" in again.stderr
    assert not again.stdout


def test_recordings_of_other_leads_are_refused_by_every_command(
    run: Run, monitor: Path, tmp_path: Path, config: Path
) -> None:
    folder = tmp_path / "swapped"
    folder.mkdir()
    (folder / "1.csv").write_text("\n".join(["II,I", *["0.5,0.1"] * 140]))
    (folder / "labels.csv").write_text("file,label\n1.csv,normal\n")
    for command in (
        ("predict", monitor, folder),
        ("verify", monitor, "--validation", folder),
        ("run", "--config", config, "--bundle", monitor, "--source", folder),
    ):
        refused(run(*command), 1, "swapped", "its leads give I, the model is described for II")


@pytest.mark.parametrize("command", ["predict", "verify"])
def test_a_data_set_of_the_wrong_shape_is_refused_before_the_first_row(
    run: Run, bundle_path: Path, tmp_path: Path, command: str
) -> None:
    data = tmp_path / "d.npz"
    np.savez(data, X=np.zeros((5, 100)), y=np.zeros(5, int))
    arguments = (data,) if command == "predict" else ("--validation", data)
    done = run(command, bundle_path, *arguments)
    refused(done, 1, "d.npz", "[100]", "[140, 1]")
    assert not done.stdout


def test_run_puts_nothing_into_the_queue_of_a_data_set_of_the_wrong_shape(
    run: Run, config: Path, tmp_path: Path
) -> None:
    data = tmp_path / "d.npz"
    np.savez(data, X=np.zeros((5, 100)))
    refused(run("run", "--config", config, "--source", data), 1, "d.npz", "[100]", "[140, 1]")
    refused(run("queue", "status", "--config", config), 1, "no queue there yet")


def test_run_fills_the_queue_and_status_shows_it(run: Run, config: Path) -> None:
    refused(run("queue", "status", "--config", config), 1, "no queue there yet")
    done = run("run", "--config", config)
    assert done.exit_code == 0, done.output
    assert "150" in done.output
    status = json.loads(run("queue", "status", "--config", config, "--json").output)
    assert sum(status["waiting"][tier]["count"] for tier in ("urgent", "routine", "bulk")) == 150
    again = run("run", "--config", config)
    assert again.exit_code == 0
    assert "goes on at sample 150; those before it are judged" in again.stderr
    status = json.loads(run("queue", "status", "--config", config, "--json").output)
    assert status["last_seq"] == 150
    said = run("queue", "status", "--config", config).output
    assert re.search(r"written to the disk +\d+\.\d MB by run since its start", said)


def fed(config: Path, key_pair: KeyPair, text: bytes) -> bytes:
    """What `run` prints for lines on a real standard input."""
    command = [sys.executable, "-m", "edgeclin", "run", "--config", str(config), "--source", "-"]
    command += ["--json", "--trust", str(key_pair.public)]
    return subprocess.run(command, input=text, capture_output=True, check=True).stdout


def test_run_reads_json_lines_and_prints_results_as_lines(config: Path, key_pair: KeyPair) -> None:
    beat = json.dumps([float(value) for value in range(140)])
    done = fed(config, key_pair, f"{beat}\noops\n{beat}\n".encode())
    results = [json.loads(line) for line in done.splitlines()]
    assert [line["result"]["position"] for line in results] == [0, 1, 2]
    assert results[1]["result"]["state"] == "unreviewed"
    assert "rejected" in results[1]["result"]["reason"]


def test_a_line_that_is_no_text_is_a_sample_that_cannot_be_judged(
    config: Path, key_pair: KeyPair
) -> None:
    beat = json.dumps([0.0] * 140).encode()
    done = fed(config, key_pair, beat + b"\n\xff\xfe\x00\n" + beat + b"\n")
    states = [json.loads(line)["result"]["state"] for line in done.splitlines()]
    assert states[1] == "unreviewed"
    assert len(states) == 3


@pytest.mark.parametrize(
    ("redirection", "words"),
    [("<&-", "standard input is closed"), ("0> /dev/null", "stdin: cannot be read")],
)
def test_a_standard_input_that_cannot_be_read_is_one_sentence(
    config: Path, key_pair: KeyPair, redirection: str, words: str
) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "edgeclin", "run",
         "--config", str(config), "--source", "-", "--trust", str(key_pair.public)],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("edgeclin: ")
    assert words in line


def test_sync_waits_for_a_broker_that_is_not_there_and_ends_on_sigterm(
    run: Run, config: Path
) -> None:
    assert run("run", "--config", config).exit_code == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeclin", "sync", "--config", str(config), "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert json.loads(output) == {"delivered": 0, "reviews": 0}


def test_run_ends_on_ctrl_c_though_standard_input_is_silent(
    config: Path, key_pair: KeyPair
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeclin", "run", "--config", str(config), "--source", "-",
         "--trust", str(key_pair.public), "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps([float(value) for value in range(140)]) + "\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["seq"] == 1
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    process.stdin.close()
    process.stdout.close()


@pytest.mark.parametrize("command", ["run", "sync"])
def test_a_second_process_in_the_same_role_is_refused(
    run: Run, config: Path, tmp_path: Path, command: str
) -> None:
    from edgeclin.offline_queue import OfflineQueue

    with OfflineQueue(tmp_path / "q.sqlite") as queue, queue.claim(command):
        refused(run(command, "--config", config), 4, f"another `edgeclin {command}`")
    assert queue_is_empty(run, config)


def queue_is_empty(run: Run, config: Path) -> bool:
    status = json.loads(run("queue", "status", "--config", config, "--json").output)
    return not any(entry["count"] for entry in status["waiting"].values())


def test_a_target_that_cannot_be_written_is_one_sentence(run: Run, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    refused(run("describe", ECG / "edge.keras", "-o", blocked / "model.toml"), 1, "model.toml")


def test_a_rate_or_number_of_threads_below_its_least_is_wrong_usage(run: Run, config: Path) -> None:
    for option in (("--rate", "-5"), ("--rate", "1e-12"), ("--rate", "nan"), ("--threads", "0")):
        assert run("run", "--config", config, *option).exit_code == 2


@pytest.mark.parametrize("command", [["profiles"], ["--help"], ["keys", "list", "--json"]])
def test_a_full_standard_output_is_one_sentence(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edgeclin", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "edgeclin: standard output cannot be written (No space left on device)\n"
    )


@pytest.mark.parametrize("command", ["run", "sync", "queue status"])
def test_a_wrong_configuration_is_one_sentence(run: Run, config: Path, command: str) -> None:
    config.write_text(config.read_text() + "\n[sinc]\n")
    refused(run(*command.split(), "--config", config), 1, "device.toml", "sinc")
    refused(run(*command.split(), "--config", config.with_name("no.toml")), 1, "no such file")


def test_wrong_usage_is_exit_2(run: Run) -> None:
    assert run("convert").exit_code == 2
    assert run("no-such-command").exit_code == 2
    assert run("cloud", "ingest", "--store", "x", "--broker", "nonsense").exit_code == 2


def test_keys_are_made_once_and_listed(run: Run, tmp_path: Path) -> None:
    made = json.loads(run("keys", "new", "--folder", tmp_path, "--json").output)
    assert oct(Path(made["private"]).stat().st_mode & 0o777) == "0o600"
    refused(run("keys", "new", "--folder", tmp_path), 1, "exists")
    refused(run("keys", "new", "--folder", tmp_path / "a", "--name", "../evil"), 1, "'../evil'")
    assert not (tmp_path / "a").exists()
    (listed,) = json.loads(run("keys", "list", "--folder", tmp_path, "--json").output)
    assert listed == {"public": made["public"], "id": made["id"]}


def test_describe_writes_a_starter_and_overwrites_nothing(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "model.toml"
    assert "FILL IN" in run("describe", ECG / "edge.keras").output
    assert run("describe", ECG / "edge.keras", "-o", target).exit_code == 0
    assert "FILL IN" in target.read_text()
    refused(run("describe", ECG / "edge.keras", "-o", target), 1, "exists")
    refused(run("describe", ECG / "data" / "test.npz"), 1, "zip file without a Keras 3 model")


def test_doctor_tells_facts_and_what_to_install(run: Run, config: Path) -> None:
    findings = {entry["what"]: entry for entry in json.loads(run("doctor", "--json").output)}
    assert findings["edgeclin"]["status"] == "ok"
    assert "fake" not in findings["backends"]["detail"].split(", ")
    assert all(
        e["remedy"] or "not found" in e["detail"]
        for e in findings.values()
        if e["status"] == "missing"
    )
    with_config = run("doctor", "--config", config)
    assert with_config.exit_code == 4
    assert "127.0.0.1:1" in with_config.output


def test_doctor_names_what_it_may_not_read(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    config = tmp_path / "device.toml"
    config.write_text(
        f'schema = 1\nsite = "a"\ndevice = "b"\nbundle = "{folder}/b.edgeclin"\n'
        f'trusted_keys = ["{folder}/k.pub"]\n[queue]\npath = "{folder}/queue/q.sqlite"\n'
        '[broker]\nhost = "a..b"\nplaintext = true\n'
    )
    run("doctor", "--config", config)  # its imports, which may be out of reach later
    with closed(folder):
        done = run("doctor", "--config", config, "--json")
    assert done.exit_code == 4
    wrong = {
        entry["what"]: entry["detail"]
        for entry in json.loads(done.output)
        if entry["status"] == "wrong"
    }
    assert set(wrong) == {"disk", "keys", "broker", "bundle"}
    for what in ("disk", "keys", "bundle"):
        assert str(folder) in wrong[what]
        assert "Permission denied" in wrong[what]


def test_a_folder_that_cannot_be_written_is_one_sentence(run: Run, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        blocked = tmp_path / "file"
        blocked.write_text("")
        target = blocked / "keys"
    else:
        target = tmp_path / "locked" / "keys"
        target.parent.mkdir(mode=0o500)
    refused(run("keys", "new", "--folder", target), 1, str(target))


def test_what_may_not_be_read_is_one_sentence_of_every_command(
    run: Run, bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECLIN_KEYS", "/none")
    folder = tmp_path / "closed"
    folder.mkdir()
    shutil.copy(bundle_path, folder / "b.edgeclin")
    shutil.copy(ECG / "data" / "validation.npz", folder / "d.npz")
    commands = (
        ("inspect", folder / "b.edgeclin"),
        ("predict", bundle_path, folder / "d.npz"),
        ("profiles", folder / "own.toml"),
        ("keys", "list", "--folder", folder),
        ("keys", "new", "--folder", folder),
    )
    for command in commands[:-1]:
        run(*command)  # imports what it needs
    for command in commands:
        with closed(folder):
            done = run(*command)
        refused(done, 1, str(folder), "Permission denied")


def test_a_permission_that_nobody_asked_about_is_one_sentence_all_the_same(tmp_path: Path) -> None:
    @click.group(cls=type(main))
    def group() -> None: ...

    @group.command()
    def look() -> None:
        (tmp_path / "closed" / "file").exists()

    (tmp_path / "closed").mkdir()
    with closed(tmp_path / "closed"):
        done = CliRunner().invoke(group, ["look"])
    refused(done, 1, str(tmp_path / "closed" / "file"), "no permission to read or write it")


def test_a_permission_without_a_file_stays_a_bug() -> None:
    @click.group(cls=type(main))
    def group() -> None: ...

    @group.command()
    def kill() -> None:
        raise PermissionError(1, "Operation not permitted")

    assert isinstance(CliRunner().invoke(group, ["kill"]).exception, PermissionError)


def test_a_report_of_no_store_is_refused(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("ibis", reason="the cloud extra is not installed")
    refused(run("cloud", "report", "--store", tmp_path / "none"), 1, "no store there")
    assert not (tmp_path / "none").exists()


def test_the_installed_program_is_the_same(bundle_path: Path, key_pair: KeyPair) -> None:
    program = shutil.which("edgeclin", path=str(Path(sys.executable).parent))
    assert program is not None
    done = subprocess.run(
        [program, "inspect", str(bundle_path), "--trust", str(key_pair.public)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "fake-ecg" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_says_so_in_one_line_and_cleans_up(
    run: Run, bundle_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    cleaned: list[bool] = []

    def stopped(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            cleaned.append(True)

    monkeypatch.setattr("edgeclin.runtime.Runtime.self_test", stopped)
    before = signal.getsignal(number)
    done = run("verify", bundle_path)
    assert (done.exit_code, done.stderr) == (
        128 + number,
        f"edgeclin: stopped by {number.name}\n",
    )
    assert cleaned == [True]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_two_signals_close_together_are_one(
    run: Run, bundle_path: Path, monkeypatch: pytest.MonkeyPatch, second: signal.Signals
) -> None:
    """`timeout` signals its child and then the whole group; a terminal that closes does too."""
    cleaned: list[bool] = []

    def stopped(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), second)
            time.sleep(0.01)
            cleaned.append(True)

    monkeypatch.setattr("edgeclin.runtime.Runtime.self_test", stopped)
    done = run("verify", bundle_path)
    assert (done.exit_code, done.stderr) == (143, "edgeclin: stopped by SIGTERM\n")
    assert cleaned == [True]


@pytest.mark.parametrize(("first", "nohup", "code"), [("HUP", "", 129), ("HUP", "nohup", -9)])
def test_a_terminal_that_closes_stops_a_command_but_for_nohup(
    tmp_path: Path, first: str, nohup: str, code: int
) -> None:
    program = (
        "import os, signal, time\n"
        "from edgeclin.cli.signals import stopping\n"
        f"{'' if nohup else 'signal.signal(signal.SIGHUP, signal.SIG_DFL)'}\n"
        "with stopping():\n"
        f"    os.kill(os.getpid(), signal.SIG{first})\n"
        "    time.sleep(0.1)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [*nohup.split(), sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == code


def test_a_signal_that_the_parent_ignored_stays_ignored() -> None:
    """A shell without job control starts what ends in `&` so: Ctrl-C is for the others."""
    program = (
        "import os, signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from edgeclin.cli.signals import stop_event\n"
        "stop = stop_event()\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "assert not stop.wait(0.5)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "assert stop.wait(10)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=30, check=False)
    assert done.returncode == 0


def test_a_command_hears_the_first_signal_in_native_code_and_a_later_one_ends_it() -> None:
    program = (
        "import hashlib, os\n"
        "from edgeclin.cli import signals\n"
        "signals._TOGETHER_S = 0.05\n"
        "signals.on_stop(lambda: os.write(1, b'told\\n'))\n"
        "print('in native code', flush=True)\n"
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in native code\n"
        time.sleep(0.2)
        process.terminate()
        assert process.stdout.readline() == b"told\n"
        time.sleep(0.5)
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM


def test_a_signal_finds_no_lock_held_by_the_thread_that_it_stops() -> None:
    """Which waits for an event: setting it in a handler would wait for that thread."""
    program = (
        "import os, signal\n"
        "from edgeclin.cli import signals\n"
        "stop = signals.stop_event()\n"
        "with stop._cond:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "assert stop.wait(10)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=30, check=False)
    assert done.returncode == 0


def test_a_signal_that_comes_later_insists() -> None:
    program = (
        "import os, signal, time\n"
        "from edgeclin.cli import signals\n"
        "signals._TOGETHER_S = 0.05\n"
        "signals.on_stop(lambda: None)\n"
        "for _ in range(2):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(0.2)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGTERM


def test_a_file_that_cannot_be_read_is_no_wrong_usage(run: Run, config: Path) -> None:
    with closed(config):
        done = run("run", "--config", config)
    refused(done, 1, f"{config}: cannot be read (Permission denied)")


@pytest.mark.parametrize("then", ["another error", "a service"])
def test_a_signal_that_an_import_swallows_still_stops_the_command(
    run: Run, bundle_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """Python makes an ImportError of a SystemExit in an extension that initialises itself."""

    def swallowing(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except SystemExit as exc:
            if then == "another error":
                raise MissingExtra("LiteRT", "tflite") from exc
        on_stop(lambda: None)
        pytest.fail("it serves though it was told to stop")

    monkeypatch.setattr("edgeclin.runtime.Runtime.self_test", swallowing)
    done = run("verify", bundle_path)
    assert (done.exit_code, done.stderr) == (143, "edgeclin: stopped by SIGTERM\n")


def test_run_judges_where_nobody_can_be_told_anything(
    tmp_path: Path, config: Path, key_pair: KeyPair, beats: np.ndarray
) -> None:
    command = [
        sys.executable, "-m", "edgeclin", "run", "--config", str(config), "--rate", "200",
        "--source", str(tmp_path / "many.npz"), "--trust", str(key_pair.public),
    ]  # fmt: skip
    np.savez(tmp_path / "many.npz", X=beats[:80])
    for _ in range(2):  # the second one goes on in the middle, and would say so
        with Path("/dev/full").open("wb") as full:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=full)
            time.sleep(1.5)
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0
    counted = CliRunner().invoke(main, ["queue", "status", "--config", str(config)])
    assert "last sequence number  80" in counted.output
