"""A benchmark measures what happens, says what it could not, and ends well."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest
from broker import LocalBroker, find_mosquitto
from click.testing import CliRunner, Result
from conftest import ECG
from polling import wait_until

from edgeclin.backends.fake import FakeBackend
from edgeclin.benchmark import fresh
from edgeclin.benchmark.comparison import BLOCK, Sides, bare_call, compare, engine_input, in_turn
from edgeclin.benchmark.inputs import Inputs, load_inputs
from edgeclin.benchmark.opinions import Asking, broker_of
from edgeclin.benchmark.scenarios import Arrivals, multi_stream, offline, single_stream
from edgeclin.benchmark.storing import Storing
from edgeclin.benchmark.taking import Limit
from edgeclin.bundle import Bundle, write_bundle
from edgeclin.cli import main
from edgeclin.cloud.offload import Offload
from edgeclin.config import is_loopback
from edgeclin.errors import EdgeclinError, EngineUnavailable, QueueFull
from edgeclin.golden import write_golden
from edgeclin.keys import KeyPair, load_signer
from edgeclin.manifest import Difference, Engine, Golden, Manifest
from edgeclin.offline_queue import OfflineQueue
from edgeclin.offline_queue.standing import look
from edgeclin.preprocess import Preprocess
from edgeclin.runtime import Runtime
from edgeclin.transport.memory import MemoryBroker
from edgeclin.transport.mqtt import MQTTTransport

DATA = Path(__file__).parent / "data"
Run = Callable[..., Result]


class Slow(FakeBackend):
    """An engine that takes its time."""

    seconds = 0.0

    def run(self, sample: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds)
        return super().run(sample)


@pytest.fixture
def slow(bundle: Bundle) -> tuple[Runtime, Slow]:
    backend = Slow(bundle.read("engine.json"))
    return Runtime(bundle, backend), backend


@pytest.fixture
def inputs(slow: tuple[Runtime, Slow]) -> Inputs:
    return load_inputs(slow[0], None)


@pytest.fixture
def storing(tmp_path: Path) -> Iterator[Storing]:
    with Storing(tmp_path) as opened:
        yield opened


def limit(seconds: float = 60.0, samples: int | None = None) -> Limit:
    return Limit(seconds, samples, threading.Event())


@pytest.fixture
def run(key_pair: KeyPair, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `edgeclin benchmark` with the test's keys trusted."""
    monkeypatch.setenv("EDGECLIN_KEYS", str(key_pair.public.parent))

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(main, ["benchmark", *map(str, arguments)])

    return invoke


@pytest.fixture(scope="module")
def real_path(
    tmp_path_factory: pytest.TempPathFactory,
    beats: np.ndarray,
    key_pair: KeyPair,
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
) -> Path:
    """A signed bundle with a real engine."""
    pytest.importorskip("ai_edge_litert", reason="the tflite extra is not installed")
    from edgeclin.backends.tflite import TFLiteBackend

    manifest, _ = manifest_and_files
    model = (DATA / "ecg_int8.tflite").read_bytes()
    preprocess, backend = Preprocess(manifest.inputs[0]), TFLiteBackend(model)
    samples = [np.asarray(beat) for beat in beats[:4]]
    outputs = np.stack([backend.run(preprocess(sample)) for sample in samples])
    changed = msgspec.structs.replace(
        manifest,
        name="real-ecg",
        engines=(Engine(backend="tflite", file="engine.tflite", precision="int8"),),
        golden=Golden(file="golden.npz", samples=4, tolerance=Difference(1e-3, 1e-4)),
    )
    files = {"engine.tflite": model, "golden.npz": write_golden(samples, outputs)}
    path = tmp_path_factory.mktemp("real") / "real.edgeclin"
    return write_bundle(path, changed, files, load_signer(key_pair.private))


# -- scenarios -------------------------------------------------------------------------------------


