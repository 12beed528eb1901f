"""Another bundle takes over while samples come in, and one that must not does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from polling import wait_until

from edgeclin import swap
from edgeclin.bedside import Bedside
from edgeclin.bundle import Bundle, write_bundle
from edgeclin.description import Task
from edgeclin.health import RunHealth
from edgeclin.inbox import Inbox, Sample
from edgeclin.keys import KeyPair, load_signer, new_key_pair
from edgeclin.manifest import Manifest
from edgeclin.offline_queue import Notices, OfflineQueue, Stored
from edgeclin.records import Result
from edgeclin.runtime import Runtime
from edgeclin.steps import Window
from edgeclin.swap import Swap, mark

Put = Callable[..., Bundle]
Facts = tuple[Manifest, dict[str, bytes]]


@pytest.fixture
def put(bundle_path: Path, manifest_and_files: Facts, key_pair: KeyPair, trust: list[Any]) -> Put:
    """Puts another bundle at the path of the fixture `bundle`, in one step."""

    def put_one(
        changes: dict[str, Any] | None = None,
        files: dict[str, bytes] | None = None,
        key: KeyPair = key_pair,
    ) -> Bundle:
        manifest, own = manifest_and_files
        new = replace(manifest, **({"version": "2.0.0"} | (changes or {})))
        signer = load_signer(key.private)
        path = write_bundle(
            bundle_path.with_name("next.edgeclin"), new, own | (files or {}), signer
        )
        path.replace(bundle_path)
        return Bundle.open(bundle_path, trust, allow_unsigned=True)

    return put_one


@pytest.fixture
def bedside(bundle: Bundle, queue: OfflineQueue) -> Bedside:
    return Bedside(Runtime(bundle), queue, 60)


class Feed:
    """A stream that a test feeds, and what was answered."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self._ready, self._ended = threading.Event(), threading.Event()

    def deliver(self, inbox: Inbox) -> None:
        self._line = inbox.line("bed-3")
        self._ready.set()
        self._ended.wait()

    def count(self, stored: Stored, result: Result, sample: Sample) -> None:
        self.results.append(result)

    def answer(self, sample: np.ndarray) -> Result:
        """Deliver one sample and wait for its answer."""
        before = len(self.results)
        self._line.put(sample)
        wait_until(lambda: len(self.results) > before, "an answer")
        return self.results[-1]


@contextmanager
def feeding(bedside: Bedside) -> Iterator[Feed]:
    feed = Feed()
    loop = threading.Thread(target=bedside.run, args=([feed], feed.count))
    loop.start()
    try:
        assert feed._ready.wait(20)
        yield feed
    finally:
        feed._ended.set()
        bedside.inbox.stop()
        loop.join(20)
    assert not loop.is_alive()


def swapping(
    bedside: Bedside, path: Path, trust: list[Any], load: Callable[[Bundle], Runtime] = Runtime
) -> Swap:
    return Swap(path, mark(path), bedside, lambda: Bundle.open(path, trust), load)


def look_twice(made: Swap) -> None:
    """Once to see that it changed, and once to see that it changes no more."""
    made.look()
    made.look()


def test_another_bundle_answers_from_the_next_sample_on(
    bundle: Bundle, bedside: Bedside, put: Put, beats: np.ndarray, trust: list[Any]
) -> None:
    swapper = swapping(bedside, bundle.path, trust)
    with feeding(bedside) as feed:
        assert feed.answer(beats[0]).bundle == bundle.digest
        new = put()
        look_twice(swapper)
        assert feed.answer(beats[1]).bundle == new.digest != bundle.digest
    assert [result.position for result in feed.results] == [0, 1], "the stream goes on"
    health = bedside.health()
    assert (health.bundle, health.alarms) == (new.digest, ())


