"""Whatever the engine does, each sample has one result, and it says what answered and why."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from bedsides import PICTURE, Scripted, bundle_of, stored_results
from click.testing import CliRunner
from polling import wait_until
from unsound_engine import SHAPES

from edgeclin import failover
from edgeclin.backends.base import TensorSpec
from edgeclin.bedside import Bedside
from edgeclin.bundle import Bundle
from edgeclin.cli import device, main
from edgeclin.cli import run as cli_run
from edgeclin.config import DEADLINE_MOST_MS, IsolationConfig
from edgeclin.errors import BadInput, EngineFailed, EngineUnavailable, SelfTestFailed
from edgeclin.failover import Failover
from edgeclin.inbox import Inbox
from edgeclin.manifest import Difference, Manifest
from edgeclin.offline_queue import OfflineQueue
from edgeclin.runtime import Runtime
from edgeclin.watchdog import Watchdog

LONG_S = 60.0
PRIMARY, TWIN = "unsound float32: unsound 1", "unsound-twin float32: unsound-twin 1"
ISOLATION = IsolationConfig(deadline_ms=1000, restart_most_s=0.1)
Engines = Callable[..., Bundle]
Isolate = Callable[..., Runtime]


@pytest.fixture
def isolate(unsound: Path, engines_of: Engines) -> Iterator[Isolate]:
    """Runtimes of isolated engines, by default an unsound one and an unsound twin."""
    made: list[Runtime] = []

    def start(*backends: str) -> Runtime:
        bundle = engines_of(*(backends or ("unsound", "unsound-twin")))
        made.append(Runtime(bundle, isolation=ISOLATION))
        return made[-1]

    yield start
    for runtime in made:
        runtime.close()


@pytest.fixture
def order(unsound: Path) -> Callable[..., None]:
    """Order a fault of an engine, or none."""

    def write(fault: str, engine: str = "unsound") -> None:
        (unsound / f"{engine}.new").write_text(fault)
        (unsound / f"{engine}.new").rename(unsound / engine)

    return write


def until_primary(runtime: Runtime) -> None:
    wait_until(lambda: not runtime.degraded, "the primary engine answers", LONG_S)


def device_toml(folder: Path, bundle: Bundle, isolation: str = "") -> Path:
    """A device's settings, without a source."""
    path = folder / "device.toml"
    path.write_text(
        f'schema = 1\nsite = "s"\ndevice = "d"\nbundle = "{bundle.path}"\n'
        f'[queue]\npath = "{folder / "queue"}"\n{isolation}'
    )
    return path


