"""A watched folder: every file that comes is judged once, whatever happens meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from bedsides import PICTURE, bundle_of, judging, stored_results
from polling import wait_until

from edgeclin.bedside import Bedside
from edgeclin.bundle import Bundle
from edgeclin.description import Input
from edgeclin.inbox import LINE, Inbox
from edgeclin.manifest import Manifest
from edgeclin.offline_queue import ENDED, OfflineQueue
from edgeclin.records import Result
from edgeclin.runtime import Runtime
from edgeclin.sources import FolderWatch, ReplaySource
from edgeclin.steps import Window

SOON = {"poll_s": 0.01, "rest_s": 0.05, "missing_s": 0.2}
WAVE = np.sin(np.arange(16))


@pytest.fixture
def monitor(tmp_path: Path, manifest_and_files: tuple[Manifest, dict[str, bytes]]) -> Bundle:
    """Judges windows of 8 samples, every 2."""
    spec = Input(name="wave", kind="signal", shape=(8,), preprocessing=(Window(length=8, hop=2),))
    return bundle_of(tmp_path, manifest_and_files[0], spec, WAVE[:8])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


def watch(runtime: Runtime, folder: Path, **more: float) -> FolderWatch:
    return FolderWatch(folder, runtime.preprocess, runtime.require_fit, **{**SOON, **more})


def write(path: Path, values: np.ndarray = WAVE) -> None:
    """As a careful writer does: whole under another name, then renamed."""
    draft = path.with_name(f".{path.name}")
    draft.write_text("\n".join(map(str, values)))
    draft.rename(path)


def of_files(results: list[Result]) -> dict[str, list[int]]:
    """The positions that were judged, by the file's name."""
    found: dict[str, list[int]] = {}
    for result in results:
        found.setdefault(result.source.split("#")[0], []).append(result.position)
    return found


def test_files_that_come_are_judged_window_by_window_once(
    monitor: Bundle, folder: Path, queue: OfflineQueue
) -> None:
    runtime = Runtime(monitor)
    write(folder / "a.csv")
    with judging(runtime, queue, [watch(runtime, folder)]) as results:
        wait_until(lambda: len(results) == 5, "the file that was there")
        write(folder / "b.csv", WAVE[:10])
        wait_until(lambda: len(results) == 7, "the file that came")
        time.sleep(0.3)
    assert of_files(stored_results(queue)) == {"in/a.csv": [0, 1, 2, 3, 4], "in/b.csv": [0, 1]}
    assert sorted(path.name for path in folder.iterdir()) == ["a.csv", "b.csv"]


def test_a_restart_judges_only_what_is_new_also_with_another_bundle(
    monitor: Bundle, folder: Path, queue: OfflineQueue
) -> None:
    runtime = Runtime(monitor)
    for name, expected in (("a.csv", 5), ("b.csv", 5), ("c.csv", 5)):
        write(folder / name)
        monitor.digest = name[0] * 64
        with judging(runtime, queue, [watch(runtime, folder)]) as results:
            wait_until(lambda n=expected: len(results) == n, name)  # type: ignore[misc]
            time.sleep(0.3)
        assert of_files(results) == {f"in/{name}": [0, 1, 2, 3, 4]}


def test_a_file_that_was_left_half_way_goes_on_there(
    monitor: Bundle, folder: Path, queue: OfflineQueue
) -> None:
    runtime = Runtime(monitor)
    write(folder / "a.csv", np.sin(np.arange(204)))
    bedside = Bedside(runtime, queue, 60)

    def end_at_twenty(_: object, result: Result, __: object) -> None:
        if result.position == 20:
            bedside.inbox.stop()

    bedside.run([watch(runtime, folder)], end_at_twenty)
    with judging(runtime, queue, [watch(runtime, folder)]) as results:
        wait_until(lambda: len(results) == 99 - 21, "the rest of the file")
    assert of_files(stored_results(queue)) == {"in/a.csv": list(range(99))}


