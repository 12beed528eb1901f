"""`make bench-runtime`: what the runtime and the queue cost here, each beside its target.

Every part runs in a process of its own, one after another; bundles that they need are made once, in
`build/bench`. Ratios are of medians, with their 99 % intervals over resampled blocks: read these
rather than milliseconds, for machines are noisy and differ.

MobileNetV2 has no trained weights and is calibrated with noise: only time and memory are measured.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import click
import numpy as np

from edgeclin import wire
from edgeclin.bedside import Bedside
from edgeclin.benchmark import fresh
from edgeclin.benchmark.comparison import Comparison, bare_call, compare, engine_input, in_turn
from edgeclin.benchmark.machine import Moment, filesystem, look, warnings
from edgeclin.benchmark.percentiles import digits, distribution
from edgeclin.benchmark.storing import Storing
from edgeclin.benchmark.taking import Limit
from edgeclin.bundle import Bundle
from edgeclin.config import IsolationConfig
from edgeclin.executable import executable
from edgeclin.inbox import Inbox, Sample
from edgeclin.offline_queue import OfflineQueue, Stored
from edgeclin.priority import short_collections
from edgeclin.records import Result, State, Tier
from edgeclin.runtime import Runtime
from edgeclin.streams import SignalStream

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "bench"
SAMPLES = 60
LEADS_HZ, WINDOW, HOP, CHUNK = 250, 1250, 250, 25

MAKE = {
    "mobilenet": """
import sys, keras
keras.utils.set_random_seed(1)
keras.applications.MobileNetV2(weights=None, input_shape=(224, 224, 3)).save(sys.argv[1])
""",
    "dense": """
import sys, keras
keras.utils.set_random_seed(1)
keras.Sequential([keras.layers.Input((32,)), keras.layers.Dense(5)]).save(sys.argv[1])
""",
    "cnn": """
import sys, keras
from keras import layers
keras.utils.set_random_seed(1)
keras.Sequential([
    layers.Input((1250, 1)),
    layers.Conv1D(8, 15, strides=4, activation="relu"),
    layers.Conv1D(16, 9, strides=4, activation="relu"),
    layers.Conv1D(32, 5, strides=4, activation="relu"),
    layers.GlobalAveragePooling1D(),
    layers.Dense(2),
]).save(sys.argv[1])
""",
}

DESCRIPTION = """\
schema = 1
name = "{name}"
version = "1.0.0"
task = "classification"
intended_use = "Measuring the runtime; not for any clinical use"

[[inputs]]
name = "x"
kind = "{kind}"
shape = {shape}
{steps}
[output]
activation = "{activation}"
labels = {labels}
positive = [{positive}]
urgent = [{positive}]

[metric]
name = "accuracy"
margin = 0.1

[doubt]
max_error = 0.2
audit_share = 0.02