def children(pid: int) -> dict[str, int]:
    """The engines of a process, by backend."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
            if "edgeclin.isolation.worker" in words:
                found[words[-3]] = int(child)
    return found


def test_no_engine_gets_a_sample_in_numbers_of_another_ones_scale(
    tmp_path: Path,
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cv2 = pytest.importorskip("cv2", reason="the vision extra is not installed")
    given: list[np.ndarray] = []

    class Quantised:
        """A supervisor of an engine of which the input is uint8."""

        input = TensorSpec("picture", (8, 8, 3), "uint8", 0.02, 3)
        output = TensorSpec("scores", (5,), "float32")
        version, off, problem, ready = "stand-in 1", Difference(0.0, 0.0), None, True

        def __init__(self, *_: object) -> None:
            self.tried = threading.Event()
            self.tried.set()

        def run(self, sample: np.ndarray) -> np.ndarray:
            given.append(sample)
            return np.arange(5, dtype=np.float32)

        def close(self) -> None: ...

    monkeypatch.setattr("edgeclin.failover.Supervisor", Quantised)
    picture = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    encoded = cv2.imencode(".png", picture)[1].ravel()
    bundle = bundle_of(tmp_path, manifest_and_files[0], PICTURE, encoded)
    runtime = Runtime(bundle, isolation=ISOLATION)
    runtime.predict(encoded)
    runtime.close()
    (sample,) = given
    np.testing.assert_array_equal(sample, runtime.preprocess(encoded), strict=True)


# -- who answers -----------------------------------------------------------------------------------


def test_an_isolated_engine_gives_the_results_that_it_gives_here(
    isolate: Isolate, engines_of: Engines, beats: np.ndarray
) -> None:
    apart, here = isolate(), Runtime(engines_of("unsound", "unsound-twin"))
    same = {"made_at": 0.0, "latency_ms": None, "audit": False}
    for beat in beats[:10]:
        mine, other = (msgspec.structs.replace(one.predict(beat), **same) for one in (apart, here))
        assert mine == other
    assert apart.off == here.off
    assert (apart.engine, apart.degraded, apart.alarms) == (PRIMARY, "", ())


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("hang", "did not answer within 1000 ms"),
        ("abort", "SIGABRT"),
        ("segfault", "SIGSEGV"),
        ("raise", "ValueError: out of sorts"),
        ("nan", "outputs are not finite"),
    ],
)
def test_the_twin_answers_about_the_sample_in_hand_and_the_primary_engine_comes_back(
    isolate: Isolate, order: Callable[..., None], beats: np.ndarray, fault: str, said: str
) -> None:
    runtime = isolate()
    wanted = runtime.predict(beats[0])
    order(fault)
    result = runtime.predict(beats[0])
    assert result.probabilities == wanted.probabilities
    assert result.engine == TWIN
    kept = "gave no answer" if fault == "nan" else "is out"  # one may be the sample's fault
    assert result.degraded.startswith(f"the primary engine {kept}: ")
    assert said in result.degraded
    order("")
    until_primary(runtime)
    result = runtime.predict(beats[0])
    assert (result.engine, result.degraded) == (PRIMARY, "")


def test_each_sample_has_one_result_while_engines_come_and_go(
    isolate: Isolate, order: Callable[..., None], beats: np.ndarray, tmp_path: Path
) -> None:
    runtime = isolate()
    faults = {3: ("hang", "abort"), 6: ("", ""), 9: ("abort", ""), 12: ("", "hang"), 15: ("", "")}

    class Ward:
        def deliver(self, inbox: Inbox) -> None:
            line = inbox.line("ward", room=1)
            for number, beat in enumerate(beats[:30]):
                if number in faults:
                    for engine, fault in zip(
                        ("unsound", "unsound-twin"), faults[number], strict=True
                    ):
                        order(fault, engine)
                line.put(beat)
                time.sleep(0.05)
            wait_until(lambda: not runtime.degraded, "the primary engine answers", LONG_S)
            line.put(beats[0])

    with OfflineQueue(tmp_path / "queue") as queue:
        bedside = Bedside(runtime, queue, 60)
        bedside.run([Ward()], lambda *_: None)
        results = stored_results(queue)
        health = bedside.health()
    assert [result.position for result in results] == list(range(31))
    assert {result.engine for result in results} >= {PRIMARY, "none"}
    for result in results:
        assert (result.engine == PRIMARY) == (not result.degraded)
        assert result.rejected == (result.label is None)
        if result.rejected:
            assert result.reason.startswith("rejected: the primary engine is out: ")
            assert "; the CPU twin is out: " in result.reason
    assert results[-1].engine == health.engine == PRIMARY
    assert health.restarts >= 2
    assert health.rejected == sum(result.rejected for result in results) > 0


def test_without_a_twin_what_can_wait_waits_for_the_restart(
    isolate: Isolate, order: Callable[..., None], beats: np.ndarray, tmp_path: Path
) -> None:
    """All but the sample that ended the engine, which might end it again."""
    runtime = isolate("unsound")
    order("hang")

    def done(_: object, result: Any, __: object) -> None:
        if result.position == 0:
            order("")

    with OfflineQueue(tmp_path / "queue") as queue:
        Bedside(runtime, queue, 60).run([Scripted(list(beats[:5]))], done)
        results = stored_results(queue)
    assert [(one.position, one.rejected) for one in results] == [
        (0, True), *((position, False) for position in range(1, 5))
    ]  # fmt: skip
    assert results[1].engine == PRIMARY


def test_what_can_wait_does_not_wait_for_ever_for_an_engine(
    isolate: Isolate,
    order: Callable[..., None],
    beats: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeclin.bedside._RETRY_S", 0.05)
    monkeypatch.setattr("edgeclin.bedside._ENGINE_S", 0.3)
    runtime = isolate("unsound")
    order("hang")

    with OfflineQueue(tmp_path / "queue") as queue:
        Bedside(runtime, queue, 60).run([Scripted(list(beats[:20]))], lambda *_: None)
        results = stored_results(queue)
    assert [(one.position, one.rejected) for one in results] == [(at, True) for at in range(20)]


def test_without_a_twin_each_sample_of_a_live_stream_is_rejected_until_the_restart_works(
    isolate: Isolate, order: Callable[..., None], beats: np.ndarray, tmp_path: Path
) -> None:
    runtime = isolate("unsound")
    order("hang")
    came_back = threading.Event()

    class Ward:
        def deliver(self, inbox: Inbox) -> None:
            line = inbox.line("ward")
            for beat in beats[:5]:
                line.push(beat)
            came_back.wait(LONG_S)
            line.push(beats[5])

    def done(_: object, result: Any, __: object) -> None:
        if result.position == 4:
            order("")
            threading.Thread(target=lambda: (until_primary(runtime), came_back.set())).start()

    with OfflineQueue(tmp_path / "queue") as queue:
        Bedside(runtime, queue, 60).run([Ward()], done)
        results = stored_results(queue)
    assert [result.position for result in results] == list(range(6))
    assert [result.rejected for result in results] == [True] * 5 + [False]
    for result in results[:5]:
        assert "the primary engine is out: the engine did not answer" in result.reason
        assert result.degraded
    assert results[5].engine == PRIMARY


def test_answering_goes_on_while_the_primary_engine_hangs_in_its_restart(
    isolate: Isolate, order: Callable[..., None], beats: np.ndarray
) -> None:
    runtime = isolate()
    order("abort")
    runtime.predict(beats[0])
    order("hang while loading")
    wait_until(lambda: runtime.restarts, "a restart")
    began = time.monotonic()
    results = [runtime.predict(beat) for beat in beats[:50]]
    assert time.monotonic() - began < 20
    assert {result.engine for result in results} == {TWIN}
    order("")
    until_primary(runtime)


def test_an_engine_that_lies_after_its_restart_does_not_answer(
    isolate: Isolate, order: Callable[..., None], beats: np.ndarray
) -> None:
    runtime = isolate()
    order("abort")
    runtime.predict(beats[0])
    order("lie")
    wait_until(lambda: "self-test" in runtime.degraded, "the self-test", LONG_S)
    for beat in beats[:20]:
        assert runtime.predict(beat).engine == TWIN
    order("")
    until_primary(runtime)


def test_an_engine_that_begins_to_lie_is_found_by_a_self_test(
    isolate: Isolate, order: Callable[..., None], beats: np.ndarray
) -> None:
    runtime = isolate()
    assert runtime.self_test().worst == 0
    order("lie")
    with pytest.raises(SelfTestFailed):
        runtime.self_test()
    assert runtime.predict(beats[0]).engine == TWIN


def test_a_sample_that_cannot_be_judged_does_not_touch_the_engine(
    isolate: Isolate, beats: np.ndarray
) -> None:
    runtime = isolate()
    with pytest.raises(BadInput):
        runtime.predict(np.full(140, np.nan))
    assert (runtime.engine, runtime.alarms) == (PRIMARY, ())


def test_without_isolation_too_outputs_that_are_not_finite_are_no_result(
    unsound: Path, engines_of: Engines, order: Callable[..., None], beats: np.ndarray
) -> None:
    runtime = Runtime(engines_of("unsound"))
    order("nan")
    with pytest.raises(EngineFailed, match=r"the outputs of unsound float32.* are not finite"):
        runtime.predict(beats[0])


@pytest.mark.parametrize("fault", sorted(SHAPES))
def test_without_isolation_too_outputs_of_another_number_are_no_result(
    unsound: Path, engines_of: Engines, order: Callable[..., None], beats: np.ndarray, fault: str
) -> None:
    runtime = Runtime(engines_of("unsound"))
    order(fault)
    with pytest.raises(EngineFailed, match=r"unsound float32.* gave .*, expected \[5\]"):
        runtime.predict(beats[0])
    order("")
    assert len(runtime.predict(beats[0]).probabilities) == 5


def test_one_answer_that_is_no_number_does_not_make_an_engine_out(
    isolate: Isolate, order: Callable[..., None], beats: np.ndarray
) -> None:
    runtime = isolate()
    order("nan")
    result = runtime.predict(beats[0])
    no_number = "the primary engine gave no answer: the engine's outputs are not finite"
    assert (result.engine, result.degraded) == (TWIN, no_number)
    order("nan", "unsound-twin")
    with pytest.raises(EngineFailed, match=f"^{no_number}; the CPU twin gave no answer: "):
        runtime.predict(beats[0])
    assert (runtime.engine, runtime.degraded, runtime.alarms) == (PRIMARY, "", ())


# -- the start -------------------------------------------------------------------------------------


def test_a_primary_engine_that_lies_at_the_start_refuses_to_serve(
    isolate: Isolate, order: Callable[..., None]
) -> None:
    order("lie")
    with pytest.raises(SelfTestFailed, match="off by up to 0\\.5") as refused:
        isolate()
    assert refused.value.exit_code == 4


def test_a_twin_that_lies_at_the_start_is_out_and_an_alarm(
    isolate: Isolate, order: Callable[..., None], beats: np.ndarray
) -> None:
    order("lie", "unsound-twin")
    runtime = isolate()
    assert runtime.predict(beats[0]).degraded == ""
    (alarm,) = runtime.alarms
    assert alarm.startswith("the CPU twin is out: ")
    assert "self-test" in alarm


@pytest.mark.parametrize("fault", ["absent", "abort", "hang"])
def test_a_primary_engine_that_does_not_start_is_tried_again_while_the_twin_answers(
    isolate: Isolate,
    order: Callable[..., None],
    beats: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    monkeypatch.setattr("edgeclin.isolation.supervisor.LOAD_S", 5.0)
    order(fault)
    runtime = isolate()
    assert runtime.predict(beats[0]).engine == TWIN
    order("")
    until_primary(runtime)
    assert runtime.predict(beats[0]).engine == PRIMARY


def test_a_bundle_that_is_replaced_while_its_engines_are_made_leaves_none(
    unsound: Path, engines_of: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = iter([failover.proof])

    def once(*what: Any) -> Any:
        real = next(made, None)
        if real is None:
            raise EngineFailed("the bundle is another one now")
        return real(*what)

    monkeypatch.setattr(failover, "proof", once)
    before = threading.active_count()
    with pytest.raises(EngineFailed, match="another one"):
        Failover(engines_of("unsound", "unsound-twin"), ISOLATION)
    assert children(os.getpid()) == {}
    assert threading.active_count() == before


def test_when_neither_starts_the_start_is_refused(
    isolate: Isolate, order: Callable[..., None]
) -> None:
    order("absent")
    with pytest.raises(EngineUnavailable, match="no accelerator"):
        isolate("unsound")
    order("lie", "unsound-twin")
    with pytest.raises(SelfTestFailed):
        isolate()


def test_a_backend_that_is_not_installed_leaves_the_twin_alone(
    isolate: Isolate, beats: np.ndarray
) -> None:
    runtime = isolate("not-there", "unsound-twin")
    result = runtime.predict(beats[0])
    assert (result.engine, result.degraded) == (TWIN, "this machine has no backend not-there")
    assert runtime.alarms == ()


# -- what is told ----------------------------------------------------------------------------------


def test_health_and_queue_status_tell_what_answers_now(
    isolate: Isolate, order: Callable[..., None], beats: np.ndarray, tmp_path: Path
) -> None:
    runtime = isolate()
    config = tmp_path / "device.toml"
    config.write_text(
        f'schema = 1\nsite = "s"\ndevice = "d"\n[queue]\npath = "{tmp_path / "queue"}"\n'
    )
    with OfflineQueue(tmp_path / "queue") as queue:
        bedside = Bedside(runtime, queue, 60)
        order("abort")
        runtime.predict(beats[0])
        order("absent")
        wait_until(lambda: "no accelerator" in runtime.degraded, "the restart", LONG_S)
        health = bedside.health()
        assert (health.engine, health.restarts > 0) == (TWIN, True)
        assert health.degraded == "the primary engine is out: no accelerator is plugged in"
        (alarm,) = health.alarms
        assert alarm.startswith(f"{health.degraded}; restarted ")
        assert alarm.endswith((" s", "being started now"))
        queue.notices.tell(health)
        said = CliRunner().invoke(main, ["queue", "status", "--config", str(config)]).output
        assert "no accelerator is plugged in; restarted" in said
        assert "engine restarts" in said
        order("")
        until_primary(runtime)
        health = bedside.health()
        assert (health.engine, health.degraded, health.alarms) == (PRIMARY, "", ())


# -- deadlines and the watchdog --------------------------------------------------------------------


def test_the_deadline_comes_from_the_profile_unless_the_file_says() -> None:
    assert IsolationConfig().deadline_s(30) == 1.0
    assert IsolationConfig().deadline_s(200) == 2.0
    assert IsolationConfig().deadline_s(5000) == DEADLINE_MOST_MS / 1000
    assert IsolationConfig(deadline_ms=50).deadline_s(5000) == 0.05


def test_both_engines_may_miss_the_longest_deadline_before_the_watchdog_acts() -> None:
    assert 2 * DEADLINE_MOST_MS / 1000 + 1 < device.STUCK_S


def test_a_service_manager_that_is_gone_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    with Watchdog(lambda: True):
        pass
    assert "cannot be told READY=1: [Errno 2] No such file or directory" in caplog.text


@pytest.mark.parametrize("isolated", [True, False])
def test_engines_that_hang_stop_the_heartbeat_only_without_isolation(
    unsound: Path,
    engines_of: Engines,
    order: Callable[..., None],
    beats: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    isolated: bool,
) -> None:
    table = "[isolation]\ndeadline_ms = 300\n" * isolated
    config = device_toml(tmp_path, engines_of("unsound", "unsound-twin"), table)
    np.savez(tmp_path / "beats.npz", X=beats[:250])
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    monkeypatch.setattr(cli_run, "STUCK_S", 1.0)
    late_beats: list[bytes] = []

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(0.05)

        def hear() -> bytes:
            try:
                return manager.recv(100)
            except TimeoutError:
                return b""

        def watch() -> None:
            wait_until(lambda: hear() == b"READY=1", "the service is ready", LONG_S)
            order("hang")
            order("hang", "unsound-twin")
            began = time.monotonic()
            while (passed := time.monotonic() - began) < 4:
                heard = hear()
                if passed > 2.5 and heard:
                    late_beats.append(heard)
            order("")
            order("", "unsound-twin")
            while not done.is_set():
                hear()

        done = threading.Event()
        watching = threading.Thread(target=watch)
        watching.start()
        arguments = ["run", "--config", str(config), "--allow-unsigned", "--rate", "50"]
        arguments += ["--source", str(tmp_path / "beats.npz")]
        ran = CliRunner().invoke(main, arguments)
        done.set()
        watching.join()
    assert ran.exit_code == 0, ran.output
    assert bool(late_beats) == isolated


# -- the command -----------------------------------------------------------------------------------


def test_run_isolate_answers_through_a_hang_and_leaves_nothing_when_killed(
    unsound: Path, engines_of: Engines, beats: np.ndarray, tmp_path: Path
) -> None:
    config = device_toml(
        tmp_path,
        engines_of("unsound", "unsound-twin"),
    )
    command = [sys.executable, "-m", "edgeclin", "run", "--config", str(config), "--isolate"]
    command += ["--allow-unsigned", "--json", "--source", "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as service:
        assert service.stdin is not None
        assert service.stdout is not None
        results = []

        def ask() -> dict[str, Any]:
            assert service.stdin is not None
            assert service.stdout is not None
            service.stdin.write(msgspec.json.encode(beats[0].tolist()) + b"\n")
            service.stdin.flush()
            results.append(msgspec.json.decode(service.stdout.readline())["result"])
            return results[-1]

        try:
            assert "degraded" not in ask()
            engines = children(service.pid)
            os.kill(engines["unsound"], signal.SIGSTOP)
            hung = ask()
            assert hung["engine"] == TWIN
            assert hung["degraded"].endswith("the engine did not answer within 1000 ms")
            assert hung["label"] == results[0]["label"]
            wait_until(lambda: "degraded" not in ask(), "the primary engine answers", LONG_S)
            again = children(service.pid)
            assert again["unsound"] != engines["unsound"]
            assert again["unsound-twin"] == engines["unsound-twin"]
            os.kill(again["unsound-twin"], signal.SIGSTOP)
        finally:
            service.kill()
    assert [result["position"] for result in results] == list(range(len(results)))
    gone = {*engines.values(), *again.values()}
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in gone), "no engine is left")


def test_a_service_that_is_told_to_stop_ends_its_engines_and_not_the_other_way_round(
    unsound: Path, engines_of: Engines, beats: np.ndarray, tmp_path: Path
) -> None:
    config = device_toml(tmp_path, engines_of("unsound"), "[isolation]\n")
    command = [sys.executable, "-m", "edgeclin", "run", "--config", str(config), "--json"]
    with subprocess.Popen(
        [*command, "--allow-unsigned", "--source", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as service:
        assert service.stdin is not None
        assert service.stdout is not None
        service.stdin.write(msgspec.json.encode(beats[0].tolist()) + b"\n")
        service.stdin.flush()
        assert service.stdout.readline()
        (engine,) = children(service.pid).values()
        os.kill(engine, signal.SIGTERM)
        service.stdin.write(msgspec.json.encode(beats[0].tolist()) + b"\n")
        service.stdin.flush()
        answer = msgspec.json.decode(service.stdout.readline())["result"]
        assert "degraded" not in answer
        service.send_signal(signal.SIGTERM)
        assert service.wait(LONG_S) == 0
    wait_until(lambda: not Path(f"/proc/{engine}").exists(), "no engine is left")


def test_another_bundle_takes_over_with_engines_of_its_own_and_full_priority(
    unsound: Path, engines_of: Engines, beats: np.ndarray, tmp_path: Path
) -> None:
    first, second = engines_of("unsound"), engines_of("unsound", version="2.0.0")
    config = device_toml(tmp_path, first, "[isolation]\n")
    command = [sys.executable, "-m", "edgeclin", "run", "--config", str(config), "--json"]
    with subprocess.Popen(
        [*command, "--allow-unsigned", "--source", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as service:

        def bundle() -> str:
            assert service.stdin is not None
            assert service.stdout is not None
            service.stdin.write(msgspec.json.encode(beats[0].tolist()) + b"\n")
            service.stdin.flush()
            return str(msgspec.json.decode(service.stdout.readline())["result"]["bundle"])

        try:
            assert bundle() == first.digest
            (old,) = children(service.pid).values()
            second.path.rename(first.path)
            wait_until(lambda: bundle() == second.digest, "the other bundle answers", LONG_S)
            wait_until(lambda: not Path(f"/proc/{old}").exists(), "the old engine ends")
            (new,) = children(service.pid).values()
            own = os.getpriority(os.PRIO_PROCESS, service.pid)
            assert os.getpriority(os.PRIO_PROCESS, new) == own
        finally:
            service.kill()


def test_a_lie_at_the_start_is_exit_4(
    unsound: Path, engines_of: Engines, order: Callable[..., None], tmp_path: Path
) -> None:
    config = device_toml(tmp_path, engines_of("unsound", "unsound-twin"), "[isolation]\n")
    order("lie")
    arguments = ["run", "--config", str(config), "--allow-unsigned", "--source", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "edgeclin", *arguments], input="", capture_output=True, text=True
    )
    assert done.returncode == 4
    assert "off by up to 0.5" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
