"""An engine in a process of its own answers the same, and its faults stay its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from polling import wait_until
from unsound_engine import SHAPES

from edgeclin.backends import load_backend
from edgeclin.errors import EngineFailed, EngineUnavailable, SelfTestFailed
from edgeclin.isolation import EngineProcess, Limits, SharedModel, Supervisor
from edgeclin.isolation import supervisor as supervisor_module
from edgeclin.isolation.supervisor import pause_s
from edgeclin.manifest import Difference

DATA = Path(__file__).parent / "data"
MODEL = msgspec.json.encode({"input_shape": [140, 1], "labels": 5, "gain": 8.0})
SAMPLE = np.linspace(-1, 1, 140, dtype=np.float32).reshape(140, 1)
SAME = Difference(0.0, 0.0)
LONG_S = 60.0
Launch = Callable[..., EngineProcess]


@pytest.fixture
def launch(unsound: Path) -> Iterator[Launch]:
    """Engines that are ended with the test."""
    made: list[EngineProcess] = []
    models: list[SharedModel] = []

    def start(backend: str = "unsound", model: bytes = MODEL) -> EngineProcess:
        models.append(SharedModel(model))
        made.append(EngineProcess(backend, models[-1]))
        made[-1].load(LONG_S, 4096)
        return made[-1]

    yield start
    for process in made:
        process.close()
        assert process.ended(LONG_S)
    for one in models:
        one.close()


@pytest.fixture
def supervise(unsound: Path) -> Iterator[Callable[..., Supervisor]]:
    """Supervisors of the unsound engine that are closed with the test."""
    made: list[Supervisor] = []
    model = SharedModel(MODEL)

    def start(
        prove: Callable[[EngineProcess], Difference] = lambda _: SAME,
        deadline_s: float = LONG_S,
        memory_mb: int = 4096,
    ) -> Supervisor:
        limits = Limits(deadline_s, memory_mb, restart_most_s=0.1)
        made.append(Supervisor("it", lambda: EngineProcess("unsound", model), prove, limits))
        assert made[-1].tried.wait(LONG_S)
        return made[-1]

    yield start
    for supervisor in made:
        supervisor.close()
    model.close()


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def open_files() -> set[str]:
    return {link.name for link in Path("/proc/self/fd").iterdir()}


# -- one process -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "file", "package"),
    [
        ("tflite", "ecg_int8.tflite", "ai_edge_litert"),
        ("tflite", "ecg_int8_io.tflite", "ai_edge_litert"),
        ("onnx", "ecg_qdq.onnx", "onnxruntime"),
    ],
)
def test_an_isolated_engine_answers_as_the_same_one_does_here(
    launch: Launch, beats: np.ndarray, backend: str, file: str, package: str
) -> None:
    pytest.importorskip(package)
    model = (DATA / file).read_bytes()
    here, apart = load_backend(backend, model), launch(backend, model)
    assert (apart.input, apart.output, apart.version) == (here.input, here.output, here.version)
    for beat in beats[:20]:
        sample = beat.astype(np.float32).reshape(here.input.shape)
        np.testing.assert_array_equal(apart.run(sample), here.run(sample))
        own = (sample * 20).astype(here.input.dtype)
        np.testing.assert_array_equal(apart.run(own), here.run(own))


def test_an_answer_belongs_to_the_caller(launch: Launch) -> None:
    engine = launch()
    first = engine.run(SAMPLE)
    kept = first.copy()
    engine.run(-SAMPLE)
    np.testing.assert_array_equal(first, kept)


def test_nobody_can_change_a_model_or_cut_the_memory_of_a_sample(launch: Launch) -> None:
    model = SharedModel(MODEL)
    for attempt in (lambda: os.pwrite(model.fd, b"x", 0), lambda: os.ftruncate(model.fd, 0)):
        with pytest.raises(PermissionError):
            attempt()
    model.close()
    with pytest.raises(PermissionError):
        os.ftruncate(launch()._memory, 0)


def test_an_engine_that_hangs_misses_its_deadline(launch: Launch, unsound: Path) -> None:
    engine = launch()
    engine.allow(0.2)
    (unsound / "unsound").write_text("hang")
    with pytest.raises(EngineFailed, match="did not answer within 200 ms"):
        engine.run(SAMPLE)


@pytest.mark.parametrize("fault", sorted(SHAPES))
def test_outputs_of_another_number_are_no_answer(launch: Launch, unsound: Path, fault: str) -> None:
    engine = launch()
    (unsound / "unsound").write_text(fault)
    with pytest.raises(EngineFailed, match=r"the engine failed: it gave .*, expected \[5\]"):
        engine.run(SAMPLE)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("abort", "was ended by SIGABRT"),
        ("segfault", "was ended by SIGSEGV"),
        ("raise", "the engine failed: ValueError: out of sorts"),
    ],
)
def test_an_engine_that_crashes_says_how(
    launch: Launch, unsound: Path, fault: str, said: str
) -> None:
    engine = launch()
    (unsound / "unsound").write_text(fault)
    with pytest.raises(EngineFailed, match=said):
        engine.run(SAMPLE)


def test_an_engine_that_is_ended_by_a_signal_without_a_name_says_its_number(
    launch: Launch,
) -> None:
    process = launch()
    os.kill(process.pid, signal.SIGRTMIN + 6)
    with pytest.raises(EngineFailed, match=f"ended by signal {signal.SIGRTMIN + 6}"):
        process.run(SAMPLE)


@pytest.mark.parametrize("missing", ["socket.socketpair", "os.memfd_create", "subprocess.Popen"])
def test_an_engine_that_cannot_be_started_leaves_no_file_open(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    model = SharedModel(MODEL)
    before = open_files()

    def fail(*_: object, **__: object) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(missing, fail)
    with pytest.raises(OSError, match="too many"):
        EngineProcess("unsound", model)
    assert open_files() == before
    model.close()


@pytest.mark.parametrize(
    ("fault", "said"),
    [("absent", "^no accelerator is plugged in$"), ("raise", "ValueError: out of sorts")],
)
def test_an_engine_that_cannot_be_loaded_says_why(
    launch: Launch, unsound: Path, fault: str, said: str
) -> None:
    (unsound / "unsound").write_text(fault)
    with pytest.raises(EngineUnavailable, match=said):
        launch()


def test_an_engine_that_crashes_while_it_loads_has_failed(launch: Launch, unsound: Path) -> None:
    (unsound / "unsound").write_text("abort")
    with pytest.raises(EngineFailed, match="ended by SIGABRT while it loaded"):
        launch()


def test_an_engine_that_grows_while_it_loads_has_failed(unsound: Path) -> None:
    (unsound / "unsound").write_text("grow while loading")
    model = SharedModel(MODEL)
    engine = EngineProcess("unsound", model)
    with pytest.raises(EngineFailed, match=r"took \d+ MB \(allowed: 256 MB\)"):
        engine.load(LONG_S, 256)
    engine.close()
    assert engine.ended(LONG_S)
    model.close()


def test_an_engine_that_hangs_while_it_loads_is_not_waited_for(unsound: Path) -> None:
    (unsound / "unsound").write_text("hang while loading")
    model = SharedModel(MODEL)
    engine = EngineProcess("unsound", model)
    with pytest.raises(EngineFailed, match=r"did not load within 0\.1 s"):
        engine.load(0.1, 4096)
    engine.close()
    assert engine.ended(LONG_S)
    model.close()


def test_a_backend_that_only_the_other_process_lacks_is_named(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(EngineUnavailable, match="no backend named 'unsound' is installed"):
        launch()


def test_an_engine_leaves_the_signals_of_a_service_to_the_service(launch: Launch) -> None:
    engine = launch()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(engine.pid, number)
    engine.run(SAMPLE)
    assert os.getsid(engine.pid) == engine.pid, "a terminal's Ctrl-C would reach it"


def test_an_engine_gets_no_file_that_it_does_not_need(launch: Launch, tmp_path: Path) -> None:
    with (tmp_path / "patients").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        engine = launch()
        engine.run(SAMPLE)
        files = Path(f"/proc/{engine.pid}/fd")
        links = [str(link.readlink()) for link in files.iterdir()]
        streams = [str((files / str(number)).readlink()) for number in range(3)]
    others = [link for link in links if not link.startswith(("socket:", "/memfd:edgeclin-sample"))]
    assert sorted(others) == sorted(streams)


def test_a_crash_leaves_no_core_file_and_memory_is_taken_from_the_engine_first(
    launch: Launch,
) -> None:
    about = Path(f"/proc/{launch().pid}")
    limits = (about / "limits").read_text().splitlines()
    (core,) = (line.split()[4:6] for line in limits if line.startswith("Max core file size"))
    assert core == ["0", "0"]
    assert (about / "oom_score_adj").read_text().strip() == "1000"


def test_nothing_is_left_of_an_engine_that_was_closed(unsound: Path) -> None:
    before = open_files()
    model = SharedModel(MODEL)
    engine = EngineProcess("unsound", model)
    engine.load(LONG_S, 4096)
    engine.run(SAMPLE)
    engine.close()
    assert engine.ended(LONG_S)
    del engine
    model.close()
    assert open_files() == before
    assert "edgeclin-sample" not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("hung", [False, True])
def test_an_engine_ends_with_a_parent_that_is_killed(unsound: Path, hung: bool) -> None:
    program = (
        "import sys; from edgeclin.isolation import *; engine = EngineProcess('unsound', "
        f"SharedModel({MODEL!r})); engine.load(60, 4096); print(engine.pid, flush=True); "
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        if hung:
            os.kill(pid, signal.SIGSTOP)
        parent.kill()
    wait_until(lambda: not alive(pid), "the engine ends")


# -- supervision -----------------------------------------------------------------------------------


def test_an_engine_outlives_the_thread_that_asked_for_it(
    supervise: Callable[..., Supervisor],
) -> None:
    made: list[Supervisor] = []
    thread = threading.Thread(target=lambda: made.append(supervise()))
    thread.start()
    thread.join()
    for _ in range(20):
        made[0].run(SAMPLE)
        time.sleep(0.005)
    assert made[0].restarts == 0


def test_an_engine_that_dies_between_samples_is_started_again(
    supervise: Callable[..., Supervisor],
) -> None:
    supervisor = supervise()
    wanted = supervisor.run(SAMPLE)
    assert supervisor._process is not None
    os.kill(supervisor._process.pid, signal.SIGKILL)
    wait_until(lambda: supervisor.restarts and supervisor.ready, "the restart", LONG_S)
    np.testing.assert_array_equal(supervisor.run(SAMPLE), wanted)


def test_a_sample_never_waits_for_a_restart(
    supervise: Callable[..., Supervisor], unsound: Path
) -> None:
    supervisor = supervise()
    (unsound / "unsound").write_text("abort")
    with pytest.raises(EngineFailed, match="SIGABRT"):
        supervisor.run(SAMPLE)
    (unsound / "unsound").write_text("hang while loading")
    wait_until(lambda: supervisor.restarts, "a restart")
    began = time.monotonic()
    with pytest.raises(EngineFailed, match="SIGABRT"):
        supervisor.run(SAMPLE)
    assert time.monotonic() - began < 5
    (unsound / "unsound").unlink()
    wait_until(lambda: supervisor.ready, "the restart", LONG_S)


def test_an_engine_that_lies_after_a_restart_stays_out_until_it_does_not(
    supervise: Callable[..., Supervisor], unsound: Path
) -> None:
    truth: list[np.ndarray] = []

    def prove(process: EngineProcess) -> Difference:
        outputs = process.run(SAMPLE)
        truth.append(outputs)
        if not np.array_equal(outputs, truth[0]):
            raise SelfTestFailed("it lies")
        return SAME

    supervisor = supervise(prove)
    (unsound / "unsound").write_text("lie")
    assert supervisor._process is not None
    os.kill(supervisor._process.pid, signal.SIGKILL)
    wait_until(lambda: supervisor.restarts > 2, "some restarts", LONG_S)
    assert not supervisor.ready
    with pytest.raises(EngineFailed, match="it lies"):
        supervisor.run(SAMPLE)
    (unsound / "unsound").unlink()
    wait_until(lambda: supervisor.ready, "the restart", LONG_S)
    np.testing.assert_array_equal(supervisor.run(SAMPLE), truth[0])


def test_a_missed_self_test_on_demand_puts_an_engine_out(
    supervise: Callable[..., Supervisor],
) -> None:
    verdicts = iter([True, False])

    def prove(_: EngineProcess) -> Difference:
        if not next(verdicts, True):
            raise SelfTestFailed("it lies")
        return SAME

    supervisor = supervise(prove)
    with pytest.raises(SelfTestFailed, match="it lies"):
        supervisor.test()
    wait_until(lambda: supervisor.restarts, "a restart", LONG_S)


@pytest.mark.parametrize("fault", ["hang", "segfault", "raise"])
def test_an_engine_in_reserve_is_found_out_before_it_is_needed(
    supervise: Callable[..., Supervisor],
    unsound: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    def prove(process: EngineProcess) -> Difference:
        process.run(SAMPLE)
        return SAME

    monkeypatch.setattr(supervisor_module, "_IDLE_S", 0.1)
    monkeypatch.setattr(supervisor_module, "_LOOK_S", 0.05)
    supervisor = supervise(prove, deadline_s=0.3)
    assert supervisor.ready
    (unsound / "unsound").write_text(fault)
    wait_until(lambda: not supervisor.ready, "it is out though nobody asked", LONG_S)
    assert supervisor.why
    (unsound / "unsound").unlink()
    wait_until(lambda: supervisor.ready, "it is back", LONG_S)


def test_a_sample_waits_for_one_of_the_samples_of_an_idle_engine_s_test_and_not_for_all(
    supervise: Callable[..., Supervisor], unsound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, asked, tested = threading.Event(), threading.Event(), threading.Event()

    def prove(process: EngineProcess) -> Difference:
        process.run(SAMPLE)
        if type(process) is not EngineProcess:
            began.set()
            assert asked.wait(LONG_S), "between two samples another one is answered"
            process.run(SAMPLE)
            tested.set()
        return SAME

    monkeypatch.setattr(supervisor_module, "_IDLE_S", 0.1)
    monkeypatch.setattr(supervisor_module, "_LOOK_S", 0.05)
    supervisor = supervise(prove)
    assert began.wait(LONG_S)
    assert supervisor.run(SAMPLE).shape == (5,)
    asked.set()
    assert tested.wait(LONG_S)
    assert supervisor.ready


def test_a_test_that_cannot_be_made_puts_the_engine_out_and_it_is_started_again(
    supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = iter([None, MemoryError("no room")])

    def prove(_: EngineProcess) -> Difference:
        for problem in tests:
            if problem is not None:
                raise problem
            break
        return SAME

    monkeypatch.setattr(supervisor_module, "_IDLE_S", 0.1)
    monkeypatch.setattr(supervisor_module, "_LOOK_S", 0.05)
    supervisor = supervise(prove)
    wait_until(lambda: supervisor.restarts and supervisor.ready, "it is back", LONG_S)


class NotedLock:
    """A lock that notes at each release what a condition is just then."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self._lock, self._condition = threading.Lock(), condition
        self.noted: list[bool] = []

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.noted.append(self._condition())
        self._lock.release()