[provenance]
licence = "Apache-2.0"
source = "tests/benchmarks/runtime.py"
"""
NORMALISE = """
[[inputs.preprocessing]]
step = "normalise"
scale = 0.00784313725490196
mean = [1.0]
std = [1.0]
"""
CUT = f"""
[[inputs.preprocessing]]
step = "window"
length = {WINDOW}
hop = {HOP}
"""


def line(what: str, measured: str, target: str, met: bool | None = None) -> None:
    """One line of the table."""
    verdict = {True: "met", False: "MISSED", None: ""}[met]
    click.echo(f"{what:<54} {measured:<38} {target:<18} {verdict}", nl=True)


# -- bundles ---------------------------------------------------------------------------------------


def describe(
    name: str, kind: str, shape: tuple[int, ...], labels: list[str], activation: str, steps: str
) -> str:
    return DESCRIPTION.format(
        name=name, kind=kind, shape=list(shape), labels=labels, activation=activation,
        positive=f'"{labels[-1]}"', steps=steps,
    ).replace("'", '"')  # fmt: skip


def convert(
    name: str, model: Path, profile: str, text: str, calibration: dict[str, np.ndarray]
) -> Path:
    """A bundle in build/bench, made only when it is not there."""
    bundle = BUILD / f"{name}.edgeclin"
    if bundle.exists():
        return bundle
    description, data = BUILD / f"{name}.toml", BUILD / f"{name}.npz"
    description.write_text(text)
    np.savez(data, **calibration)
    run_edgeclin(
        "convert", str(model), "--profile", profile, "--description", str(description),
        "--calibration", str(data), "-o", str(bundle), "--unsigned", "--allow-failed-gates",
        "--allow-shared-groups", "--calibration-method", "min-max", "--no-mixed-precision",
    )  # fmt: skip
    data.unlink()
    return bundle


def run_edgeclin(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgeclin", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise click.ClickException(f"edgeclin {arguments[0]} failed: {done.stderr.strip()[-500:]}")


def keras_model(name: str) -> Path:
    path = BUILD / f"{name}.keras"
    if not path.exists():
        subprocess.run([sys.executable, "-c", MAKE[name], str(path)], check=True,
                       capture_output=True)  # fmt: skip
    return path


@cache
def pictures() -> np.ndarray:
    """uint8 [n, 224, 224, 3]; smooth, as pictures are."""
    draw = np.random.default_rng(1)
    coarse = draw.integers(0, 256, (SAMPLES, 28, 28, 3), np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def mobilenet(raw: bool) -> Path:
    """MobileNetV2-224 that takes float32 as it is, or uint8 pictures by the step `normalise`."""
    name = "mobilenet-float" if raw else "mobilenet-picture"
    labels = [f"c{at}" for at in range(1000)]
    text = describe(name, "image", (224, 224, 3), labels, "softmax", "" if raw else NORMALISE)
    samples = (pictures() / np.float32(127.5) - 1).astype(np.float32) if raw else pictures()
    data = {"X": samples, "y": np.arange(SAMPLES) % 1000}
    return convert(name, keras_model("mobilenet"), "cpu-x86_64", text, data)


def dense() -> Path:
    samples = np.random.default_rng(1).normal(size=(200, 32)).astype(np.float32)
    text = describe("dense", "array", (32,), list("abcde"), "none", "")
    data = {"X": samples, "y": np.arange(200) % 5}
    return convert("dense", keras_model("dense"), "cpu-x86_64", text, data)


def ecg() -> Path:
    """The heartbeats of the example."""
    bundle, folder = BUILD / "heartbeats.edgeclin", ROOT / "examples" / "ecg"
    if not bundle.exists():
        run_edgeclin(
            "convert", str(folder / "edge.keras"), "--profile", "cpu-x86_64",
            "--description", str(folder / "edge.toml"), "--unsigned",
            "--calibration", str(folder / "data" / "train.npz"),
            "--validation", str(folder / "data" / "validation.npz"), "-o", str(bundle),
        )  # fmt: skip
    return bundle


def monitor() -> tuple[Path, np.ndarray, str]:
    """A bundle for windows of 1,250 samples, a real signal to cut, and what both are."""
    data = os.environ.get("EDGECLIN_TEST_DATA")
    if data:
        with np.load(Path(data) / "iegm" / "iegm_train_subset.npz") as arrays:
            chosen = np.random.default_rng(1).permutation(len(arrays["X"]))[:400]
            samples, labels = arrays["X"][chosen], arrays["y"][chosen].astype(int)
        model = Path(data) / "iegm" / "vatml_model_best.onnx"
        text = describe("electrograms", "signal", (1, 1250, 1), ["no", "yes"], "none", CUT)
        bundle = convert(
            "electrograms", model, "cpu-x86_64-onnx", text, {"X": samples, "y": labels}
        )
        return bundle, samples.ravel(), "electrograms, ONNX Runtime"
    with np.load(ROOT / "examples" / "ecg" / "data" / "train.npz") as arrays:
        signal = arrays["X"].astype(np.float32).ravel()
    windows = signal[: len(signal) // WINDOW * WINDOW].reshape(-1, WINDOW)
    text = describe("monitor", "signal", (1250, 1), ["no", "yes"], "none", CUT)
    labels = np.arange(len(windows)) % 2
    model = keras_model("cnn")
    bundle = convert("monitor", model, "cpu-x86_64", text, {"X": windows, "y": labels})
    return bundle, signal, "an untrained CNN, LiteRT"


# -- parts -----------------------------------------------------------------------------------------


def beside_bare(bundle: Path, sample: np.ndarray, seconds: float) -> Comparison:
    runtime = Runtime(Bundle.open(bundle, allow_unsigned=True))
    limit = Limit(seconds, None, threading.Event())
    bare = bare_call(runtime, sample, 1)
    for _ in range(20):
        runtime.predict(sample)
        bare()
    return compare(in_turn(partial(runtime.predict, sample), bare, limit))


def show(what: str, found: Comparison, most_ratio: float | None, most_us: float | None) -> None:
    assert found.ratio is not None
    assert found.above_us is not None
    ratio, above = found.ratio, found.above_us
    bare = found.bare.at(0.5).value_ms or 0.0
    value = (
        f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] of {digits(bare)} ms"
        if most_ratio is not None
        else f"{above.value:.1f} us [{above.low:.1f}, {above.high:.1f}] + {1e3 * bare:.1f} us"
    )
    target = f"<= {most_ratio} x bare" if most_ratio is not None else f"<= {most_us} us above"
    met = ratio.value <= most_ratio if most_ratio is not None else above.value <= (most_us or 0)
    line(what, value, target, met)


def predict() -> None:
    """1. An input in the engine's own type."""
    sample = (pictures()[0] / np.float32(127.5) - 1).astype(np.float32)
    found = beside_bare(mobilenet(raw=True), sample, 25)
    show("predict, engine's own type, MobileNetV2-224", found, 1.02, None)
    sample = np.random.default_rng(2).normal(size=32).astype(np.float32)
    show("predict, engine's own type, one Dense layer", beside_bare(dense(), sample, 5), None, 40)