def test_a_kill_anywhere_loses_and_repeats_nothing(
    monitor: Bundle, folder: Path, tmp_path: Path
) -> None:
    """The process is killed as it judges, again and again, until all is judged."""
    for number in range(60):
        write(folder / f"{number}.csv")
    config = tmp_path / "device.toml"
    config.write_text(
        f'schema = 1\nsite = "w"\ndevice = "b"\nbundle = "{monitor.path}"\n'
        f'source = "watch:{folder}"\n[queue]\npath = "{tmp_path / "queue.sqlite"}"\n'
    )
    command = [sys.executable, "-m", "edgeclin", "run", "--config", str(config)]
    command += ["--allow-unsigned", "--json"]
    kills = 0
    while _count(tmp_path) < 300:
        assert (kills := kills + 1) < 20
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(min(97, 300 - _count(tmp_path))):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert kills >= 3
    with OfflineQueue(tmp_path / "queue.sqlite") as queue:
        judged = of_files(stored_results(queue))
    assert judged == {f"in/{number}.csv": [0, 1, 2, 3, 4] for number in range(60)}


def _count(folder: Path) -> int:
    with OfflineQueue(folder / "queue.sqlite") as queue:
        return len(stored_results(queue))


def test_a_file_that_changes_as_it_is_read_is_judged_as_it_is_in_the_end(
    monitor: Bundle, folder: Path, queue: OfflineQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(monitor)
    read = FolderWatch._samples
    changes = iter([True])

    def slow(self: FolderWatch, path: Path) -> Iterator[object]:
        samples = list(read(self, path))
        if next(changes, False):
            write(path, WAVE[:8])
        yield from samples

    monkeypatch.setattr(FolderWatch, "_samples", slow)
    write(folder / "a.csv")
    with judging(runtime, queue, [watch(runtime, folder)]) as results:
        wait_until(lambda: results, "the file as it is in the end")
        time.sleep(0.3)
    assert of_files(results) == {"in/a.csv": [0]}
    assert not results[0].rejected


def test_a_share_that_goes_is_waited_for_and_its_files_are_judged_once(
    monitor: Bundle, folder: Path, queue: OfflineQueue, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = Runtime(monitor)
    away = folder.with_name("away")
    write(folder / "a.csv")
    with judging(runtime, queue, [watch(runtime, folder)]) as results:
        wait_until(lambda: len(results) == 5, "the file that was there")
        folder.rename(away)
        wait_until(lambda: "waited for" in caplog.text, "the share is missed")
        wait_until(lambda: results.away, "an alarm while it is away")
        assert "No such file or directory: nothing comes from it now" in results.away[0]
        write(away / "b.csv", WAVE[:8])
        away.rename(folder)
        wait_until(lambda: len(results) == 6, "the file that came meanwhile")
        assert results.away == []
        time.sleep(0.3)
    assert of_files(results) == {"in/a.csv": [0, 1, 2, 3, 4], "in/b.csv": [0]}
    assert sum("waited for" in message for message in caplog.messages) == 1


def test_a_share_that_goes_while_its_files_wait_costs_none_of_them(
    monitor: Bundle, folder: Path, queue: OfflineQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(monitor)
    away = folder.with_name("away")
    for number in range(20):
        write(folder / f"{number}.csv", WAVE[:8])
    read = FolderWatch._samples

    def unmounting(self: FolderWatch, path: Path) -> Iterator[object]:
        if path.name == "7.csv" and not away.exists():
            folder.rename(away)
            folder.mkdir()  # the empty mount point
        return read(self, path)

    monkeypatch.setattr(FolderWatch, "_samples", unmounting)
    with judging(runtime, queue, [watch(runtime, folder)]) as results:
        wait_until(away.exists, "the share is gone")
        time.sleep(0.3)
        assert not any(result.rejected for result in results)
        folder.rmdir()
        away.rename(folder)
        monkeypatch.setattr(FolderWatch, "_samples", read)
        wait_until(lambda: len(results) >= 20, "all files")
        time.sleep(0.3)
    assert of_files(results) == {f"in/{number}.csv": [0] for number in range(20)}


def test_a_share_that_is_mounted_later_is_waited_for(
    monitor: Bundle, tmp_path: Path, queue: OfflineQueue, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = Runtime(monitor)
    later = tmp_path / "later"
    with judging(runtime, queue, [watch(runtime, later)]) as results:
        wait_until(lambda: "No such file or directory; it is waited for" in caplog.text, "word")
        later.mkdir()
        write(later / "a.csv", WAVE[:8])
        wait_until(lambda: len(results) == 1, "its file")
    assert not results[0].rejected


def test_many_files_wait_on_the_disk_and_not_in_memory(monitor: Bundle, folder: Path) -> None:
    runtime = Runtime(monitor)
    for number in range(50):
        write(folder / f"{number}.csv", WAVE[:8])
    inbox = Inbox()
    inbox.feed(watch(runtime, folder))
    wait_until(lambda: inbox.waiting == LINE, "a full line")
    time.sleep(0.3)
    assert inbox.waiting == LINE
    taken = Counter(inbox.take().stream for _ in range(50))  # type: ignore[union-attr]
    assert len(taken) == 50
    assert len(inbox._lines) == 1
    inbox.stop()


def test_new_files_go_before_those_that_were_there(monitor: Bundle, folder: Path) -> None:
    runtime = Runtime(monitor)
    for number in range(50):
        write(folder / f"old-{number}.csv", WAVE[:8])
    inbox = Inbox()
    inbox.feed(watch(runtime, folder))
    wait_until(lambda: inbox.waiting == LINE, "a full line")
    write(folder / "new.csv", WAVE[:8])
    order = []
    for _ in range(51):
        arrival = inbox.take()
        assert arrival is not None
        order.append(arrival.stream.split("#")[0])
        time.sleep(0.02)
    assert order.index("in/new.csv") < 30
    inbox.stop()


def test_a_watched_folder_and_a_replay_are_judged_side_by_side(
    monitor: Bundle, folder: Path, queue: OfflineQueue, tmp_path: Path
) -> None:
    from edgeclin.datasets import open_dataset

    runtime = Runtime(monitor)
    write(tmp_path / "long.csv", np.sin(np.arange(2_004)))
    replay = ReplaySource(open_dataset(tmp_path / "long.csv"), runtime.preprocess, 200)
    with judging(runtime, queue, [replay, watch(runtime, folder)]) as results:
        wait_until(lambda: len(results) > 20, "the replay")
        write(folder / "a.csv")
        wait_until(lambda: any(r.source.startswith("in/") for r in results), "the file")
        wait_until(lambda: len(results) == 999 + 5, "both")
    assert next(at for at, r in enumerate(results) if r.source.startswith("in/")) < 900


def test_text_beside_pictures_is_left_alone(
    tmp_path: Path, folder: Path, manifest_and_files: tuple[Manifest, dict[str, bytes]]
) -> None:
    cv2 = pytest.importorskip("cv2", reason="the vision extra is not installed")
    bundle = bundle_of(tmp_path, manifest_and_files[0], PICTURE, np.full((9, 9, 3), 99, np.uint8))
    runtime = Runtime(bundle)
    (folder / "notes.txt").write_text("seen by the ward")
    cv2.imwrite(str(folder / "a.png"), np.arange(300, dtype=np.uint8).reshape(10, 10, 3))
    source = FolderWatch(folder, runtime.preprocess, runtime.require_fit, pictures=True, **SOON)
    with OfflineQueue(tmp_path / "q.sqlite") as queue, judging(runtime, queue, [source]) as results:
        wait_until(lambda: results, "the picture")
        time.sleep(0.4)
        assert [result.source.split("#")[0] for result in results] == ["in/a.png"]


def test_the_queue_remembers_an_ended_stream_for_every_bundle(
    tmp_path: Path, make_result: Callable[..., Result]
) -> None:
    with OfflineQueue(tmp_path / "q.sqlite") as queue:
        queue.put(make_result(0, source="in/a"))
        assert queue.next_position("in/a", make_result().bundle) == 1
        assert queue.next_position("in/a", "n" * 64) == 0
        queue.put(make_result(1, source="in/a"), last=True)
        for bundle in (make_result().bundle, "n" * 64):
            assert queue.next_position("in/a", bundle) >= ENDED
        kept = queue._database.all("SELECT source FROM positions WHERE source = 'in/a'")
        assert len(kept) == 1, "a row for each file for good, not two"
        assert queue.next_position("in/b", make_result().bundle) == 0


def test_another_bundle_goes_on_in_the_middle_of_a_file_and_judges_nothing_again(
    monitor: Bundle, folder: Path, queue: OfflineQueue
) -> None:
    write(folder / "a.csv", np.sin(np.arange(80)))
    first = Bedside(Runtime(monitor), queue, 60)
    answered: list[Result] = []

    def stop_early(_: object, result: Result, __: object) -> None:
        answered.append(result)
        if len(answered) == 3:
            first.inbox.stop()

    first.run([watch(first.runtime, folder)], stop_early)
    assert 3 <= len(answered) < 37
    second = Runtime(monitor)
    second.bundle.digest = "n" * 64
    with judging(second, queue, [watch(second, folder)]) as results:
        wait_until(lambda: len(answered) + len(results) == 37, "the rest")
        time.sleep(0.3)
    assert len({result.source for result in (*answered, *results)}) == 1
    assert [result.position for result in (*answered, *results)] == list(range(37))
    assert {result.bundle for result in results} == {"n" * 64} != {answered[0].bundle}


def test_a_bundle_that_cuts_other_windows_leaves_no_part_of_a_file_out(
    monitor: Bundle,
    folder: Path,
    queue: OfflineQueue,
    tmp_path: Path,
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
) -> None:
    write(folder / "a.csv", np.sin(np.arange(80)))
    first = Bedside(Runtime(monitor), queue, 60)
    first.run([watch(first.runtime, folder)], lambda *_: first.inbox.stop())
    assert len(stored_results(queue)) < 37
    cut = (Window(length=8, hop=8),)
    spec = Input(name="other", kind="signal", shape=(8,), preprocessing=cut)
    second = Runtime(bundle_of(tmp_path, manifest_and_files[0], spec, WAVE[:8]))
    with judging(second, queue, [watch(second, folder)]) as results:
        wait_until(lambda: len(results) == 10, "all of the file")
    assert [result.position for result in results] == list(range(10))
    assert (
        queue.next_position(results[0].source, monitor.digest, first.runtime.preprocess.cut)
        >= ENDED
    )


def test_a_name_that_is_no_text_is_judged_too(
    monitor: Bundle, folder: Path, queue: OfflineQueue
) -> None:
    runtime = Runtime(monitor)
    for content, name in ((b"no numbers", b"/\xff.csv"), (b"1\n2\n" * 4, b"/\xfe.csv")):
        Path(os.fsdecode(os.fsencode(folder) + name)).write_bytes(content)
    with judging(runtime, queue, [watch(runtime, folder)]) as results:
        wait_until(lambda: len(results) == 2, "both files")
    assert sorted(result.rejected for result in results) == [False, True]


def test_a_real_record_that_is_copied_in_is_judged_whole(
    shared_data: Path,
    tmp_path: Path,
    folder: Path,
    queue: OfflineQueue,
    manifest_and_files: tuple[Manifest, dict[str, bytes]],
) -> None:
    """MIT-BIH 100: 650,000 samples of two leads at 360 Hz, in windows of 10 s."""
    cut = (Window(length=3_600, hop=3_600),)
    spec = Input(name="ecg", kind="signal", shape=(3_600, 2), sampling_hz=360, preprocessing=cut)
    sample = np.zeros((3_600, 2), np.float32)
    runtime = Runtime(bundle_of(tmp_path, manifest_and_files[0], spec, sample))
    with judging(runtime, queue, [watch(runtime, folder)]) as results:
        for suffix in ("hea", "dat"):
            shutil.copy(shared_data / "ecg_wfdb" / f"100.{suffix}", folder)
        wait_until(lambda: len(results) == 180, "all windows", 60)
        time.sleep(0.3)
    assert of_files(results) == {"in/100.hea": list(range(180))}
    assert not any(result.rejected for result in results)
