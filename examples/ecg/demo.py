"""The whole way of the data on real heartbeats: convert, run, lose the network, deliver, review.

    python examples/ecg/demo.py [--out build/demo] [--seed N]

Every figure it prints and writes to `summary.json` is measured in that run. It exits non-zero
when a result was lost or counted twice, or a gate was missed.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from broker import LocalBroker, free_port
from link import Link

HERE = Path(__file__).parent
TEST = HERE / "data" / "test.npz"
ACCURACY_MARGIN = 0.005
"""INT8 may cost half a point of accuracy on the test beats."""
SITE, DEVICE = "demo-ward", "bed-1"
_PATIENCE_S = 120.0

DEVICE_TOML = """\
schema = 1
site = "{site}"
device = "{device}"
bundle = "{bundle}"
source = "{source}"

[queue]
path = "{queue}"

[broker]
port = {port}
reconnect_most_s = 2

[opinions]
deadline_s = 120

[sync]
receipt_timeout_s = 3
"""


@dataclass
class Service:
    """One edgeclin process, which can be killed and started again."""

    name: str
    arguments: Sequence[str]
    folder: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgeclin", "-v", *self.arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.environment,
            )

    def kill(self) -> int:
        """SIGKILL: no handler, no flush, no goodbye. Returns the process id that it had."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        return self.process.pid

    @property
    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def stop(self) -> int:
        """SIGTERM, then wait; returns the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@dataclass
class Demo:
    """One run of the demonstration below `folder`."""

    folder: Path
    seed: int
    rate: float
    beats: int
    services: dict[str, Service] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.environment = {**os.environ, "EDGECLIN_KEYS": str(self.folder / "keys")}

    def edgeclin(self, *arguments: str) -> None:
        """Run a command to its end, in sight."""
        click.secho(f"$ edgeclin {' '.join(arguments)}", dim=True)
        command = [sys.executable, "-m", "edgeclin", *arguments]
        status = subprocess.run(command, env=self.environment, check=False).returncode
        if status:
            raise SystemExit(status)

    def facts(self, *arguments: str) -> Any:
        """The JSON that a command prints."""
        command = [sys.executable, "-m", "edgeclin", *arguments, "--json"]
        done = subprocess.run(command, env=self.environment, check=True, stdout=subprocess.PIPE)
        return json.loads(done.stdout)

    def service(self, name: str, *arguments: str) -> None:
        self.services[name] = Service(name, arguments, self.folder, self.environment)
        self.services[name].start()

    def waiting(self) -> dict[str, int]:
        """What the device's queue holds, by `edgeclin queue status`."""
        status = self.facts("queue", "status", "--config", str(self.folder / "device.toml"))
        found = {name: entry["count"] for name, entry in status["waiting"].items()}
        return {**found, "last_seq": status["last_seq"]}


def convert(demo: Demo) -> None:
    """Step 1: keys, the INT8 bundle for the device, the float bundle for the cloud."""
    profile = "cpu-arm64" if platform.machine() == "aarch64" else "cpu-x86_64"
    demo.edgeclin("keys", "new")
    for name, chosen in (("edge", profile), ("cloud", str(HERE / "cloud-server.toml"))):
        demo.edgeclin(
            "convert",
            str(HERE / f"{name}.keras"),
            "--profile",
            chosen,
            "--description",
            str(HERE / f"{name}.toml"),
            "--calibration",
            str(HERE / "data" / "train.npz"),
            "--validation",
            str(HERE / "data" / "validation.npz"),
            "-o",
            str(demo.folder / f"{name}.edgeclin"),
        )


def start_cloud(demo: Demo, broker: LocalBroker) -> None:
    """Step 2: ingest and offload, straight at the broker."""
    address = f"127.0.0.1:{broker.port}"
    store = str(demo.folder / "store")
    demo.service(
        "ingest", "cloud", "ingest", "--store", store, "--broker", address, "--compact-every", "10"
    )
    demo.service(
        "offload", "cloud", "offload", str(demo.folder / "cloud.edgeclin"), "--broker", address
    )