def test_steps_of_a_sample_add_up_to_its_latency(
    slow: tuple[Runtime, Slow], inputs: Inputs, storing: Storing
) -> None:
    runtime, backend = slow
    backend.seconds = 0.002
    taken = single_stream(runtime, inputs, storing, limit(samples=20))
    assert len(taken.stored) == 20
    assert sum(step.mean_ms for step in taken.means()) == pytest.approx(
        np.mean(taken.stored), rel=0.01
    )
    assert min(taken.steps["engine"]) >= 2.0
    assert all(stored > answer for stored, answer in zip(taken.stored, taken.answer, strict=True))
    assert min(taken.steps["storing"]) > 0
    assert storing.queue.next_position("benchmark", runtime.bundle.digest) == 20


def test_a_queue_that_nobody_delivered_gives_no_figures(tmp_path: Path) -> None:
    storing = Storing(tmp_path)
    storing._delivering.kill()
    with pytest.raises(EngineUnavailable, match="ended meanwhile, with status -9: measure again"):
        storing.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), Storing(tmp_path) as storing:
        storing._delivering.kill()
        raise ZeroDivisionError


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream"])
def test_a_full_disk_ends_a_benchmark(
    run: Run, bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise QueueFull("queue.sqlite: the disk is full")

    monkeypatch.setattr(OfflineQueue, "put", full)
    ended = run(bundle_path, "--scenario", scenario, "--samples", 20, "--queue", tmp_path)
    assert ended.exit_code != 0
    assert ended.stderr.endswith("edgeclin: queue.sqlite: the disk is full\n")
    assert not list(tmp_path.glob(".edgeclin-benchmark-*"))


def test_a_page_is_written_over_nothing_but_a_page(
    run: Run, bundle_path: Path, tmp_path: Path
) -> None:
    before = bundle_path.read_bytes()
    refused = run(bundle_path, "--scenario", "offline", "--samples", 20, "-o", bundle_path)
    assert refused.exit_code == 1
    assert "exists and is no page; name another file" in refused.stderr
    assert bundle_path.read_bytes() == before


def test_a_queue_that_cannot_be_made_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "none"))
    with pytest.raises(OSError, match="none"):
        Storing(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_sample_that_waits_for_others_counts_from_its_scheduled_arrival(
    slow: tuple[Runtime, Slow], inputs: Inputs, storing: Storing
) -> None:
    """Twice as many as can be judged: a loop that sends after each answer would not see it."""
    runtime, backend = slow
    backend.seconds = 0.02
    taken = multi_stream(runtime, inputs, storing, limit(samples=8), streams=1, rate_hz=100.0)
    assert len(taken.stored) == 8
    assert taken.unanswered == 0
    assert taken.stored[-1] > 7 * 10 + 20 - 10  # waits 10 ms more than the one before
    assert taken.stored[0] < taken.stored[-1]
    assert taken.steps["waiting"][-1] > 50


def test_what_a_stream_cannot_hold_is_unanswered_and_not_forgotten(
    slow: tuple[Runtime, Slow], inputs: Inputs, storing: Storing
) -> None:
    runtime, backend = slow
    backend.seconds = 0.05
    taken = multi_stream(runtime, inputs, storing, limit(samples=40), streams=1, rate_hz=400.0)
    assert taken.unanswered > 10
    assert len(taken.stored) + taken.unanswered == 40
    (answered, *_) = taken.series()
    assert answered.latency.n == 40
    assert answered.latency.at(0.5).value_ms is None


def test_streams_keep_their_rate_and_begin_at_moments_of_their_own(inputs: Inputs) -> None:
    arrivals = Arrivals(inputs, limit(), streams=20, rate_hz=50.0)
    first = [arrivals.due(f"benchmark/{stream}", 0) for stream in range(20)]
    assert len({round(due, 6) for due in first}) == 20
    assert first == sorted(first)
    assert 0 <= first[0] < first[-1] < 1 / 50
    assert arrivals.due("benchmark/3", 7) - first[3] == pytest.approx(7 / 50)


def test_offline_counts_what_is_answered_in_a_time(
    slow: tuple[Runtime, Slow], inputs: Inputs
) -> None:
    runtime, backend = slow
    backend.seconds = 0.005
    found = offline(runtime, inputs, limit(samples=50))
    assert found.samples == 50
    assert 50 < found.value <= 200
    assert found.low is not None
    assert found.low <= found.value
    assert offline(runtime, inputs, limit(samples=5)).low is None


def _empty(tmp_path: Path) -> Path:
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


def test_a_benchmark_s_queue_is_emptied_on_the_way_and_goes_away(
    tmp_path: Path, slow: tuple[Runtime, Slow], inputs: Inputs
) -> None:
    with Storing(folder := _empty(tmp_path)) as storing:
        single_stream(slow[0], inputs, storing, limit(samples=1200))
        waiting = sum(usage.count for usage in storing.queue.usage().values())
        assert waiting < 1000
    assert list(folder.iterdir()) == []


def test_a_stopped_scenario_ends_with_what_it_has(
    slow: tuple[Runtime, Slow], inputs: Inputs, storing: Storing
) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    taken = multi_stream(slow[0], inputs, storing, Limit(60, None, stop), 2, 20.0)
    assert 1 <= len(taken.stored) < 100


# -- against others --------------------------------------------------------------------------------


def test_both_sides_take_turns_and_their_ratio_has_an_interval() -> None:
    order: list[str] = []
    sides = in_turn(
        lambda: (order.append("ours"), time.sleep(0.002)),
        lambda: (order.append("bare"), time.sleep(0.001)),
        limit(samples=2 * BLOCK * 10),
    )
    assert order[: 2 * BLOCK + 2] == ["ours"] * (BLOCK + 1) + ["bare"] * (BLOCK + 1)
    assert order[2 * BLOCK + 2] == "bare"  # who begins changes
    found = compare(sides)
    assert found.ratio is not None
    assert found.above_us is not None
    assert found.ratio.low <= found.ratio.value <= found.ratio.high
    assert 1.1 < found.ratio.value < 2.5
    assert found.above_us.value > 0
    assert found.edgeclin.n == found.bare.n == 80


def test_few_blocks_give_no_ratio() -> None:
    found = compare(Sides([[1.0]] * 7, [[1.0]] * 7))
    assert found.ratio is None
    assert compare(Sides()).bare.n == 0


def test_the_bare_engine_answers_as_the_backend_does(real_path: Path) -> None:
    runtime = Runtime(Bundle.open(real_path, allow_unsigned=True))
    sample = load_inputs(runtime, None)[2]
    given = engine_input(runtime, sample)
    assert given.dtype == runtime.backend.input.dtype
    wanted = runtime.backend.run(runtime.preprocess(sample))
    (got,) = bare_call(runtime, sample, 1)()
    spec = runtime.backend.output
    if spec.scale is not None:
        got = (got.astype(np.float32) - spec.zero_point) * np.float32(spec.scale)
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_a_backend_without_a_bare_call_is_named(slow: tuple[Runtime, Slow]) -> None:
    with pytest.raises(EngineUnavailable, match="no bare call of the backend fake"):
        bare_call(slow[0], np.zeros(140), 1)


def test_opinions_are_asked_for_one_after_another(
    slow: tuple[Runtime, Slow], inputs: Inputs
) -> None:
    runtime, backend = slow
    backend.seconds = 0.003
    broker = MemoryBroker()
    worker = Offload(runtime, broker.transport())
    worker.open()
    asking = Asking(broker.transport(), "mqtt://there")
    trips, latencies = asking.run(inputs, "b" * 64, limit(samples=10), loopback=False)
    assert worker.answered == trips.latency.n == 10
    assert min(latencies) >= 3.0
    assert trips.model == runtime.bundle.digest
    assert trips.refused == 0
    assert trips.sample_bytes == inputs[0].nbytes
    assert trips.up_bytes > 50
    assert trips.down_bytes > 50


def test_nobody_at_the_broker_is_said(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeclin.benchmark.opinions._ANSWER_S", 0.1)
    asking = Asking(MemoryBroker().transport(), "mqtt://there")
    with pytest.raises(EngineUnavailable, match=r"mqtt://there: nobody answers .* cloud offload"):
        asking.run(inputs, "b" * 64, limit(samples=3), loopback=False)


@pytest.mark.mosquitto
@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
def test_opinions_come_through_a_real_broker(
    slow: tuple[Runtime, Slow], inputs: Inputs, tmp_path: Path
) -> None:
    server = LocalBroker(tmp_path, "mosquitto").start()
    broker = broker_of(f"mqtt://127.0.0.1:{server.port}", None, None, None, plaintext=False)
    worker = Offload(slow[0], MQTTTransport(broker, "worker"))
    asking = Asking(MQTTTransport(broker, "asking"), "mqtt://127.0.0.1")
    try:
        worker.open()
        deadline = time.monotonic() + 10
        while not worker._transport.connected and time.monotonic() < deadline:
            time.sleep(0.01)
        trips, _ = asking.run(inputs, "b" * 64, limit(samples=8), loopback=True)
    finally:
        asking.close()
        worker.close()
        server.stop()
    assert (trips.latency.n, trips.latency.unanswered) == (8, 0)
    assert trips.latency.at(0.5).value_ms is not None


@pytest.mark.parametrize(
    "url", ["http://a:1883", "mqtt://", "mqtt://a:x", "mqtt://a/topic", "beare", "mqtt://a:99999"]
)
def test_what_is_no_broker_is_refused(url: str) -> None:
    with pytest.raises(EdgeclinError, match="mqtt://HOST:PORT"):
        broker_of(url, None, None, None, plaintext=False)


def test_a_broker_on_this_machine_is_known_as_such() -> None:
    assert broker_of("mqtt://ward.example", None, None, None, plaintext=False).port == 1883
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("192.0.2.1")
    assert not is_loopback("broker.example")


# -- fresh processes -------------------------------------------------------------------------------


def test_first_answers_and_memory_come_from_fresh_processes(
    real_path: Path, key_pair: KeyPair, tmp_path: Path, beats: np.ndarray
) -> None:
    runtime = Runtime(Bundle.open(real_path, allow_unsigned=True))
    raw, ready, model = tmp_path / "raw.npy", tmp_path / "ready.npy", tmp_path / "model"
    np.save(raw, beats[0])
    np.save(ready, engine_input(runtime, beats[0]))
    model.write_bytes(runtime.bundle.read("engine.tflite"))
    commands = {
        "edgeclin": fresh.ours(real_path, raw, 1, [key_pair.public], allow_unsigned=False),
        "bare engine": fresh.bare("tflite", model, ready, 1),
    }
    found = {start.name: start for start in fresh.starts(commands, limit())}
    for start in found.values():
        assert start.first.n == fresh.PROCESSES
        assert 0 < start.interpreter.min_ms < start.ready.min_ms < start.first.max_ms
        assert 10 < start.rss_mb.low <= start.rss_mb.high <= start.peak_mb.high < 1000
    assert found["edgeclin"].rss_mb.median > found["bare engine"].rss_mb.median


def test_the_bare_process_loads_nothing_of_edgeclin(real_path: Path, tmp_path: Path) -> None:
    program = (
        "import runpy, sys; sys.argv[1:] = []\n"
        f"runpy.run_path({fresh.bare('tflite', tmp_path, tmp_path, 1)[0]!r}, run_name='bare')\n"
        "assert not [name for name in sys.modules if name.startswith('edgeclin')]"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_fresh_process_that_fails_is_named(bundle_path: Path, tmp_path: Path) -> None:
    commands = {"edgeclin": fresh.ours(bundle_path, tmp_path / "none.npy", 1, [], True)}
    with pytest.raises(EngineUnavailable, match=r"fresh process \(edgeclin\) failed: .*none\.npy"):
        fresh.starts(commands, limit())


# -- the command -----------------------------------------------------------------------------------


def test_a_report_tells_all_of_it(run: Run, real_path: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = run(
        real_path, "--data", ECG / "data" / "validation.npz", "--samples", 60, "--against", "bare",
        "--json", "-o", page, "--queue", tmp_path,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    scenarios = {one["name"]: one for one in report["scenarios"]}
    assert list(scenarios) == ["single-stream", "multi-stream", "offline"]
    assert all(one["samples"] == 60 for one in scenarios.values())
    steps = {step["name"] for step in scenarios["single-stream"]["steps"]}
    assert {"preprocess", "engine", "postprocess", "storing"} <= steps
    assert "waiting" in {step["name"] for step in scenarios["multi-stream"]["steps"]}
    assert scenarios["offline"]["rate"]["value"] > 0
    answered = scenarios["single-stream"]["series"][0]["latency"]
    by_q = {one["q"]: one for one in answered["percentiles"]}
    assert by_q[0.5]["value_ms"] > 0
    assert by_q[0.99]["value_ms"] is None
    assert by_q[0.99]["needs"] == 528
    assert {start["name"] for start in report["starts"]} == {"edgeclin", "bare engine"}
    assert report["comparison"]["bare"]["n"] >= 24
    assert "validation.npz" in report["inputs"]
    assert report["machine"]["cpu"]
    assert "profile cpu-x86_64 has neither" in report["cost"]
    assert not report["stopped"]
    text = page.read_text()
    assert text.count("<svg") == 3
    assert "too few samples (60, needs 528)" in text
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", text)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_golden_samples_serve_where_there_are_no_others_and_it_is_said(
    run: Run, bundle_path: Path
) -> None:
    done = run(bundle_path, "--samples", 9, "--scenario", "single-stream", "--against", "bare")
    assert done.exit_code == 0, done.output
    assert "the bundle's own 4 golden samples" in done.output
    assert "too few samples (9, needs 51)" in done.output
    assert "not measured: " in done.output
    assert "no bare call of the backend fake" in done.output
    assert "gives no profile of operators" in done.output
    assert "multi-stream" not in done.output


def test_deadlines_that_are_missed_are_counted(run: Run, bundle_path: Path) -> None:
    done = run(bundle_path, "--samples", 9, "--scenario", "single-stream", "--deadline", 0.001)
    assert "9 of 9 missed the deadline of 0.001 ms" in done.output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--samples", 3, "--duration", 1), 2, "not both"),
        (("--scenario", "server"), 2, "single-stream"),
        (("--rate", 0), 2, "--rate"),
        (("--streams", 0), 2, "--streams"),
        (("--against", "nothing"), 1, "mqtt://HOST:PORT"),
        (("--data", "none.npz"), 1, "none.npz"),
        (("-o", "none/report.html"), 1, "none"),
        (("--queue", "none"), 1, "none"),
        (("--trust", "none.pub"), 1, "none.pub"),
    ],
)
def test_wrong_arguments_are_one_line(
    run: Run, bundle_path: Path, arguments: tuple[object, ...], code: int, words: str
) -> None:
    done = run(bundle_path, *arguments)
    assert done.exit_code == code
    assert words in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.output


def test_an_unsigned_bundle_is_measured_only_when_allowed(
    run: Run, bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECLIN_KEYS", str(tmp_path / "nothing"))
    few = (bundle_path, "--samples", 3, "--scenario", "offline")
    assert run(*few).exit_code == 1
    done = run(*few, "--allow-unsigned")
    assert done.exit_code == 0, done.output
    assert "not signed by a trusted key" in done.output


def test_ctrl_c_tells_what_was_measured_and_leaves_no_half_a_file(
    bundle_path: Path, key_pair: KeyPair, tmp_path: Path
) -> None:
    page, queue = tmp_path / "report.html", tmp_path / "queue"
    queue.mkdir()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "edgeclin", "benchmark", str(bundle_path), "--duration", "60",
            "--json", "-o", str(page), "--trust", str(key_pair.public), "--queue", str(queue),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def stored() -> bool:
        with suppress(EdgeclinError):
            return any(look(file).last_seq > 50 for file in queue.rglob("*.sqlite"))
        return False

    wait_until(stored, "the first answers are stored", 60)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    report = json.loads(out)
    assert report["stopped"]
    (scenario,) = report["scenarios"]
    assert scenario["samples"] > 0
    assert report["starts"] == []
    assert "Stopped before its time" in page.read_text()
    assert list(queue.iterdir()) == []
