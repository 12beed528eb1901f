"""The loop of `run`: one stored answer a sample, whatever the sample and however full the queue."""

from __future__ import annotations

import copy
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bedsides import Scripted, stored_results
from polling import wait_until

from edgeclin.bedside import Bedside
from edgeclin.bundle import Bundle
from edgeclin.cli.tally import LATENCIES, Tally
from edgeclin.datasets import Dataset
from edgeclin.errors import BadInput, EngineOut, QueueFull
from edgeclin.inbox import LINE, Inbox, Part, Sample
from edgeclin.offline_queue import OfflineQueue, Stored
from edgeclin.records import Latency, Result, State, Tier
from edgeclin.runtime import Runtime
from edgeclin.sources import ReplaySource


def test_every_sample_gets_one_stored_answer(
    bundle: Bundle, queue: OfflineQueue, beats: np.ndarray
) -> None:
    runtime = Runtime(bundle)
    source = ReplaySource(Dataset(Path("beats"), beats[:100]), runtime.preprocess)
    seen: list[int] = []
    told: list[Sample] = []

    def see(_: Stored, result: Result, sample: Sample) -> None:
        seen.append(result.position)
        told.append(sample)

    Bedside(runtime, queue, 60).run([source], see)
    assert seen == list(range(100))
    assert np.array_equal(told, beats[:100])
    assert [result.position for result in stored_results(queue)] == seen


def test_a_second_run_goes_on_after_the_last_stored_answer(
    bundle: Bundle, queue: OfflineQueue, beats: np.ndarray
) -> None:
    runtime = Runtime(bundle)
    source = ReplaySource(Dataset(Path("beats"), beats[:50]), runtime.preprocess)

    def end_at_twenty(_: Stored, result: Result, __: Sample) -> None:
        if result.position == 20:
            first.inbox.stop()

    first = Bedside(runtime, queue, 60)
    first.run([source], end_at_twenty)
    assert queue.next_position(source.name, bundle.digest) == 21
    Bedside(runtime, queue, 60).run([source], lambda *_: None)
    assert [result.position for result in stored_results(queue)] == list(range(50))


def test_other_contents_under_the_same_name_are_judged_from_their_start(
    bundle: Bundle, queue: OfflineQueue, beats: np.ndarray
) -> None:
    runtime = Runtime(bundle)
    for contents in (beats[:50], beats[100:150], beats[100:149]):
        source = ReplaySource(Dataset(Path("beats"), contents), runtime.preprocess)
        Bedside(runtime, queue, 60).run([source], lambda *_: None)
    results = stored_results(queue)
    assert len(results) == 149
    assert len({result.source for result in results}) == 3
    again = ReplaySource(Dataset(Path("beats"), beats[:50]), runtime.preprocess)
    assert queue.next_position(again.name, bundle.digest) == 50


def test_another_bundle_judges_the_same_data_from_its_start(
    bundle: Bundle, queue: OfflineQueue, beats: np.ndarray
) -> None:
    source = ReplaySource(Dataset(Path("beats"), beats[:50]), Runtime(bundle).preprocess)
    Bedside(Runtime(bundle), queue, 60).run([source], lambda *_: None)
    newer_bundle = copy.copy(bundle)
    newer_bundle.digest = "n" * 64
    newer = Runtime(newer_bundle)
    assert queue.next_position(source.name, newer_bundle.digest) == 0
    Bedside(newer, queue, 60).run([source], lambda *_: None)
    assert Counter(r.bundle for r in stored_results(queue)) == {bundle.digest: 50, "n" * 64: 50}


def test_a_broken_sample_is_recorded_and_the_stream_goes_on(
    bundle: Bundle, queue: OfflineQueue, beats: np.ndarray
) -> None:
    arrivals = [beats[0], BadInput("lead off"), np.full(140, np.nan), np.zeros(3), beats[1]]
    runtime = Runtime(bundle)
    Bedside(runtime, queue, 60).run([Scripted(arrivals)], lambda *_: None)
    results = stored_results(queue)
    assert [result.position for result in results] == [0, 1, 2, 3, 4]
    rejected = results[1:4]
    assert {(result.state, result.rejected) for result in rejected} == {(State.UNREVIEWED, True)}
    assert "lead off" in rejected[0].reason
    assert "not finite" in rejected[1].reason
    assert results[4].label is not None