def start_device(demo: Demo, link: Link) -> None:
    """Step 3: the two processes of the bedside, which see the broker through the link alone."""
    config = demo.folder / "device.toml"
    config.write_text(
        DEVICE_TOML.format(
            site=SITE,
            device=DEVICE,
            bundle=demo.folder / "edge.edgeclin",
            source=TEST,
            queue=demo.folder / "queue.sqlite",
            port=link.port,
        )
    )
    demo.service("run", "run", "--config", str(config), "--rate", str(demo.rate))
    demo.service("sync", "sync", "--config", str(config))


def lose_network(demo: Demo, link: Link) -> float:
    """Cut the link in the middle, kill a process meanwhile, mend it; returns the outage in s."""
    victim = demo.random.choice(["run", "sync", "ingest", "offload"])
    cut_at = int(demo.beats * demo.random.uniform(0.25, 0.4))
    kill_after = demo.random.uniform(1.0, 6.0)
    outage = demo.random.uniform(kill_after + 2.0, 10.0)
    _follow(demo, lambda done: done >= cut_at, "beats judged")
    began = time.monotonic()
    link.cut()
    click.echo(f"  network cut: the broker cannot be reached; waiting now: {_shown(demo)}")
    time.sleep(kill_after)
    click.echo(f"  inference goes on; waiting now: {_shown(demo)}")
    pid = demo.services[victim].kill()
    click.echo(f"  `edgeclin {victim}` (process {pid}) killed with SIGKILL, and started again")
    demo.services[victim].start()
    time.sleep(max(0.0, outage - (time.monotonic() - began)))
    click.echo(f"  network back; waiting now: {_shown(demo)}")
    link.mend()
    return time.monotonic() - began


def deliver(demo: Demo) -> None:
    """Wait until every beat is judged and nothing waits any more, then end all in good order."""
    _follow(demo, lambda done: demo.services["run"].ended, "beats judged")
    status = demo.services["run"].stop()
    if status:
        raise SystemExit(f"edgeclin run ended with {status}: see {demo.folder}/run.log")
    deadline = time.monotonic() + _PATIENCE_S
    while any(count for name, count in demo.waiting().items() if name != "last_seq"):
        if time.monotonic() > deadline:
            click.echo(f"  gave up after {_PATIENCE_S:.0f} s; still waiting: {_shown(demo)}")
            break
        time.sleep(0.5)
    for name in ("sync", "offload", "ingest"):
        demo.services[name].stop()


def _follow(demo: Demo, done: Callable[[int], bool], label: str) -> None:
    """A progress bar over the beats judged so far."""
    with click.progressbar(length=demo.beats, label=f"  {label}", show_eta=False) as bar:
        while True:
            position = _position(demo)
            bar.update(position - bar.pos)
            if done(position):
                return
            for service in demo.services.values():
                if service.ended and service.name != "run":
                    raise SystemExit(f"{service.name} ended: see {demo.folder}/{service.name}.log")
            time.sleep(0.3)


def _position(demo: Demo) -> int:
    path = demo.folder / "queue.sqlite"
    if not path.exists():
        return 0
    import sqlite3

    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        try:
            row = connection.execute("SELECT next FROM positions").fetchone()
        except sqlite3.OperationalError:  # the tables are being made
            return 0
    return int(row[0]) if row else 0


def _shown(demo: Demo) -> str:
    waiting = demo.waiting()
    rows = sum(waiting[tier] for tier in ("urgent", "routine", "bulk"))
    return f"{rows} results and reviews, {waiting['questions']} questions"


def summarise(demo: Demo, outage_s: float, broker: str) -> dict[str, Any]:
    """Every figure of this run, from the store, the bundles and the true labels."""
    from edgeclin.bundle import Bundle
    from edgeclin.cloud.analysis import Analysis
    from edgeclin.cloud.store import Store
    from edgeclin.keys import trusted_keys

    with np.load(TEST) as arrays:
        truth = arrays["y"]
    bundle = Bundle.open(
        demo.folder / "edge.edgeclin", trusted_keys([demo.folder / "keys" / "default.pub"])
    )
    names = bundle.manifest.output.labels
    proof = json.loads(bundle.read("verification.json"))
    store = Store(demo.folder / "store")
    analysis = Analysis(store.tables())
    store.close()
    outcomes = analysis.outcome_rows()
    figures = analysis.summary()
    by_beat = {row["position"]: row for row in outcomes}

    def accuracy(column: str) -> float:
        right = sum(by_beat[beat][column] == names[truth[beat]] for beat in by_beat)
        return right / len(truth)

    cloud = demo.facts("verify", str(demo.folder / "cloud.edgeclin"), "--validation", str(TEST))
    return {
        "accuracy_float": _keras_accuracy(truth),
        "accuracy_int8": accuracy("label"),
        "accuracy_cloud": cloud["measured"]["accuracy"],
        "accuracy_joint": accuracy("final_label"),
        "int8_bytes": proof["engine_bytes"],
        "float_bytes": proof["float_bytes"],
        "latency_ms": {
            "p50": figures["latency_p50_ms"],
            "p95": figures["latency_p95_ms"],
            "n": figures["latency_n"],
        },
        "results": _position(demo),
        "delivered": len(by_beat),
        "duplicates": figures["results"] - len(by_beat) + figures["duplicates"],
        "lost": demo.beats - len(by_beat),
        "offloaded": figures["offloaded"],
        "confirmed": figures["confirmed"],
        "amended": figures["amended"],
        "unreviewed": figures["unreviewed"],
        "provisional": figures["provisional"],
        "outage_s": outage_s,
        "broker": broker,
        "seed": demo.seed,
    }