def picture() -> None:
    """2. A decoded picture."""
    found = beside_bare(mobilenet(raw=False), pictures()[0], 25)
    show("predict, uint8 picture and normalise, MobileNetV2-224", found, 1.10, None)


def queue() -> None:
    """3. What an urgent answer waits for, beside the disk's own fdatasync."""
    runtime = Runtime(Bundle.open(ecg(), allow_unsigned=True))
    with np.load(ROOT / "examples" / "ecg" / "data" / "test.npz") as arrays:
        result = runtime.predict(arrays["X"][0], "bench", 0)
    put: dict[Tier, list[float]] = {Tier.URGENT: [], Tier.ROUTINE: []}
    disk: list[float] = []
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        kind = filesystem(Path(name))
        path = Path(name)
        with OfflineQueue(path / "q.sqlite") as opened, (path / "log").open("wb", 0) as log:
            for position in range(2000):
                disk.append(timed(lambda: (log.write(b"x" * 4096), os.fdatasync(log.fileno()))))
                for tier, spent in put.items():
                    own = replaced(result, position=position, tier=tier, state=State.FINAL)
                    spent.append(timed(partial(opened.put, own)))
                if position % 64 == 63:
                    drain(opened)
    own, alone = distribution(put[Tier.URGENT]), distribution(disk)
    for q in (0.5, 0.95):
        ours, theirs = own.at(q).value_ms or 0.0, alone.at(q).value_ms or 1.0
        line(
            f"urgent put, {own.at(q).name}, {kind}",
            f"{digits(ours)} ms, fdatasync {digits(theirs)} ms",
            "<= 1 x fdatasync",
            ours <= theirs,
        )
        line("", f"{ours / theirs:.2f} of it, {1e3 * (ours - theirs):.0f} us more", "")
    routine = distribution(put[Tier.ROUTINE])
    line("routine put, p50 (what SQLite takes)", f"{digits(routine.at(0.5).value_ms or 0)} ms", "")


def streams() -> None:
    """4. 100 signals of 250 Hz, a window of 5 s each second of each, through the loop of `run`."""
    bundle, signal, what = monitor()
    runtime = Runtime(Bundle.open(bundle, allow_unsigned=True))
    source = Monitors(signal, runtime, streams=100, seconds=60.0)
    taken: list[float] = []
    with short_collections(), Storing(BUILD) as storing:
        bedside = Bedside(runtime, storing.queue, deadline_s=60.0)
        before = Moment.now()

        def take(_: Stored, result: Result, __: Sample) -> None:
            now = time.monotonic()
            taken.append(1e3 * (now - source.due(result.source, result.position)))

        bedside.run([source], take)
        spent = Moment.now()
    budget = 1e3 * bedside.answer_s
    late = sum(value > budget for value in taken)
    dropped = sum(bedside.inbox.dropped.values())
    line(
        f"100 streams, {what}",
        f"{late + dropped} of {source.windows:,} missed {budget:g} ms",
        "0",
        late + dropped + (source.windows - len(taken) - dropped) == 0,
    )
    latency = distribution(taken)
    busy = (spent.own - before.own) / (spent.at - before.at)
    line("", f"p50 {latency.at(0.5).said} ms", "")
    line("", f"p99 {latency.at(0.99).said}, max {latency.max_ms:.1f} ms", "")
    line("", f"{busy:.2f} of 2 cores busy", "")