def test_a_sample_that_waits_for_a_test_never_asks_the_engine_that_just_failed_it(
    supervise: Callable[..., Supervisor], unsound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for a second deadline, and could read what the first one's sample comes to."""

    def prove(process: EngineProcess) -> Difference:
        process.run(SAMPLE)
        return SAME

    supervisor = supervise(prove, deadline_s=0.3)
    lock = NotedLock(lambda: supervisor.ready)
    monkeypatch.setattr(supervisor, "_asking", lock)
    supervisor.test()
    assert lock.noted == [True]
    (unsound / "unsound").write_text("hang")
    with pytest.raises(EngineFailed, match="did not answer within"):
        supervisor.test()
    assert not any(lock.noted[1:])


def test_outputs_that_are_not_finite_are_no_answer_and_three_in_a_row_a_restart(
    supervise: Callable[..., Supervisor], unsound: Path
) -> None:
    supervisor = supervise()
    for number in range(1, 4):
        (unsound / "unsound").write_text("nan")
        with pytest.raises(EngineFailed, match="not finite"):
            supervisor.run(SAMPLE)
        (unsound / "unsound").unlink()
        assert supervisor.ready == (number < 3)
    wait_until(lambda: supervisor.ready, "the restart", LONG_S)
    assert np.isfinite(supervisor.run(SAMPLE)).all()


def test_an_engine_that_grows_is_ended_before_the_machine_is_full(
    supervise: Callable[..., Supervisor], unsound: Path, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = supervise(memory_mb=256)
    (unsound / "unsound").write_text("grow")
    with contextlib.suppress(EngineFailed):
        for _ in range(5):
            supervisor.run(SAMPLE)
    (unsound / "unsound").unlink()
    wait_until(lambda: supervisor.restarts and supervisor.ready, "the restart", LONG_S)
    assert "MB (allowed: 256 MB)" in caplog.text
    supervisor.run(SAMPLE)


def test_an_engine_that_cannot_be_ended_is_not_started_beside_itself(
    supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = supervise(deadline_s=0.2)
    process = supervisor._process
    assert process is not None
    with monkeypatch.context() as patch:
        patch.setattr(process, "kill", lambda: None)
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(EngineFailed):
            supervisor.run(SAMPLE)
        wait_until(lambda: "a driver holds it" in supervisor.why, "the reason")
        assert supervisor.why.count("driver") == 1
        with pytest.raises(EngineFailed, match="did not answer within 200 ms; process"):
            supervisor.run(SAMPLE)
        assert supervisor.restarts == 0
    process.kill()
    wait_until(lambda: supervisor.ready, "the restart", LONG_S)


@pytest.mark.parametrize("loading", [True, False])
def test_closing_does_not_wait_for_an_engine_that_loads(unsound: Path, loading: bool) -> None:
    (unsound / "unsound").write_text("hang while loading")
    model = SharedModel(MODEL)
    supervisor = Supervisor(
        "it", lambda: EngineProcess("unsound", model), lambda _: SAME, Limits(1.0, 4096, 0.1)
    )
    if loading:
        wait_until(lambda: supervisor._process is not None, "the start")
    began = time.monotonic()
    supervisor.close()
    assert time.monotonic() - began < 10
    model.close()


def test_what_cannot_be_started_is_tried_again(unsound: Path) -> None:
    model, attempts = SharedModel(MODEL), iter([OSError("no process left"), RuntimeError("a bug")])

    def start() -> EngineProcess:
        problem = next(attempts, None)
        if problem is not None:
            raise problem
        return EngineProcess("unsound", model)

    supervisor = Supervisor("it", start, lambda _: SAME, Limits(LONG_S, 4096, 0.1))
    wait_until(lambda: supervisor.ready, "the start", LONG_S)
    assert supervisor.restarts == 2
    supervisor.close()
    model.close()


def test_pauses_double_to_a_bound_and_differ() -> None:
    assert [pause_s(n, 60.0, 0.0) for n in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert pause_s(1, 60.0, 0.5) == 0.75
    assert pause_s(1 << 16, 60.0, 0.0) == 30
    assert pause_s(1, 0.1, 0.0) == 0.05
