"""A disk that turns read-only under a device, as ext4 does after an error: all say so and end, and
what was acknowledged is there once the disk is mended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from broker import LocalBroker, free_port
from click.testing import CliRunner
from click.testing import Result as Done
from polling import wait_until

from edgeclin import wire
from edgeclin.cli import main
from edgeclin.config import BrokerConfig
from edgeclin.errors import EdgeclinError, QueueUnusable
from edgeclin.health import SyncHealth
from edgeclin.keys import KeyPair
from edgeclin.offline_queue import Notices, OfflineQueue, look, waiting
from edgeclin.records import Result, State, Tier
from edgeclin.transport.mqtt import MQTTTransport

Make = Callable[..., Result]
BEATS = 300
READ_ONLY = "the disk is read-only"


class Disk:
    """A file system of 32 megabytes in a file."""

    def __init__(self, image: Path, folder: Path) -> None:
        self._image, self.folder = image, folder
        with image.open("wb") as file:
            file.truncate(32 << 20)
        _call("mkfs.ext4", "-q", "-F", image)
        self._mount()

    def fail(self) -> None:
        """Have the kernel meet an error, upon which it makes the disk read-only at once, whoever
        has files open on it; `mount -o remount,ro` would refuse to."""
        device = self.folder.stat().st_dev
        block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
        Path(f"/sys/fs/ext4/{block}/trigger_fs_error").write_text("a test's")

    def mend(self) -> None:
        """Mount it anew, as the next start of a device does: only then it may be written again."""
        self.unmount()
        self._mount()

    def remount(self, how: str) -> None:
        _call("mount", "-o", f"remount,{how}", self.folder)

    def unmount(self, *options: str) -> None:
        _call("umount", *options, self.folder)

    def _mount(self) -> None:
        _call("mount", "-o", "loop,errors=remount-ro", self._image, self.folder)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        made = Disk(tmp_path / "disk.img", folder)
    except (subprocess.CalledProcessError, FileNotFoundError) as exc:
        pytest.skip(f"ext4 in a file cannot be made or mounted here: {exc}")
    yield made
    made.unmount("--lazy")  # a test that fails leaves files open


class Device:
    """A device whose queue is on the disk, its broker and a cloud beside that."""

    def __init__(self, folder: Path, disk: Disk, bundle: Path, keys: Path) -> None:
        self.queue = disk.folder / "queue.sqlite"
        self._broker = LocalBroker(folder).start()
        self._config = folder / "device.toml"
        self._config.write_text(
            f'schema = 1\nsite = "ward"\ndevice = "bed"\nbundle = "{bundle}"\n'
            f'source = "{folder / "beats.npz"}"\n[queue]\npath = "{self.queue}"\n'
            f"[broker]\nport = {self._broker.port}\nreconnect_most_s = 0.5\n"
            "[sync]\nreceipt_timeout_s = 1\n[opinions]\ndeadline_s = 1\n"
        )
        self._environment = {**os.environ, "EDGECLIN_KEYS": str(keys)}
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command of its own process; its log goes with its last line."""
        process = subprocess.Popen(
            [sys.executable, "-m", "edgeclin", *words, "--config", str(self._config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        self._started.append(process)
        return process

    def __call__(self, *words: str) -> Done:
        """A command that ends by itself."""
        return CliRunner().invoke(main, [*words, "--config", str(self._config)])

    def transport(self) -> MQTTTransport:
        return MQTTTransport(BrokerConfig(port=self._broker.port), "ingest")

    def ids(self) -> list[str]:
        return [one.row.id for one in waiting(self.queue)]

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self._broker.stop()


@pytest.fixture
def device(
    tmp_path: Path, disk: Disk, bundle_path: Path, key_pair: KeyPair, beats: np.ndarray
) -> Iterator[Device]:
    np.savez(tmp_path / "beats.npz", X=beats[:BEATS])
    made = Device(tmp_path, disk, bundle_path, key_pair.public.parent)
    yield made
    made.close()


def test_nothing_that_a_queue_can_do_pretends_to_be_stored(disk: Disk, make_result: Make) -> None:
    path, now = disk.folder / "queue.sqlite", [0.0]
    queue = OfflineQueue(path, uptime=lambda: now[0], boot="this", routine_sync_s=0.02)
    stored = [queue.put(make_result(at, tier=tuple(Tier)[at % 3])) for at in range(30)]
    noise = np.random.default_rng(0).random(30_000)
    asks = {"state": State.PROVISIONAL}
    small = queue.put(make_result(30, **asks), np.zeros(10), deadline_s=5.0)
    large = queue.put(make_result(31, **asks), noise, deadline_s=5.0)
    queue.remember("fact", "kept")
    queue.flush()
    disk.fail()
    now[0] = 10.0
    opinion = wire.Opinion(result=small.id, model="m" * 64, label="normal", confidence=0.9)
    works: dict[str, Callable[[], object]] = {
        **{f"put {tier}": lambda tier=tier: queue.put(make_result(32, tier=tier)) for tier in Tier},
        "put, and ask": lambda: queue.put(make_result(32, **asks), np.zeros(10)),
        "put, and ask at length": lambda: queue.put(make_result(32, **asks), noise),
        "remove": lambda: queue.remove(wire.Receipt(epoch=queue.epoch, ranges=((1, 30),))),
        "settle": lambda: queue.settle(opinion),
        "expire": queue.expire,
        "remember": lambda: queue.remember("fact", "new"),
        "set aside": lambda: queue.set_aside(1, "no reason"),
        "purge": lambda: queue.purge(time.time() + 1e6, list(Tier)),
    }
    for name, work in works.items():
        with pytest.raises(QueueUnusable) as caught:
            work()
        assert str(caught.value) == f"{path}: {READ_ONLY}", name
    unsafe = f"{path}: what was stored last is not safe from a power cut (Read-only file system)"
    for last in (queue.flush, queue.close):
        with pytest.raises(QueueUnusable) as caught:
            last()
        assert str(caught.value) == unsafe
    with pytest.raises(QueueUnusable, match=r"cannot be opened \(.*Read-only file system"):
        OfflineQueue(path)
    everything = {one.id for one in (*stored, small, large)}
    assert {one.row.id for one in waiting(path)} == everything, "and all of it can be read"
    disk.mend()
    with OfflineQueue(path, uptime=lambda: now[0], boot="this") as queue:
        assert {one.row.id for one in waiting(path)} == everything
        assert queue.remembered("fact") == "kept"
        assert len(list((disk.folder / "queue.sqlite.payloads").iterdir())) == 1
        assert len(queue.expire()) == 2
        assert queue.put(make_result(32)).seq > large.seq


def test_a_disk_that_cannot_be_made_safe_is_told_once_and_not_at_every_try(
    disk: Disk, make_result: Make, caplog: pytest.LogCaptureFixture
) -> None:
    queue = OfflineQueue(disk.folder / "queue.sqlite", routine_sync_s=0.02)
    disk.fail()
    queue._database._dirty[Tier.ROUTINE] = 0.0  # as after a `put` that the error followed at once
    queue._database._due.set()
    wait_until(lambda: "is not safe from a power cut" in caplog.text, "an alarm")
    time.sleep(0.2)
    assert caplog.text.count("is not safe from a power cut") == 1
    with suppress(QueueUnusable):
        queue.close()


def test_a_queue_without_a_log_is_read_from_a_disk_that_has_failed(
    disk: Disk, device: Device, make_result: Make
) -> None:
    with OfflineQueue(device.queue) as queue:
        stored = [queue.put(make_result(at)).id for at in range(3)]
    disk.fail()
    assert not Path(f"{device.queue}-wal").exists()
    shown = device("queue", "status")
    assert shown.exit_code == 0, shown.output
    assert f"the disk of {device.queue} is read-only: nothing can be stored" in shown.output
    assert device.ids() == stored


def test_a_queue_whose_process_was_killed_is_read_from_a_disk_that_is_mounted_read_only(
    disk: Disk, device: Device, make_result: Make
) -> None:
    run = device.start("run", "--rate", "100")
    wait_until(lambda: _stored(device.queue) > 20, "some answers")
    run.kill()
    run.wait()
    kept = device.ids()
    disk.remount("ro")
    assert device.ids() == kept
    assert "is read-only: nothing can be stored" in device("queue", "status").output
    assert json.loads(device("queue", "status", "--json").output)["last_seq"] == len(kept)
    again = device.start("run")
    assert again.wait(timeout=30) == 4
    disk.remount("rw")
    assert "read-only" not in device("queue", "status").output
    assert device.start("run").wait(timeout=60) == 0
    assert len(set(device.ids())) == len(device.ids()) == BEATS


def test_run_ends_with_one_line_and_goes_on_where_it_was_once_the_disk_is_mended(
    disk: Disk, device: Device, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow", reason="the cloud extra is not installed")
    from edgeclin.cloud.ingest import Ingest
    from edgeclin.cloud.store import Store

    run = device.start("run", "--rate", "100", "--json")
    wait_until(lambda: _stored(device.queue) > 50, "some answers")
    disk.fail()
    printed, said = run.communicate(timeout=30)
    assert run.returncode == 4, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == f"edgeclin: {device.queue}: {READ_ONLY}"
    assert said.count("ALARM") <= 2, "of the flush in time and of the last one"
    acknowledged = [json.loads(line)["id"] for line in printed.splitlines()]
    again = device.start("run")
    _, said = again.communicate(timeout=30)
    assert (again.returncode, said.count("\n")) == (4, 1)
    assert "cannot be opened" in said
    assert "Read-only file system" in said

    assert device("queue", "status").exit_code == 0
    listed = json.loads(device("queue", "list", "--limit", "1000", "--json").output)
    assert set(acknowledged) <= {row["id"] for row in listed}
    exported = tmp_path / "rescued.jsonl"
    assert device("queue", "export", "-o", str(exported)).exit_code == 0
    rescued = [json.loads(line)["id"] for line in exported.read_text().splitlines()]
    assert set(acknowledged) <= set(rescued), "also what no power cut would have left"
    refused = device("queue", "purge", "--older-than", "0", "--yes")
    assert (refused.exit_code, refused.output.count("\n")) == (4, 1)
    assert f"{disk.folder} is read-only" in device("doctor").output

    disk.mend()
    kept = set(device.ids())
    assert set(acknowledged[:-40]) <= kept, "all but those of the last moment"
    assert device.start("run").wait(timeout=60) == 0
    store = Store(tmp_path / "store")
    ingest = Ingest(store, device.transport())
    ingest.open()
    assert device.start("sync", "--until-empty").wait(timeout=60) == 0
    ingest.close()
    table = store.tables()["result"]
    assert sorted(table.column("position").to_pylist()) == list(range(BEATS))
    assert kept <= set(table.column("id").to_pylist())
    store.close()


def test_the_endpoint_says_that_nothing_can_be_stored_before_a_sample_comes(
    disk: Disk, device: Device, beats: np.ndarray
) -> None:
    pytest.importorskip("uvicorn", reason="the http extra is not installed")
    port = free_port()
    run = device.start("run", "--rate", "0.001", "--http", str(port))
    wait_until(lambda: _asked(port, "/health")[0] == 200, "the endpoint")
    wait_until(lambda: _stored(device.queue) == 1, "the first answer of its source")
    disk.fail()
    wait_until(lambda: _asked(port, "/health")[0] == 503, "that it serves no more")
    health = json.loads(_asked(port, "/health")[1])
    assert health["alarms"] == ["the disk is read-only: nothing can be stored"]
    sample = json.dumps(beats[0].tolist()).encode()
    status, answer = _asked(port, "/predict", sample)
    assert status == 503
    assert b"stored nothing" in answer
    assert run.wait(timeout=30) == 4


def test_sync_ends_with_one_line_when_it_cannot_delete_and_delivers_once_the_disk_is_mended(
    disk: Disk, device: Device, tmp_path: Path, make_result: Make
) -> None:
    pytest.importorskip("pyarrow", reason="the cloud extra is not installed")
    from edgeclin.cloud.ingest import Ingest
    from edgeclin.cloud.store import Store

    with OfflineQueue(device.queue) as queue:
        stored = [queue.put(make_result(at)).id for at in range(100)]
    sync, notices = device.start("sync"), Notices(device.queue)
    wait_until(
        lambda: (told := notices.told(SyncHealth)) is not None and told.health.sent > 0,
        "a first batch",
    )
    disk.fail()
    store = Store(tmp_path / "store")
    ingest = Ingest(store, device.transport())
    ingest.open()
    _, said = sync.communicate(timeout=30)
    assert sync.returncode == 4, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == f"edgeclin: {device.queue}: {READ_ONLY}"
    assert device.ids() == stored, "what the cloud has receipted waits all the same"
    disk.mend()
    again = device.start("sync", "--until-empty")
    assert again.wait(timeout=60) == 0
    ingest.close()
    assert sum(usage.count for usage in look(device.queue).waiting.values()) == 0
    assert sorted(store.tables()["result"].column("id").to_pylist()) == stored
    store.close()


def test_sync_that_is_stopped_on_a_read_only_disk_says_what_is_not_safe(
    disk: Disk, device: Device, make_result: Make
) -> None:
    with OfflineQueue(device.queue) as queue:
        queue.put(make_result())
    sync, notices = device.start("sync"), Notices(device.queue)
    wait_until(lambda: notices.told(SyncHealth) is not None, "a start")
    disk.fail()
    sync.send_signal(signal.SIGTERM)
    _, said = sync.communicate(timeout=30)
    assert sync.returncode == 4, said
    assert said.splitlines()[-1].startswith(f"edgeclin: {device.queue}: what was stored last")


def _stored(queue: Path) -> int:
    """How many rows were stored in all."""
    with suppress(EdgeclinError):
        return look(queue).last_seq
    return 0


def _asked(port: int, path: str, sample: bytes | None = None) -> tuple[int, bytes]:
    """What the endpoint answers; 0 before there is one."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", sample)
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read()
    except OSError:
        return 0, b""


def _call(*command: object) -> None:
    subprocess.run(
        [str(part) for part in command],
        check=True,
        capture_output=True,
        env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
    )