class Monitors:
    """A source: signals that come in chunks of 0.1 s, on a schedule that waits for nobody.

    Attributes:
        windows: that were whole.
    """

    def __init__(self, signal: np.ndarray, runtime: Runtime, streams: int, seconds: float) -> None:
        self._signal = signal
        self._window = runtime.preprocess.window
        draw = np.random.default_rng(1)
        period = CHUNK / LEADS_HZ
        self._phases = {f"bed-{at}": float(draw.uniform(0, 1)) for at in range(streams)}
        self._offsets = {name: int(draw.integers(len(signal))) for name in self._phases}
        self._period, self._seconds, self._began = period, seconds, 0.0
        self.windows = 0

    def due(self, stream: str, position: int) -> float:
        """When the last chunk of a window comes."""
        chunks = (position + 1) * HOP // CHUNK
        return self._began + self._phases[stream] + chunks * self._period

    def deliver(self, inbox: Inbox) -> None:
        signals = {name: SignalStream(self._window) for name in self._phases}
        lines = {name: inbox.line(name) for name in self._phases}
        for name, stream in signals.items():  # all but the first second of the first window
            assert not list(stream.feed(self._part(name, 0, WINDOW - HOP)))
        self._began = time.monotonic()
        for due, name, chunk in self._chunks():
            rest = self._began + due - time.monotonic()
            if rest > 0:
                time.sleep(rest)
            start = WINDOW - HOP + chunk * CHUNK
            for window in signals[name].feed(self._part(name, start, CHUNK)):
                self.windows += 1
                if not lines[name].push(window):
                    return

    def _chunks(self) -> Iterator[tuple[float, str, int]]:
        number = int(self._seconds / self._period)
        yield from sorted(
            (phase + (chunk + 1) * self._period, name, chunk)
            for name, phase in self._phases.items()
            for chunk in range(number)
        )

    def _part(self, name: str, start: int, length: int) -> np.ndarray:
        at = (self._offsets[name] + start) % len(self._signal)
        part = self._signal[at : at + length]
        return part if len(part) == length else np.resize(self._signal[:length], length)


def start() -> None:
    """5. The first answer of a fresh process; 6. memory beside the bare engine's process."""
    for name, bundle, sample in (
        ("heartbeats", ecg(), heartbeat()),
        ("MobileNetV2-224", mobilenet(raw=False), pictures()[0]),
    ):
        found = {one.name: one for one in fresh_starts(bundle, sample)}
        ours, bare = found["edgeclin"], found["bare engine"]
        first = ours.first.at(0.5)
        assert first.value_ms is not None
        line(
            f"first answer, fresh process, {name}", f"{first.said} ms", "<= 1,000 ms",
            first.value_ms <= 1000,
        )  # fmt: skip
        line("  of the bare engine", f"{bare.first.at(0.5).said} ms", "")
        more = ours.rss_mb.median - bare.rss_mb.median
        line(
            f"memory above the bare engine, {name}",
            f"{more:.1f} MB ({ours.rss_mb.median:.1f} - {bare.rss_mb.median:.1f})",
            "<= 25 MB",
            more <= 25,
        )


def heartbeat() -> np.ndarray:
    with np.load(ROOT / "examples" / "ecg" / "data" / "test.npz") as arrays:
        return arrays["X"][0]


def fresh_starts(bundle: Path, sample: np.ndarray) -> list[fresh.Start]:
    opened = Bundle.open(bundle, allow_unsigned=True)
    chosen = executable(opened)
    with tempfile.TemporaryDirectory() as name:
        raw, ready, model = (Path(name) / part for part in ("raw.npy", "ready.npy", "model"))
        np.save(raw, sample)
        np.save(ready, engine_input(Runtime(opened), sample))
        model.write_bytes(chosen.model)
        commands = {
            "edgeclin": fresh.ours(bundle, raw, 1, [], allow_unsigned=True),
            "bare engine": fresh.bare(chosen.engine.backend, model, ready, 1),
        }
        return fresh.starts(commands, Limit(0, None, threading.Event()))


