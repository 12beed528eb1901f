"""What `run` and `sync` say of themselves, to each other, to whoever looks and to the cloud."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest
from bedsides import Scripted
from click.testing import CliRunner
from polling import wait_until

from edgeclin import wire
from edgeclin.bedside import Bedside
from edgeclin.bundle import Bundle
from edgeclin.cli import main
from edgeclin.config import SyncConfig
from edgeclin.errors import BadFile, BadInput, EdgeclinError
from edgeclin.health import DriftReport, RunHealth, Shift, SyncHealth
from edgeclin.inbox import Inbox, Sample
from edgeclin.offline_queue import Notices, OfflineQueue, Telling, notices
from edgeclin.records import State
from edgeclin.runtime import Runtime
from edgeclin.sync import SyncAgent
from edgeclin.transport import Message
from edgeclin.transport.memory import MemoryBroker, MemoryTransport

HEALTH = RunHealth(made_at=1.0, up_s=2.0, bundle="b", engine="e", late=3, alarms=("look",))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


# -- notices ---------------------------------------------------------------------------------------


def test_what_a_process_said_is_there_for_others_with_its_age(tmp_path: Path) -> None:
    clock = Clock()
    board = Notices(tmp_path / "queue", clock, "boot-1")
    assert board.told(RunHealth) is None
    board.tell(HEALTH)
    clock.now += 3 * notices.TELL_S
    told = board.told(RunHealth)
    assert told is not None
    assert (told.health, told.age_s, told.fresh) == (HEALTH, 3 * notices.TELL_S, True)
    assert board.told(SyncHealth) is None
    clock.now += 1
    told = board.told(RunHealth)
    assert told is not None and not told.fresh


def test_of_what_was_said_before_a_boot_nobody_knows_the_age(tmp_path: Path) -> None:
    Notices(tmp_path / "queue", Clock(), "boot-1").tell(HEALTH)
    told = Notices(tmp_path / "queue", Clock(), "boot-2").told(RunHealth)
    assert told is not None
    assert told.age_s is None
    assert not told.fresh


@pytest.mark.parametrize("spoilt", [b"", b"{", b'{"boot":"b"}', b"\xff" * 9, b"[]"])
def test_a_notice_that_cannot_be_read_is_none(tmp_path: Path, spoilt: bytes) -> None:
    board = Notices(tmp_path / "queue")
    board.tell(HEALTH)
    (tmp_path / "queue.run.health").write_bytes(spoilt)
    assert board.told(RunHealth) is None


def test_a_process_that_hangs_goes_on_telling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "TELL_S", 0.01)
    board, count = Notices(tmp_path / "queue"), iter(range(10**6))

    def health() -> RunHealth:
        return RunHealth(made_at=0.0, up_s=float(next(count)), bundle="b", engine="e")

    def said() -> float:
        told = board.told(RunHealth)
        return -1.0 if told is None else told.health.up_s

    with Telling(board, health):
        assert said() == 0.0
        wait_until(lambda: said() > 3, "three tellings")
    assert said() == next(count) - 1, "it also tells how it was at the end"


def test_a_process_that_cannot_tell_works_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Telling(Notices(tmp_path / "gone" / "queue"), lambda: HEALTH):
        pass
    assert "cannot say how it is" in caplog.text


# -- run -------------------------------------------------------------------------------------------


def test_health_counts_what_was_answered_and_how(
    bundle: Bundle, queue: OfflineQueue, beats: np.ndarray
) -> None:
    runtime = Runtime(bundle, draw=lambda: 1.0)
    bedside = Bedside(runtime, queue, 60, answer_s=0.0, clock=lambda: 7.0)
    answers = []
    samples: list[Sample] = [*beats[:9], BadInput("no lead")]
    bedside.run([Scripted(samples)], lambda _, result, __: answers.append(result))
    health = bedside.health()
    assert sum(health.states.values()) == len(answers) == health.late == 10
    assert health.states[State.UNREVIEWED.value] >= health.rejected == 1
    assert health.urgent == sum(answer.tier.value == "urgent" for answer in answers)
    assert (health.made_at, health.bundle, health.busy_s) == (7.0, bundle.digest, 0.0)
    assert (health.waiting, health.dropped, health.alarms) == (0, 0, ())
    assert health.engine == runtime.engine


def test_a_source_that_failed_is_an_alarm_while_others_go_on(
    bundle: Bundle, queue: OfflineQueue, beats: np.ndarray
) -> None:
    ended = threading.Event()

    class Broken:
        def deliver(self, inbox: Inbox) -> None:
            raise BadFile(Path("ward.csv"), "is gone", "bring it back")

    class Waits(Scripted):
        def deliver(self, inbox: Inbox) -> None:
            ended.wait(20)
            super().deliver(inbox)

    bedside = Bedside(Runtime(bundle), queue, 60)
    with pytest.raises(BadFile), ThreadPoolExecutor(1) as pool:
        ran = pool.submit(bedside.run, [Broken(), Waits([*beats[:2]])], lambda *_: None)
        wait_until(lambda: bool(bedside.health().alarms), "the alarm")
        assert "ward.csv: is gone" in bedside.health().alarms[0]
        ended.set()
        ran.result(20)
    assert sum(bedside.health().states.values()) == 2


def test_a_source_that_ended_while_others_go_on_is_an_alarm(
    bundle: Bundle, queue: OfflineQueue
) -> None:
    bedside = Bedside(Runtime(bundle), queue, 60)
    bedside.inbox.ended.append("stdin")
    assert bedside.health().alarms == ("stdin has ended: nothing comes from it any more",)


def test_a_full_queue_is_an_alarm_until_there_is_room(
    bundle: Bundle, tmp_path: Path, beats: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeclin.bedside._RETRY_S", 0.01)
    with OfflineQueue(tmp_path / "small", max_bytes=2_000) as queue:
        bedside = Bedside(Runtime(bundle), queue, 60)
        sources = [Scripted(list(beats[:40]))]
        done = threading.Thread(target=bedside.run, args=(sources, lambda *_: None), daemon=True)
        done.start()
        wait_until(lambda: bool(bedside.health().alarms), "an alarm")
        assert "bytes wait" in bedside.health().alarms[0]
        queue._dropping._max_bytes = 10**9
        done.join(30)
        assert not done.is_alive()
        assert bedside.health().alarms == ()


def test_a_sample_that_takes_long_is_seen_while_it_does(
    bundle: Bundle, queue: OfflineQueue, beats: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, go_on = Runtime(bundle), threading.Event()
    answer = runtime.backend.run

    def hang(sample: np.ndarray) -> np.ndarray:
        go_on.wait()
        return answer(sample)

    monkeypatch.setattr(runtime.backend, "run", hang)
    bedside = Bedside(runtime, queue, 60)
    loop = threading.Thread(
        target=bedside.run, args=([Scripted([beats[0]])], lambda *_: None), daemon=True
    )
    loop.start()
    wait_until(lambda: bedside.health().busy_s > 0.05, "a sample in hand")
    go_on.set()
    loop.join(30)
    assert bedside.health().busy_s == 0.0


# -- sync and the cloud ----------------------------------------------------------------------------


def test_the_agent_sends_on_how_run_is(queue: OfflineQueue) -> None:
    queue.notices.tell(HEALTH)
    broker, heard = MemoryBroker(), []
    cloud = MemoryTransport(broker)
    cloud.open(("ec/v1/+/+/st/+",), lambda message: heard.append(message))
    topics = wire.Topics("site", "device")
    agent = SyncAgent(queue, MemoryTransport(broker), topics, SyncConfig())
    agent.open()
    agent.step()
    found = {message.topic: status_of(message) for message in heard}
    health = found[topics.health]
    assert health.run == HEALTH
    assert health.run_age_s is not None and health.run_age_s >= 0.0
    assert found[topics.birth].run is None
    assert agent.health().connected
    agent.close()
    assert not agent.health().connected


def status_of(message: Message) -> wire.Status:
    return wire.decode(message.payload, wire.Status)


# -- whoever looks ---------------------------------------------------------------------------------


def test_queue_status_says_how_both_are(tmp_path: Path) -> None:
    config = tmp_path / "device.toml"
    config.write_text(f'schema = 1\nsite = "s"\ndevice = "d"\n[queue]\npath = "{tmp_path}/q"\n')
    with OfflineQueue(tmp_path / "q") as queue:
        queue.notices.tell(HEALTH)
        queue.notices.tell(SyncHealth(made_at=1.0, up_s=2.0, connected=False, delivered=4))
    shown = CliRunner().invoke(main, ["queue", "status", "--config", str(config)])
    assert shown.exit_code == 0, shown.output
    for words in ("alive 0 s ago", "3 late", "look", "no link, 4 delivered"):
        assert words in shown.output
    told = CliRunner().invoke(main, ["queue", "status", "--json", "--config", str(config)])
    found = json.loads(told.output)
    assert found["run"]["health"]["late"] == 3
    assert found["sync"]["health"]["connected"] is False


def test_queue_status_says_nothing_of_the_link_of_an_agent_that_is_gone(tmp_path: Path) -> None:
    config = tmp_path / "device.toml"
    config.write_text(f'schema = 1\nsite = "s"\ndevice = "d"\n[queue]\npath = "{tmp_path}/q"\n')
    linked = SyncHealth(made_at=1.0, up_s=2.0, connected=True, delivered=4)
    for ending in ("", "connected, "):
        with OfflineQueue(tmp_path / "q") as queue:
            if ending:
                queue.notices.tell(linked)
            else:
                with Telling(queue.notices, lambda: linked):
                    pass
        shown = CliRunner().invoke(main, ["queue", "status", "--config", str(config)])
        assert f" s ago, {ending}4 delivered" in shown.output


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (EdgeclinError("port 80 is in use"), "FAILED 0 s ago (port 80 is in use), 4 delivered"),
        (ValueError("odd"), "FAILED 0 s ago (ValueError('odd')), 4 delivered"),
        (SystemExit(143), "ended 0 s ago, 4 delivered"),
    ],
)
def test_queue_status_says_what_ended_a_process(
    tmp_path: Path, problem: BaseException, said: str
) -> None:
    config = tmp_path / "device.toml"
    config.write_text(f'schema = 1\nsite = "s"\ndevice = "d"\n[queue]\npath = "{tmp_path}/q"\n')
    health = SyncHealth(made_at=1.0, up_s=2.0, connected=True, delivered=4)
    OfflineQueue(tmp_path / "q").close()
    with suppress(type(problem)), Telling(Notices(tmp_path / "q"), lambda: health):
        raise problem
    assert said in CliRunner().invoke(main, ["queue", "status", "--config", str(config)]).output


def test_queue_status_says_that_no_receipt_comes(tmp_path: Path) -> None:
    config = tmp_path / "device.toml"
    config.write_text(f'schema = 1\nsite = "s"\ndevice = "d"\n[queue]\npath = "{tmp_path}/q"\n')
    with OfflineQueue(tmp_path / "q") as queue:
        queue.notices.tell(SyncHealth(made_at=1.0, up_s=99.0, connected=True, silent_s=42.0))
    shown = CliRunner().invoke(main, ["queue", "status", "--config", str(config)])
    assert "connected, but no receipt for 42 s, 0 delivered" in shown.output


def test_queue_status_says_what_has_drifted_furthest(tmp_path: Path) -> None:
    config = tmp_path / "device.toml"
    config.write_text(f'schema = 1\nsite = "s"\ndevice = "d"\n[queue]\npath = "{tmp_path}/q"\n')
    noisy = Shift("label", 40, 0.4, 0.9, "much", None, None, False)
    moved = Shift("roughness", 40, 0.3, 0.2, "much", 0.2, 0.1, True)
    for drift, said in (
        (DriftReport(40, 40, (noisy, moved), ()), "PSI 0.30 in roughness (noise to 0.20, n = 40)"),
        (DriftReport(0, 0, (), ()), "nothing counted yet"),
    ):
        with OfflineQueue(tmp_path / "q") as queue:
            queue.notices.tell(msgspec.structs.replace(HEALTH, drift=drift))
        shown = CliRunner().invoke(main, ["queue", "status", "--config", str(config)])
        assert said in shown.output


def test_queue_status_tells_an_end_from_a_crash(tmp_path: Path) -> None:
    config = tmp_path / "device.toml"
    config.write_text(f'schema = 1\nsite = "s"\ndevice = "d"\n[queue]\npath = "{tmp_path}/q"\n')

    def shown() -> str:
        return CliRunner().invoke(main, ["queue", "status", "--config", str(config)]).output

    with OfflineQueue(tmp_path / "q") as queue:
        with Telling(queue.notices, lambda: HEALTH):
            assert "alive 0 s ago" in shown()
        assert "ended 0 s ago" in shown()
        ended = queue.notices.told(RunHealth)
        assert ended is not None
        assert not ended.fresh
        with suppress(ZeroDivisionError), Telling(queue.notices, lambda: HEALTH):
            raise ZeroDivisionError
        assert "FAILED 0 s ago (ZeroDivisionError())" in shown()
        crashed = queue.notices.told(RunHealth)
        assert crashed is not None
        assert not crashed.fresh


@pytest.mark.parametrize(
    ("samples", "alarms"),
    [
        ([0] * 81 + [1] * 19, ()),
        ([0] * 80 + [1] * 20, ("20 of the newest 100 samples were rejected",)),
        ([1] * 9, ()),
        ([1] * 10, ("10 of the newest 10 samples were rejected",)),
        ([1] * 50 + [0] * 100, ()),
    ],
)
def test_many_rejected_samples_are_an_alarm_until_they_are_few(
    bundle: Bundle,
    tmp_path: Path,
    beats: np.ndarray,
    samples: list[int],
    alarms: tuple[str, ...],
) -> None:
    given = [BadInput("a lead is off") if broken else beats[0] for broken in samples]
    with OfflineQueue(tmp_path / "q") as queue:
        bedside = Bedside(Runtime(bundle), queue, 60)
        bedside.run([Scripted(given)], lambda *_: None)
        assert bedside.health().alarms == alarms
        bedside.replace(Runtime(bundle))
        assert bedside.health().alarms == ()