def test_what_is_still_being_written_is_not_looked_into(
    bundle: Bundle, bedside: Bedside, trust: list[Any]
) -> None:
    swapper = swapping(bedside, bundle.path, trust)
    whole = bundle.path.read_bytes()
    for size in range(100, len(whole), len(whole) // 5):
        bundle.path.write_bytes(whole[:size])
        swapper.look()
        assert bedside.refused == ""
    bundle.path.write_bytes(whole)
    look_twice(swapper)
    assert (bedside.refused, bedside.runtime.bundle) == ("", bundle), "and it is the same one"


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("lies", "self-test's answers are off"),
        ("unsigned", "sign"),
        ("damaged", "fetch the bundle again"),
        ("gone", "fake.edgeclin"),
        ("other input", "sampling_hz"),
        ("other windows", "restart the service"),
        ("other task", "answers classification; the bundle's task is segmentation"),
        ("no engine", "no-such-engine"),
    ],
)
def test_a_bundle_that_must_not_answer_does_not_and_the_old_one_goes_on(
    what: str,
    says: str,
    bundle: Bundle,
    bedside: Bedside,
    put: Put,
    beats: np.ndarray,
    trust: list[Any],
    tmp_path: Path,
    manifest_and_files: Facts,
) -> None:
    swapper = swapping(bedside, bundle.path, trust)
    manifest, files = manifest_and_files
    (spec,) = manifest.inputs
    if what == "lies":
        put(files={"engine.json": files["engine.json"].replace(b"8.0", b"7.5")})
    elif what == "unsigned":
        put(key=new_key_pair(tmp_path / "stranger"))
    elif what == "damaged":
        put()
        bundle.path.write_bytes(bundle.path.read_bytes()[:-40])
    elif what == "gone":
        bundle.path.unlink()
    elif what == "other input":
        put({"inputs": (replace(spec, sampling_hz=999.0),)})
    elif what == "other windows":
        steps = (Window(length=140, hop=70), *spec.preprocessing)
        put({"inputs": (replace(spec, preprocessing=steps),)})
    elif what == "other task":
        put({"task": Task.SEGMENTATION})
    else:
        put({"engines": (replace(manifest.engines[0], backend="no-such-engine"),)})
    with feeding(bedside) as feed:
        look_twice(swapper)
        assert feed.answer(beats[0]).bundle == bundle.digest
        (alarm,) = bedside.health().alarms
        assert says in alarm
        assert alarm.startswith(f"bundle {bundle.digest[:12]} goes on, since what stands at")
        new = put({"version": "3.0.0"})
        look_twice(swapper)
        assert bedside.health().alarms == ()
        assert feed.answer(beats[1]).bundle == new.digest


def test_a_change_while_the_first_bundle_was_loaded_is_seen(
    bundle: Bundle, queue: OfflineQueue, put: Put, trust: list[Any]
) -> None:
    seen, first = mark(bundle.path), Runtime(bundle)
    new = put()
    bedside = Bedside(first, queue, 60)
    look_twice(Swap(bundle.path, seen, bedside, lambda: Bundle.open(bundle.path, trust), Runtime))
    assert bedside.runtime.bundle.digest == new.digest