def day() -> None:
    """7. A day of windows, one a second, judged as fast as they come: nothing may grow.

    A day before it, of which the growth is told too, fills caches and the allocator's free lists.
    """
    bundle, signal, what = monitor()
    runtime = Runtime(Bundle.open(bundle, allow_unsigned=True))
    windows = 24 * 3600
    seen: list[tuple[int, float]] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=BUILD) as name, OfflineQueue(f"{name}/q.sqlite") as opened:
        for position in range(2 * windows + 1):
            at = position * HOP % (len(signal) - WINDOW)
            window = signal[at : at + WINDOW]
            result = runtime.predict(window, "day", position)
            asks = result.audit or result.state is State.PROVISIONAL
            opened.put(result, window if asks else None)
            if position % 64 == 63:
                drain(opened)
            if position % (windows // 200) == 0:
                seen.append((position, memory_mb()))
            if position == windows:
                descriptors = descriptors_open()
        size = sum(path.stat().st_size for path in Path(name).rglob("*") if path.is_file())
        left = descriptors_open()
    second = [one for one in seen if one[0] >= windows]
    slope, error = trend(second)
    spent = time.monotonic() - began
    line(
        f"24 h of windows in {spent / 2:.0f} s, {what}",
        f"{slope * windows:+.2f} +- {2.6 * error * windows:.2f} MB a day",
        "no growth",
        (slope + 2.6 * error) * windows < 0.1,
    )
    start, middle, end = seen[0][1], second[0][1], seen[-1][1]
    line("", f"{start:.1f} MB, {middle:.1f} MB after a day, {end:.1f} MB after two", "")
    line("", f"descriptors {descriptors} and {left}", "the same", descriptors == left)
    line("", f"queue's files {size / 2**20:.1f} MB at the end", "")


def trend(points: list[tuple[int, float]]) -> tuple[float, float]:
    """Least-squares slope of memory over positions, with its standard error."""
    at, memory = np.array(points, dtype=float).T
    centred = at - at.mean()
    slope = float(centred @ memory / (centred @ centred))
    rest = memory - memory.mean() - slope * centred
    return slope, float(np.sqrt(rest @ rest / (len(at) - 2) / (centred @ centred)))


def isolate() -> None:
    """What a process of the engine's own costs: `Runtime.predict` isolated and not, in turn."""
    data = ROOT / "examples" / "ecg" / "data" / "test.npz"
    with np.load(data) as arrays:
        beat = arrays["X"][0]
    for what, path, sample in (
        ("heartbeats", ecg(), beat),
        ("MobileNetV2-224, uint8 picture", mobilenet(raw=False), pictures()[0]),
    ):
        bundle = Bundle.open(path, allow_unsigned=True)
        here, apart = Runtime(bundle), Runtime(bundle, isolation=IsolationConfig())
        for _ in range(20):
            here.predict(sample)
            apart.predict(sample)
        limit = Limit(10, None, threading.Event())
        calls = partial(apart.predict, sample), partial(here.predict, sample)
        found = compare(in_turn(*calls, limit))
        assert found.above_us is not None
        above, alone = found.above_us, found.bare.at(0.5).value_ms or 0.0
        value = f"{above.value:.1f} us [{above.low:.1f}, {above.high:.1f}] + {1e3 * alone:.1f} us"
        line(f"isolated, {what}: p50", value, "")
        apart.close()


# -- helpers ---------------------------------------------------------------------------------------


def drain(opened: OfflineQueue) -> None:
    """Do as the cloud: settle every question, receive every row."""
    for question in opened.questions(limit=1000):
        opened.settle(wire.Opinion(question.result, "m" * 64, "yes", 0.9))
    last = opened.last_seq()
    opened.remove(wire.Receipt(epoch=opened.epoch, ranges=((1, last),)))


def replaced(result: Result, **changes: object) -> Result:
    import msgspec

    return msgspec.structs.replace(result, **changes)


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


def descriptors_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


PARTS = {part.__name__: part for part in (predict, picture, isolate, queue, streams, start, day)}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(PARTS)))
@click.option("--fresh", "anew", is_flag=True, help="Make the bundles anew.")
@click.option("--within", hidden=True, is_flag=True)
def main(names: tuple[str, ...], anew: bool, within: bool) -> None:
    """Measure NAMES (default: all of predict picture isolate queue streams start day)."""
    if within:
        for name in names:
            PARTS[name]()
        return
    if anew:
        shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    machine, before = look(), Moment.now()
    click.echo(f"{machine.cpu}, {machine.cores} cores, Linux {machine.kernel}\n")
    line("what", "measured", "target")
    for name in names or PARTS:
        subprocess.run([sys.executable, __file__, "--within", name], check=False)
    for warning in warnings(machine, before, Moment.now()):
        click.echo(f"warning: {warning}")


if __name__ == "__main__":
    main()