def test_only_answers_in_doubt_or_under_audit_ask_for_an_opinion(
    bundle: Bundle, queue: OfflineQueue, beats: np.ndarray
) -> None:
    runtime = Runtime(bundle, draw=lambda: 0.999)
    source = ReplaySource(Dataset(Path("beats"), beats[:200]), runtime.preprocess)
    Bedside(runtime, queue, 60).run([source], lambda *_: None)
    unsure = [r for r in stored_results(queue) if r.state is State.PROVISIONAL]
    assert 0 < len(unsure) < 200
    assert len(queue.questions(limit=1000)) == len(unsure)


def test_a_full_queue_holds_the_source_back_and_loses_nothing(
    bundle: Bundle, tmp_path: Path, beats: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeclin.bedside._RETRY_S", 0.01)
    runtime = Runtime(bundle)
    source = ReplaySource(Dataset(Path("beats"), beats[:60]), runtime.preprocess)
    taken: list[int] = []
    with OfflineQueue(tmp_path / "small.sqlite", max_bytes=20_000) as queue:
        done = threading.Event()

        def deliver() -> None:
            """What an agent does, once the queue is full."""
            from edgeclin import wire

            while not done.wait(0.05):
                rows = [row for tier in Tier for row in queue.pending(tier, limit=5)]
                taken.extend(row.seq for row in rows if row.kind == "result")
                ranges = tuple((row.seq, row.seq) for row in rows)
                queue.remove(wire.Receipt(epoch=queue.epoch, ranges=ranges))
                for question in queue.questions():
                    queue.settle(
                        wire.Opinion(result=question.result, model="m", label=None, confidence=0)
                    )

        agent = threading.Thread(target=deliver)
        agent.start()
        Bedside(runtime, queue, 60).run([source], lambda *_: None)
        done.set()
        agent.join()
        taken.extend(r.seq for t in Tier for r in queue.pending(t, limit=99) if r.kind == "result")
        assert len(set(taken)) == 60
        assert queue.next_position(source.name, bundle.digest) == 60


class Bed:
    """A stream of its own, whose samples come one by one, and wait or do not."""

    def __init__(self, name: str, samples: np.ndarray, live: bool = False) -> None:
        self._name, self._samples, self._live = name, samples, live

    def deliver(self, inbox: Inbox) -> None:
        line = inbox.line(self._name)
        for sample in self._samples:
            time.sleep(0.003)
            if not (line.push(sample) if self._live else line.put(sample)):
                return


@pytest.fixture
def by_urgency(bundle: Bundle, beats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Five beats that are routine by this bundle, and one that is urgent."""
    runtime = Runtime(bundle)
    tiers = [runtime.predict(beat).tier for beat in beats[:200]]
    routine = [number for number, tier in enumerate(tiers) if tier is Tier.ROUTINE]
    return beats[routine[:5]], beats[tiers.index(Tier.URGENT)][np.newaxis]


@pytest.mark.parametrize("live", [False, True])
def test_an_urgent_answer_has_room_while_routine_ones_wait_or_are_lost(
    bundle: Bundle,
    tmp_path: Path,
    by_urgency: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    live: bool,
) -> None:
    monkeypatch.setattr("edgeclin.bedside._RETRY_S", 0.05)
    routine, urgent = by_urgency
    with OfflineQueue(tmp_path / "small.sqlite", max_bytes=20_000) as queue:
        bedside = Bedside(Runtime(bundle), queue, 60)
        sources = [Bed("routine", np.repeat(routine, 8, axis=0), live)]
        loop = threading.Thread(target=bedside.run, args=(sources, lambda *_: None))
        loop.start()
        wait_until(lambda: bedside.full, "no room for routine answers")
        stored = len(stored_results(queue))
        bedside.inbox.feed(Bed("urgent", urgent))
        wait_until(lambda: len(stored_results(queue)) > stored, "the urgent answer")
        assert stored_results(queue)[-1].tier is Tier.URGENT
        assert bedside.health().alarms, "for routine ones there is still no room"
        queue._dropping._max_bytes = 10**9
        loop.join(30)
        assert not loop.is_alive()
        found = [one.position for one in stored_results(queue) if one.source == "routine"]
        assert live or found == list(range(40)), "each once, in order"
        assert live == bool(bedside.health().dropped)


def test_an_urgent_answer_of_a_live_stream_follows_routine_ones_that_found_no_room(
    bundle: Bundle, tmp_path: Path, by_urgency: tuple[np.ndarray, np.ndarray]
) -> None:
    samples = np.concatenate([np.repeat(by_urgency[0], 8, axis=0), by_urgency[1]])
    with OfflineQueue(tmp_path / "small.sqlite", max_bytes=10_000) as queue:
        bedside = Bedside(Runtime(bundle), queue, 60)

        def until_urgent(_: Stored, result: Result, __: Sample) -> None:
            if result.tier is Tier.URGENT:
                bedside.inbox.stop()

        bedside.run([Bed("bed", samples, live=True)], until_urgent)
        results = stored_results(queue)
    assert len(results) < 41
    assert (results[-1].position, results[-1].tier) == (40, Tier.URGENT)


def test_what_a_live_stream_loses_to_a_full_queue_is_told_once_there_is_room(
    bundle: Bundle,
    tmp_path: Path,
    by_urgency: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeclin.inbox._QUIET_S", 0.02)
    with OfflineQueue(tmp_path / "small.sqlite", max_bytes=20_000) as queue:
        bedside = Bedside(Runtime(bundle), queue, 60)

        class Live:
            def deliver(self, inbox: Inbox) -> None:
                line = inbox.line("bed")
                for number in range(400):
                    if number == 200:
                        queue._dropping._max_bytes = 10**9
                    line.push(by_urgency[0][number % 5])
                    time.sleep(0.003)

        bedside.run([Live()], lambda *_: None)
        results = stored_results(queue)
    told = [r for r in results if r.rejected]
    lost = sum(int(r.reason.split()[2]) for r in told)
    assert told
    assert "could not be judged and stored in time" in told[0].reason
    assert lost == bedside.health().dropped > 0
    assert lost + len(results) - len(told) == 400, "each sample is stored or counted"


def test_what_was_lost_last_is_told_though_nothing_more_comes(
    bundle: Bundle,
    tmp_path: Path,
    by_urgency: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeclin.inbox._QUIET_S", 0.02)
    monkeypatch.setattr("edgeclin.bedside._RETRY_S", 0.05)
    with OfflineQueue(tmp_path / "small.sqlite", max_bytes=10_000) as queue:
        bedside = Bedside(Runtime(bundle), queue, 60)
        source = Bed("bed", np.repeat(by_urgency[0], 8, axis=0), live=True)
        loop = threading.Thread(target=bedside.run, args=([source], lambda *_: None))
        loop.start()
        wait_until(lambda: bedside.full and not bedside.inbox._feeders, "the source's end")
        time.sleep(0.2)
        assert loop.is_alive(), "there is something to tell"
        queue._dropping._max_bytes = 10**9
        loop.join(30)
        assert not loop.is_alive()
        last = stored_results(queue)[-1]
        assert last.position == 39
        assert last.reason.startswith(f"rejected: dropped: {bedside.health().dropped} samples")


def test_what_is_held_counts_as_waiting(
    bundle: Bundle, tmp_path: Path, by_urgency: tuple[np.ndarray, np.ndarray]
) -> None:
    with OfflineQueue(tmp_path / "small.sqlite", max_bytes=10_000) as queue:
        bedside = Bedside(Runtime(bundle), queue, 60)
        sources = [Bed("bed", np.repeat(by_urgency[0], 8, axis=0))]
        loop = threading.Thread(target=bedside.run, args=(sources, lambda *_: None))
        loop.start()
        wait_until(lambda: bedside.health().waiting == LINE + 1, "a full line and what is held")
        bedside.inbox.stop()
        loop.join(30)
        assert not loop.is_alive()


def test_who_waits_for_an_answer_without_room_is_told_at_once_and_an_urgent_one_is_stored(
    bundle: Bundle,
    tmp_path: Path,
    by_urgency: tuple[np.ndarray, np.ndarray],
    make_result: Callable[..., Result],
) -> None:
    told: list[tuple[Tier, bool]] = []

    class Asking:
        def deliver(self, inbox: Inbox) -> None:
            def answered(stored: Stored | None, result: Result) -> bool:
                told.append((result.tier, stored is not None))
                return True

            for sample in (by_urgency[0][0], by_urgency[1][0], by_urgency[0][1]):
                assert inbox.line("http").offer(sample, answered)

    with OfflineQueue(tmp_path / "small.sqlite", max_bytes=20_000) as queue:
        with pytest.raises(QueueFull):
            while True:
                queue.put(make_result())
        Bedside(Runtime(bundle), queue, 60).run([Asking()], lambda *_: None)
    assert told == [(Tier.ROUTINE, False), (Tier.URGENT, True), (Tier.ROUTINE, False)]


def full_queue(queue: OfflineQueue, make_result: Callable[..., Result]) -> None:
    with pytest.raises(QueueFull):
        while True:
            queue.put(make_result())


class Asks:
    """A source of one sample, whose answer somebody waits for, or does not any more."""

    def __init__(self, sample: np.ndarray, waits: bool) -> None:
        self._sample, self._waits = sample, waits

    def deliver(self, inbox: Inbox) -> None:
        assert inbox.line("http").offer(self._sample, lambda *_: self._waits)


def test_an_answer_that_nobody_waits_for_any_more_is_held_until_there_is_room(
    bundle: Bundle,
    tmp_path: Path,
    by_urgency: tuple[np.ndarray, np.ndarray],
    make_result: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeclin.bedside._RETRY_S", 0.05)
    with OfflineQueue(tmp_path / "small.sqlite", max_bytes=20_000) as queue:
        full_queue(queue, make_result)
        bedside = Bedside(Runtime(bundle), queue, 60)
        sources = [Asks(by_urgency[0][0], waits=False)]
        loop = threading.Thread(target=bedside.run, args=(sources, lambda *_: None))
        loop.start()
        wait_until(lambda: bedside.full, "no room")
        queue._dropping._max_bytes = 10**9
        loop.join(30)
        assert stored_results(queue)[-1].source == "http"


def test_an_answer_that_is_kept_for_nobody_holds_up_no_urgent_one_of_its_stream(
    bundle: Bundle,
    tmp_path: Path,
    by_urgency: tuple[np.ndarray, np.ndarray],
    make_result: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeclin.bedside._RETRY_S", 0.05)
    monkeypatch.setattr("edgeclin.bedside._KEPT", 3)
    told: list[Stored | None] = []

    class Clients:
        """Some who gave up, then one who waits."""

        def deliver(self, inbox: Inbox) -> None:
            line = inbox.line("http")
            for number in range(5):
                assert line.offer(by_urgency[0][number], lambda *_: False)

            def answered(stored: Stored | None, _: Result) -> bool:
                told.append(stored)
                return True

            assert line.offer(by_urgency[1][0], answered)

    with OfflineQueue(tmp_path / "small.sqlite", max_bytes=20_000) as queue:
        full_queue(queue, make_result)
        bedside = Bedside(Runtime(bundle), queue, 60)
        loop = threading.Thread(target=bedside.run, args=([Clients()], lambda *_: None))
        loop.start()
        wait_until(lambda: told, "the urgent answer")
        assert told[0] is not None
        assert bedside.health().waiting >= 3
        assert bedside.health().dropped == 2, "no more than that are kept"
        queue._dropping._max_bytes = 10**9
        loop.join(30)
        assert not loop.is_alive()
        results = [one for one in stored_results(queue) if one.source == "http"]
        assert sorted(one.position for one in results if not one.rejected) == [0, 1, 2, 5]


def test_what_waits_for_an_engine_does_not_make_the_queue_full(
    bundle: Bundle,
    tmp_path: Path,
    by_urgency: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeclin.bedside._RETRY_S", 0.01)
    with OfflineQueue(tmp_path / "q") as queue:
        runtime = Runtime(bundle)
        predict, put, back = runtime.predict, queue.put, threading.Event()
        full = iter([True])

        def out(sample: np.ndarray, source: str, position: int, waited_ms: float) -> Result:
            if source == "out" and not back.is_set():
                raise EngineOut("out", 1.0)
            return predict(sample, source, position, waited_ms)

        def full_once(*arguments: Any, **named: Any) -> Stored:
            if next(full, False):
                raise QueueFull("no room")
            return put(*arguments, **named)

        monkeypatch.setattr(runtime, "predict", out)
        monkeypatch.setattr(queue, "put", full_once)
        bedside = Bedside(runtime, queue, 60)
        seen: list[str] = []

        def look(_: Stored, result: Result, __: Sample) -> None:
            seen.append(bedside.full)
            if len(seen) == 5:
                back.set()

        sources = [Bed("out", by_urgency[0][:1]), Bed("other", np.repeat(by_urgency[0], 2, 0))]
        bedside.run(sources, look)
        assert len(stored_results(queue)) == 11
    assert seen[1:] == [""] * 10


def test_a_queue_counts_as_full_until_there_is_room(
    bundle: Bundle,
    tmp_path: Path,
    by_urgency: tuple[np.ndarray, np.ndarray],
    make_result: Callable[..., Result],
) -> None:
    with OfflineQueue(tmp_path / "small.sqlite", max_bytes=20_000) as queue:
        full_queue(queue, make_result)
        bedside = Bedside(Runtime(bundle), queue, 60)
        bedside.run([Asks(by_urgency[0][0], waits=True)], lambda *_: None)
        bedside.run([Asks(by_urgency[1][0], waits=True)], lambda *_: None)
        assert bedside.full, "though the urgent one found room"
        assert bedside.health().alarms == (bedside.full,)
        queue._dropping._max_bytes = 10**9
        bedside.run([Asks(by_urgency[0][0], waits=True)], lambda *_: None)
        assert bedside.health().alarms == ()


def test_a_full_queue_is_told_once_in_a_while_though_small_answers_find_room(
    bundle: Bundle,
    tmp_path: Path,
    by_urgency: tuple[np.ndarray, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("edgeclin.bedside._RETRY_S", 0.02)
    with OfflineQueue(tmp_path / "small.sqlite") as queue:
        put, held = queue.put, threading.Event()

        def long_ones_find_none(result: Result, *arguments: Any, **named: Any) -> Stored:
            if result.source == "long" and not held.is_set():
                raise QueueFull("no room")
            return put(result, *arguments, **named)

        monkeypatch.setattr(queue, "put", long_ones_find_none)
        bedside = Bedside(Runtime(bundle), queue, 60)
        sources = [Bed("long", by_urgency[0][:1]), Bed("short", np.repeat(by_urgency[0], 20, 0))]

        def look(_: Stored, result: Result, __: Sample) -> None:
            if result.source == "short" and 20 < result.position <= 90:
                assert bedside.full, "the long one still waits for room"
            if result.position == 90:
                held.set()

        bedside.run(sources, look)
        assert len(stored_results(queue)) == 101
    assert caplog.messages.count("ALARM: no room") == 1
    assert not bedside.full


@pytest.mark.parametrize("out_s", [59.0, 61.0])
def test_how_long_an_engine_is_out_now_decides_whether_a_sample_waits_for_it(
    bundle: Bundle,
    queue: OfflineQueue,
    beats: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    out_s: float,
) -> None:
    monkeypatch.setattr("edgeclin.bedside._RETRY_S", 0.01)
    runtime = Runtime(bundle)
    predict, asked = runtime.predict, Counter[int]()

    def out_at_first(sample: np.ndarray, source: str, position: int, waited_ms: float) -> Result:
        asked[position] += 1
        if asked[position] == 1:
            raise EngineOut("out", out_s)
        return predict(sample, source, position, waited_ms)

    monkeypatch.setattr(runtime, "predict", out_at_first)
    Bedside(runtime, queue, 60).run([Scripted(list(beats[:2]))], lambda *_: None)
    assert [one.rejected for one in stored_results(queue)] == [out_s > 60] * 2


def test_who_is_told_an_answer_counts_as_the_loop_s_work(
    bundle: Bundle, queue: OfflineQueue, beats: np.ndarray
) -> None:
    bedside = Bedside(Runtime(bundle), queue, 60)
    busy: list[bool] = []
    bedside.run([Scripted([beats[0]])], lambda *_: busy.append(bedside.busy_since is not None))
    assert busy == [True]
    assert bedside.busy_since is None


def test_waiting_for_somebody_who_is_slower_does_not_count_as_the_loop_s_work(
    bundle: Bundle, queue: OfflineQueue, beats: np.ndarray
) -> None:
    bedside = Bedside(Runtime(bundle), queue, 60)
    busy: list[bool] = []
    rest = lambda: busy.append(bedside.busy_since is not None)  # noqa: E731
    bedside.run([Scripted(list(beats[:2]))], lambda *_: None, rest)
    assert busy == [False] * 3


def test_what_others_find_wrong_is_an_alarm(bundle: Bundle, queue: OfflineQueue) -> None:
    bedside = Bedside(Runtime(bundle), queue, 60, problems=[lambda: "", lambda: "nobody reads"])
    assert bedside.health().alarms == ("nobody reads",)


def test_an_answer_tells_how_long_its_sample_waited_and_whether_it_was_late(
    bundle: Bundle, queue: OfflineQueue, beats: np.ndarray
) -> None:
    bedside = Bedside(Runtime(bundle), queue, 60, answer_s=0.3)
    waits: list[float] = []

    def slow(_: Stored, result: Result, __: Sample) -> None:
        assert result.latency_ms is not None
        waits.append(result.latency_ms.queue)
        time.sleep(0.1)

    bedside.run([Scripted(list(beats[: LINE + 1]))], slow)
    assert max(waits) > 300
    assert 0 < bedside.late < LINE


def test_an_answer_reaches_who_waits_for_it_after_it_is_stored(
    bundle: Bundle, queue: OfflineQueue, beats: np.ndarray
) -> None:
    told: list[tuple[Stored, Result, int]] = []

    class Asking:
        def deliver(self, inbox: Inbox) -> None:
            def answered(stored: Stored | None, result: Result) -> bool:
                assert stored is not None
                told.append((stored, result, len(stored_results(queue))))
                return True

            assert inbox.line("http").offer(beats[0], answered)

    Bedside(Runtime(bundle), queue, 60).run([Asking()], lambda *_: None)
    ((stored, result, rows),) = told
    assert (stored.seq, result.source, rows) == (1, "http", 1)


def test_a_lead_that_stays_off_is_logged_now_and_then_and_recorded_each_time(
    bundle: Bundle,
    queue: OfflineQueue,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bedside = Bedside(Runtime(bundle), queue, 60)
    off: list[Sample] = [BadInput("lead off")] * 30
    bedside.run([Scripted(off)], lambda *_: None)
    assert len(caplog.messages) == 1
    assert len(stored_results(queue)) == 30
    later = time.monotonic() + 11
    monkeypatch.setattr("edgeclin.bedside.time.monotonic", lambda: later)
    bedside.run([Scripted(off)], lambda *_: None)
    assert len(caplog.messages) == 2
    assert "lead off (and 29 before it, which were not logged)" in caplog.messages[1]


def test_a_folder_of_broken_files_is_logged_now_and_then(
    bundle: Bundle, queue: OfflineQueue, caplog: pytest.LogCaptureFixture
) -> None:
    class Files:
        def deliver(self, inbox: Inbox) -> None:
            line = inbox.line("watch")
            for number in range(50):
                line.put(BadInput("broken"), Part(f"in/{number}", 0, last=True))

    Bedside(Runtime(bundle), queue, 60).run([Files()], lambda *_: None)
    assert len(stored_results(queue)) == 50
    assert len(caplog.messages) == 1


def test_the_latencies_that_run_prints_are_of_the_newest_answers_alone(
    make_result: Callable[..., Result], capsys: pytest.CaptureFixture[str]
) -> None:
    tally, stored = Tally(as_json=False), Stored(1, "id")
    old, new = (
        make_result(latency_ms=Latency(preprocess=0, engine=engine, postprocess=0, queue=0))
        for engine in (900.0, 2.0)
    )
    for _ in range(50):
        tally.count(stored, old, BadInput("none"))
    for _ in range(LATENCIES):
        tally.count(stored, new, BadInput("none"))
    tally.print()
    printed = capsys.readouterr().out
    assert f"results  {LATENCIES + 50}" in printed
    assert f"latency p50 2.000 ms, p95 2.000 ms, n = the newest {LATENCIES}" in printed
