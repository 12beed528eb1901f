"""A second bundle judges along: recorded, shown to nobody, and in nobody's way."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from bedsides import Scripted
from click.testing import CliRunner
from msgspec.structs import replace
from polling import wait_until

from edgeclin.backends.fake import FakeBackend
from edgeclin.bedside import Bedside
from edgeclin.bundle import Bundle, write_bundle
from edgeclin.cli import main
from edgeclin.config import IsolationConfig
from edgeclin.errors import BadInput, EngineUnavailable
from edgeclin.golden import read_golden, write_golden
from edgeclin.health import wilson
from edgeclin.inbox import Sample
from edgeclin.keys import KeyPair, load_signer
from edgeclin.manifest import Manifest
from edgeclin.offline_queue import OfflineQueue
from edgeclin.preprocess import Preprocess
from edgeclin.records import Result, State, Tier
from edgeclin.runtime import Runtime
from edgeclin.shadow import LINE, Shadow


@pytest.fixture
def second_path(
    tmp_path: Path, manifest_and_files: tuple[Manifest, dict[str, bytes]], key_pair: KeyPair
) -> Path:
    """A bundle of which the engine often finds another label."""
    manifest, files = manifest_and_files
    other = files | {"engine.json": files["engine.json"].replace(b"8.0", b"-8.0")}
    backend, preprocess = FakeBackend(other["engine.json"]), Preprocess(manifest.inputs[0])
    inputs, _ = read_golden(files["golden.npz"], False)
    outputs = np.stack([backend.run(preprocess(sample)) for sample in inputs])
    other["golden.npz"] = write_golden(list(inputs), outputs)
    signer = load_signer(key_pair.private)
    return write_bundle(
        tmp_path / "second.edgeclin", replace(manifest, version="2.0.0"), other, signer
    )


@pytest.fixture
def second(second_path: Path, trust: list[Any]) -> Bundle:
    return Bundle.open(second_path, trust)


Judge = Callable[..., list[Result]]


def judged(shadow: Shadow) -> int:
    health = shadow.health()
    return health.compared + health.unanswered


@pytest.fixture
def judge(bundle: Bundle, queue: OfflineQueue) -> Judge:
    """Answers samples one by one, each once the shadow has judged the one before."""

    def judge_all(shadow: Shadow, samples: list[Sample]) -> list[Result]:
        answers: list[Result] = []
        before = judged(shadow)
        bedside = Bedside(Runtime(bundle, draw=lambda: 1.0), queue, 60, shadow=shadow)

        def told(_: object, result: Result, __: Sample) -> None:
            answers.append(result)
            wanted = before + sum(not answer.rejected for answer in answers)
            wait_until(lambda: judged(shadow) == wanted, "the shadow's answer")

        bedside.run([Scripted(samples)], told)
        own = shadow.health()
        health = bedside.health()
        assert health.shadow in (own, shadow.health()), "an engine may die meanwhile"
        assert sum(health.states.values()) == len(answers), "a shadow's answers are none"
        return answers

    return judge_all


def stored(queue: OfflineQueue, tier: Tier) -> list[Result]:
    rows = queue.pending(tier, limit=999)
    return [msgspec.json.decode(row.body, type=Result) for row in rows]


def test_a_shadow_judges_what_was_answered_and_health_says_how_far_they_agree(
    bundle: Bundle, second: Bundle, queue: OfflineQueue, judge: Judge, beats: np.ndarray
) -> None:
    with Shadow(lambda: Runtime(second), queue) as shadow:
        answers = judge(shadow, [*beats[:40], BadInput("lead off")])
    own = [Runtime(second).predict(beat) for beat in beats[:40]]
    agreed = sum(mine.label == shown.label for mine, shown in zip(own, answers, strict=False))
    both = [
        mine.label == shown.label
        for mine, shown in zip(own, answers, strict=False)
        if mine.state is shown.state is State.FINAL
    ]
    assert 0 < len(both) < 40
    assert agreed < 40
    health = shadow.health()
    assert (health.bundle, health.beside) == (second.digest, bundle.digest)
    assert (health.compared, health.agreed) == (40, agreed)
    assert (health.sure, health.sure_agreed) == (len(both), sum(both))
    assert (health.unanswered, health.missed, health.problem) == (0, 0, "")
    low, high = wilson(agreed, 40)
    assert f"[{low:.1%}, {high:.1%}], n = 40" in str(health)


def test_a_shadows_answers_are_bulk_name_the_answer_beside_them_and_ask_nothing(
    bundle: Bundle, second: Bundle, queue: OfflineQueue, judge: Judge, beats: np.ndarray
) -> None:
    with Shadow(lambda: Runtime(second, draw=lambda: 0.0), queue) as shadow:
        judge(shadow, [*beats[:20]])
    shown = {
        row.id: msgspec.json.decode(row.body, type=Result)
        for tier in (Tier.URGENT, Tier.ROUTINE)
        for row in queue.pending(tier, limit=999)
    }
    own = stored(queue, Tier.BULK)
    assert len(own) == len(shown) == 20
    assert {answer.bundle for answer in own} == {second.digest}
    for answer in own:
        beside = shown[answer.shadow_of]
        assert (answer.source, answer.position) == (beside.source, beside.position)
        assert not answer.audit
    assert any(answer.state is State.PROVISIONAL for answer in own)
    asking = sum(answer.state is State.PROVISIONAL for answer in shown.values())
    assert queue.standing().waiting["questions"].count == asking
    assert queue.next_position("scripted", bundle.digest) == 20
    assert queue.next_position("scripted", second.digest) == 0


def test_answers_wait_for_no_shadow_and_what_it_misses_is_counted(
    bundle: Bundle, second: Bundle, queue: OfflineQueue, beats: np.ndarray
) -> None:
    goes_on = threading.Event()

    def load() -> Runtime:
        assert goes_on.wait(20)
        return Runtime(second)

    with Shadow(load, queue) as shadow:
        bedside = Bedside(Runtime(bundle), queue, 60, shadow=shadow)
        bedside.run([Scripted([*beats[:30]])], lambda *_: None)
        assert str(shadow.health()) == "nothing compared yet; 22 missed"
        goes_on.set()
    health = shadow.health()
    assert (health.compared, health.missed) == (LINE, 30 - LINE)
    assert [answer.position for answer in stored(queue, Tier.BULK)] == list(range(22, 30))


def test_a_shadow_that_cannot_be_loaded_is_told_and_answers_go_on(
    bundle: Bundle, queue: OfflineQueue, beats: np.ndarray
) -> None:
    def load() -> Runtime:
        raise EngineUnavailable("no such engine")

    with Shadow(load, queue) as shadow:
        bedside = Bedside(Runtime(bundle), queue, 60, shadow=shadow)
        bedside.run([Scripted([*beats[:20]])], lambda *_: None)
        wait_until(lambda: shadow.health().problem, "the problem")
    assert shadow.health().problem == "it does not judge: no such engine"
    assert sum(bedside.health().states.values()) == 20
    assert bedside.health().alarms == ()


def test_a_sample_that_the_shadow_cannot_judge_is_unanswered_not_agreed(
    bundle: Bundle, second: Bundle, queue: OfflineQueue, judge: Judge, beats: np.ndarray
) -> None:
    runtime = Runtime(second)

    def broken(_: np.ndarray) -> np.ndarray:
        raise ValueError("out of range")

    runtime.backend.run = broken  # type: ignore[method-assign]
    with Shadow(lambda: runtime, queue) as shadow:
        judge(shadow, [beats[0]])
    health = shadow.health()
    assert (health.compared, health.agreed, health.unanswered) == (0, 0, 1)
    assert str(health) == "nothing compared yet; 1 unanswered"
    (own,) = stored(queue, Tier.BULK)
    assert own.rejected
    assert own.reason == "rejected: ValueError: out of range"


def test_a_shadow_whose_engine_dies_is_told_until_it_answers_again(
    bundle: Bundle,
    queue: OfflineQueue,
    judge: Judge,
    beats: np.ndarray,
    unsound: Path,
    engines_of: Callable[..., Bundle],
) -> None:
    runtime = Runtime(engines_of("unsound"), isolation=IsolationConfig())
    with Shadow(lambda: runtime, queue) as shadow:
        judge(shadow, [beats[0]])
        assert shadow.health().problem == ""
        (unsound / "unsound").write_text("segfault")
        judge(shadow, [beats[1]])
        wait_until(lambda: "ended by SIGSEGV" in shadow.health().problem, "the problem")
        (unsound / "unsound").unlink()
        wait_until(lambda: not runtime.alarms, "the engine is back", most_s=30)
        judge(shadow, [beats[2]])
    health = shadow.health()
    assert (health.compared, health.unanswered, health.problem) == (2, 1, "")


def test_counts_begin_anew_when_another_bundle_takes_over(
    bundle: Bundle, second: Bundle, queue: OfflineQueue, judge: Judge, beats: np.ndarray
) -> None:
    with Shadow(lambda: Runtime(second), queue) as shadow:
        judge(shadow, [*beats[:9]])
        taken_over = Bedside(Runtime(second), queue, 60, shadow=shadow)
        taken_over.run([Scripted([*beats[9:12]])], lambda *_: None)
        wait_until(lambda: shadow.health().compared == 3, "three comparisons")
    health = shadow.health()
    assert (health.beside, health.agreed) == (second.digest, 3)


def test_run_takes_a_shadow_and_says_at_its_end_how_far_it_agreed(
    tmp_path: Path, bundle_path: Path, second_path: Path, key_pair: KeyPair, beats: np.ndarray
) -> None:
    np.savez(tmp_path / "beats.npz", X=beats[:25])
    config = tmp_path / "device.toml"
    config.write_text(
        f'schema = 1\nsite = "s"\ndevice = "d"\nbundle = "{bundle_path}"\n'
        f'source = "{tmp_path / "beats.npz"}"\nshadow = "{second_path}"\n'
        f'trusted_keys = ["{key_pair.public}"]\n[queue]\npath = "{tmp_path / "queue.sqlite"}"\n'
    )
    done = CliRunner().invoke(main, ["run", "--config", str(config), "--rate", "5"])
    assert done.exit_code == 0, done.output
    assert "shadow: " in done.output
    shown = CliRunner().invoke(main, ["queue", "status", "--config", str(config), "--json"])
    shadow = json.loads(shown.stdout)["run"]["health"]["shadow"]
    assert shadow["compared"] + shadow.get("missed", 0) == 25
    assert shadow["compared"] >= LINE, "what waits at the end is judged"
    assert f", n = {shadow['compared']}" in done.output


def test_run_refuses_a_shadow_for_another_use_as_it_starts(
    tmp_path: Path, manifest_and_files: tuple[Manifest, dict[str, bytes]], bundle_path: Path
) -> None:
    manifest, files = manifest_and_files
    (spec,) = manifest.inputs
    other = replace(manifest, inputs=(replace(spec, sampling_hz=999.0),))
    shadow = write_bundle(tmp_path / "other.edgeclin", other, files, None)
    config = tmp_path / "device.toml"
    config.write_text(
        f'schema = 1\nsite = "s"\ndevice = "d"\nbundle = "{bundle_path}"\nsource = "-"\n'
        f'[queue]\npath = "{tmp_path / "queue.sqlite"}"\n'
    )
    command = ["run", "--config", str(config), "--shadow", str(shadow), "--allow-unsigned"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert "its sampling_hz is 999.0, that of the bundle that answers" in done.stderr
    assert "a shadow must be for the same use: name another bundle" in done.stderr
    assert "restart" not in done.stderr


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("segfault", "ended by SIGSEGV while it loaded"),
        ("abort", "ended by SIGABRT while it loaded"),
        ("hang", "nothing compared yet"),
    ],
)
def test_run_goes_on_whatever_the_engine_of_its_shadow_does(
    tmp_path: Path,
    unsound: Path,
    engines_of: Callable[..., Bundle],
    bundle_path: Path,
    beats: np.ndarray,
    fault: str,
    said: str,
) -> None:
    (unsound / "unsound").write_text(fault)
    shadow = engines_of("unsound")
    np.savez(tmp_path / "beats.npz", X=beats[:25])
    config = tmp_path / "device.toml"
    config.write_text(
        f'schema = 1\nsite = "s"\ndevice = "d"\nbundle = "{bundle_path}"\n'
        f'source = "{tmp_path / "beats.npz"}"\nshadow = "{shadow.path}"\n'
        f'[queue]\npath = "{tmp_path / "queue.sqlite"}"\n'
    )
    command = [sys.executable, "-m", "edgeclin", "run", "--config", config, "--allow-unsigned"]
    done = subprocess.run(
        [*command, "--rate", "10"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == ["results", "25"]
    assert said in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("count", "n", "low", "high"), [(9, 10, 0.5958, 0.9821), (0, 0, 0, 1)])
def test_the_interval_of_a_share_is_wilsons(count: int, n: int, low: float, high: float) -> None:
    assert wilson(count, n) == pytest.approx((low, high), abs=1e-4)


def test_the_interval_of_a_share_is_of_shares_whatever_is_rounded() -> None:
    ends = [wilson(count, n) for n in range(1, 200) for count in (0, n)]
    assert all(0 <= low <= high <= 1 for low, high in ends)