def test_an_old_engine_that_cannot_be_closed_is_no_reason_to_say_that_it_goes_on(
    bundle: Bundle,
    bedside: Bedside,
    put: Put,
    trust: list[Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def held() -> None:
        raise OSError("a driver holds it")

    bedside.runtime.backend.close = held  # type: ignore[method-assign]
    swapper = swapping(bedside, bundle.path, trust)
    new = put()
    look_twice(swapper)
    health = bedside.health()
    assert (health.bundle, health.alarms) == (new.digest, ())
    assert "could not be closed" in caplog.text


def test_answers_go_on_while_the_other_bundle_loads(
    bundle: Bundle, bedside: Bedside, put: Put, beats: np.ndarray, trust: list[Any]
) -> None:
    loading, loaded = threading.Event(), threading.Event()

    def load(opened: Bundle) -> Runtime:
        loading.set()
        assert loaded.wait(20)
        return Runtime(opened)

    swapper = swapping(bedside, bundle.path, trust, load=load)
    new = put()
    with feeding(bedside) as feed:
        taking = threading.Thread(target=look_twice, args=(swapper,))
        taking.start()
        assert loading.wait(20)
        assert feed.answer(beats[0]).bundle == bundle.digest
        loaded.set()
        taking.join(20)
        assert feed.answer(beats[1]).bundle == new.digest


def test_an_engine_is_closed_only_when_its_last_sample_is_answered(
    bundle: Bundle, bedside: Bedside, put: Put, beats: np.ndarray, trust: list[Any]
) -> None:
    began, goes_on, events = threading.Event(), threading.Event(), []
    backend = bedside.runtime.backend
    run, close = backend.run, backend.close

    def slow(sample: np.ndarray) -> np.ndarray:
        began.set()
        assert goes_on.wait(20)
        events.append("answered")
        return run(sample)

    def closed() -> None:
        events.append("closed")
        close()

    backend.run, backend.close = slow, closed  # type: ignore[method-assign]
    swapper = swapping(bedside, bundle.path, trust)
    put()
    with feeding(bedside) as feed:
        feed._line.put(beats[0])
        assert began.wait(20)
        taking = threading.Thread(target=look_twice, args=(swapper,))
        taking.start()
        taking.join(0.2)
        goes_on.set()
        taking.join(20)
        wait_until(lambda: len(feed.results) == 1, "the answer of the old engine")
    assert events == ["answered", "closed"]
    assert feed.results[0].bundle == bundle.digest


def test_a_folder_is_a_bundle_too(
    tmp_path: Path, manifest_and_files: Facts, queue: OfflineQueue, key_pair: KeyPair
) -> None:
    manifest, files = manifest_and_files
    folder = write_bundle(tmp_path / "model", manifest, files, None)
    assert folder.is_dir()
    first = Bundle.open(folder, (), allow_unsigned=True)
    bedside = Bedside(Runtime(first), queue, 60)
    swapper = Swap(
        folder, mark(folder), bedside, lambda: Bundle.open(folder, (), allow_unsigned=True), Runtime
    )
    look_twice(swapper)
    assert bedside.runtime.bundle is first
    folder.rename(tmp_path / "old")
    write_bundle(tmp_path / "model", replace(manifest, version="2.0.0"), files, None)
    look_twice(swapper)
    assert bedside.runtime.bundle.manifest.version == "2.0.0"


@contextmanager
def running(folder: Path, bundle: Bundle, *options: str) -> Iterator[Callable[[], dict[str, Any]]]:
    """`edgeclin run` on a bundle's path; what is yielded gives it one heartbeat to judge."""
    config = folder / "device.toml"
    config.write_text(
        f'schema = 1\nsite = "s"\ndevice = "d"\nbundle = "{bundle.path}"\nsource = "-"\n'
        f'[queue]\npath = "{folder / "queue.sqlite"}"\n'
    )
    line = json.dumps([0.0, 1.0] * 70) + "\n"
    with subprocess.Popen(
        [sys.executable, "-m", "edgeclin", "run", "--config", config, "--json", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def answer() -> dict[str, Any]:
            process.stdin.write(line)
            process.stdin.flush()
            return dict(json.loads(process.stdout.readline())["result"])

        yield answer
        process.stdin.close()
        assert process.wait(20) == 0


def test_run_takes_another_bundle_while_lines_come_in(
    tmp_path: Path, bundle: Bundle, key_pair: KeyPair, put: Put
) -> None:
    found: list[dict[str, Any]] = []
    with running(tmp_path, bundle, "--trust", str(key_pair.public)) as answer:
        assert answer()["bundle"] == bundle.digest
        new = put()

        def answers_anew() -> bool:
            found.append(answer())
            return bool(found[-1]["bundle"] == new.digest)

        wait_until(answers_anew, "an answer of the new bundle", 30)
    assert [one["position"] for one in found] == list(range(1, len(found) + 1))
    assert {one["bundle"] for one in found} == {bundle.digest, new.digest}


@pytest.mark.parametrize("fault", ["segfault", "abort"])
def test_run_goes_on_when_another_bundles_engine_crashes(
    tmp_path: Path, unsound: Path, engines_of: Callable[..., Bundle], fault: str
) -> None:
    notices = Notices(tmp_path / "queue.sqlite")

    def alarms() -> str:
        told = notices.told(RunHealth)
        return "" if told is None else " ".join(told.health.alarms)

    first = engines_of("unsound")
    with running(tmp_path, first, "--allow-unsigned") as answer:
        assert answer()["bundle"] == first.digest
        (unsound / "unsound-twin").write_text(fault)
        crashing = engines_of("unsound-twin", version="2.0.0")
        crashing.path.replace(first.path)
        wait_until(lambda: "while it loaded" in alarms(), "an alarm", 30)
        assert alarms().startswith(f"bundle {first.digest[:12]} goes on, since what stands at")
        assert answer()["bundle"] == first.digest
        (unsound / "unsound-twin").unlink()
        os.utime(first.path)
        wait_until(lambda: answer()["bundle"] == crashing.digest, "the mended one", 30)


def test_a_bundle_that_does_not_come_to_an_end_with_loading_is_told(
    bundle: Bundle, bedside: Bedside, put: Put, trust: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swap, "SLOW_S", 0.01)
    new, told = put(), []

    def load(opened: Bundle) -> Runtime:
        wait_until(lambda: bedside.refused, "an alarm")
        told.append(bedside.refused)
        return Runtime(opened)

    swapper = Swap(bundle.path, (), bedside, lambda: Bundle.open(bundle.path, trust), load)
    look_twice(swapper)
    (alarm,) = told
    assert alarm.startswith(f"bundle {bundle.digest[:12]} goes on, since what stands at")
    assert alarm.endswith("has been loading for 0.01 s: restart the service if it stays so")
    assert (bedside.refused, bedside.runtime.bundle.digest) == ("", new.digest)


def test_the_loop_is_not_held_up_by_an_engine_that_hangs_while_it_loads(
    bundle: Bundle,
    bedside: Bedside,
    put: Put,
    trust: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(swap, "LOOK_S", 0.01)
    monkeypatch.setattr(swap, "_END_S", 0.1)
    hangs, ended = threading.Event(), threading.Event()

    def load(opened: Bundle) -> Runtime:
        hangs.set()
        ended.wait()
        raise AssertionError

    swapper = swapping(bedside, bundle.path, trust, load)
    put()
    with swapper:
        assert hangs.wait(20)
    assert bedside.runtime.bundle is bundle
    ended.set()