def _keras_accuracy(truth: np.ndarray) -> float:
    """The trained model itself, before any conversion, on the test beats."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it announces itself at every level
    import keras

    from edgeclin.datasets import open_dataset
    from edgeclin.description import load_description
    from edgeclin.preprocess import Preprocess

    preprocess = Preprocess(load_description(HERE / "edge.toml").inputs[0])
    prepared = np.stack([preprocess(beat) for beat in open_dataset(TEST)])
    logits = keras.saving.load_model(HERE / "edge.keras", compile=False).predict(
        prepared, batch_size=256, verbose=0
    )
    return float((logits.argmax(axis=1) == truth).mean())


def faults(summary: dict[str, Any]) -> list[str]:
    """What must not have happened, in words."""
    found = []
    if summary["lost"]:
        found.append(f"{summary['lost']} results were lost")
    if summary["duplicates"]:
        found.append(f"{summary['duplicates']} results were counted twice")
    if summary["provisional"]:
        found.append(f"{summary['provisional']} answers are still provisional")
    cost = summary["accuracy_float"] - summary["accuracy_int8"]
    if cost > ACCURACY_MARGIN:
        found.append(f"INT8 costs {cost:.2%} of accuracy, more than {ACCURACY_MARGIN:.1%}")
    return found


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/demo"))
@click.option("--seed", type=int, help="Of the moments of faults (default: a new one).")
@click.option("--rate", type=float, default=120.0, help="Beats a second to replay.")
@click.option("--broker", type=click.Choice(["mosquitto", "iotcore"]), help="Default: as found.")
def main(out: Path, seed: int | None, rate: float, broker: str | None) -> None:
    """Show the whole way of the data on 4,500 real heartbeats."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with np.load(TEST) as arrays:
        beats = len(arrays["y"])
    chosen = seed if seed is not None else random.SystemRandom().randrange(10**6)
    demo = Demo(out.resolve(), chosen, rate, beats)
    click.secho("1. Convert the trained models, each through its gates", bold=True)
    convert(demo)
    server = LocalBroker(demo.folder, broker).start()
    click.secho(f"2. Start the cloud: {server.kind}, ingest and offload", bold=True)
    link = Link(free_port(), server.port)
    try:
        start_cloud(demo, server)
        click.secho(
            f"3. Judge {beats:,} test beats, replayed at {rate:g} a second (seed {chosen})",
            bold=True,
        )
        start_device(demo, link)
        outage_s = lose_network(demo, link)
        deliver(demo)
    finally:
        for service in demo.services.values():
            if service.process is not None and service.process.poll() is None:
                service.kill()
        link.close()
        server.stop()
    click.secho("4. Report", bold=True)
    report = demo.folder / "report.html"
    demo.edgeclin("cloud", "report", "--store", str(demo.folder / "store"), "-o", str(report))
    summary = summarise(demo, outage_s, server.kind)
    (demo.folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    click.echo(json.dumps(summary, indent=1))
    click.echo(f"report: {report}")
    missed = faults(summary)
    for fault in missed:
        click.secho(f"FAULT: {fault}", fg="red")
    if missed:
        raise SystemExit(3)
    click.secho("Nothing lost, nothing counted twice, every gate held.", fg="green")


if __name__ == "__main__":
    main()
