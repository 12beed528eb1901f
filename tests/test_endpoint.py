"""What the endpoint shows: results, health, metrics, events; to whom, and to how many."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from bedsides import stored_results
from polling import wait_until

pytest.importorskip("uvicorn", reason="the http extra is not installed")
from endpoints import ANY, NPY, Served, doubting, npy, serving
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families

from edgeclin import wire
from edgeclin.bundle import Bundle
from edgeclin.config import HTTPConfig, IsolationConfig
from edgeclin.endpoint import connections, events
from edgeclin.endpoint.application import Rooms, application
from edgeclin.endpoint.events import Events
from edgeclin.endpoint.history import KEPT
from edgeclin.endpoint.predictions import Predictions
from edgeclin.errors import EdgeclinError, QueueFull
from edgeclin.failover import NO_ENGINE, Answering
from edgeclin.health import RunHealth, SyncHealth
from edgeclin.offline_queue import Keyring, OfflineQueue
from edgeclin.records import Result, Tier
from edgeclin.runtime import Runtime


@pytest.fixture
def runtime(heartbeats: Bundle) -> Runtime:
    return Runtime(heartbeats, draw=lambda: 1.0)


@pytest.fixture
def served(runtime: Runtime, queue: OfflineQueue) -> Iterator[Served]:
    with serving(runtime, queue) as opened:
        yield opened


@pytest.fixture
def unsure(tmp_path: Path, heartbeats: Bundle, queue: OfflineQueue) -> Iterator[Served]:
    """Every answer is in doubt."""
    with serving(Runtime(doubting(heartbeats, tmp_path / "unsure.edgeclin")), queue) as opened:
        yield opened


# -- results ------------------------------------------------------------------------------------


def test_results_come_newest_first_and_only_those_after(served: Served, beats: np.ndarray) -> None:
    for beat in beats[:5]:
        served.predict(npy(beat), NPY)
    wait_until(lambda: len(served.get("/results").json["results"]) == 5, "all")
    assert seqs(served, "") == [5, 4, 3, 2, 1]
    assert seqs(served, "?after=3") == [5, 4]
    assert seqs(served, "?after=1&limit=2") == [5, 4]
    shown = served.get("/results?limit=1").json["results"][0]
    assert (shown["state"], shown["threshold"], shown["drawn"]) == ("final", 0.9, True)
    stored = stored_results(served.queue)[-1]
    assert msgspec.convert(shown["result"], type(stored)) == stored


def seqs(served: Served, query: str) -> list[int]:
    return [shown["seq"] for shown in served.get(f"/results{query}").json["results"]]


def test_a_number_out_of_its_range_is_refused(served: Served) -> None:
    limits = ("limit=0", f"limit={KEPT + 1}", "limit=1.5")
    for query in ("after=-1", "after=x", "after=", "after=" + "9" * 30, *limits):
        answer = served.get(f"/results?{query}")
        assert answer.status == 400, query
        assert "must be a number from" in answer.json["error"]


def test_a_misspelt_name_in_an_address_is_refused(served: Served) -> None:
    answer = served.get("/results?afetr=3")
    assert answer.status == 400
    assert answer.json["error"] == "'afetr' is unknown here; known: after, limit"


def test_a_result_shows_what_became_of_it_though_the_cloud_has_it(
    unsure: Served, beats: np.ndarray
) -> None:
    answer = unsure.predict(npy(beats[0]), NPY)
    assert answer.json["result"]["state"] == "provisional"
    opinion = wire.Opinion(result=answer.json["id"], model="big", label="ectopic", confidence=0.9)
    unsure.queue.settle(opinion)
    everything = wire.Receipt(epoch=unsure.queue.epoch, ranges=((1, 100),))
    assert unsure.queue.remove(everything) == 2
    wait_until(lambda: unsure.get("/results").json["results"][0]["state"] == "amended", "it")
    (shown,) = unsure.get("/results").json["results"]
    assert shown["review"]["label"] == "ectopic"
    assert shown["result"] == answer.json["result"]


def test_a_result_is_shown_as_its_own_bundle_means_it(
    served: Served, unsure: Served, beats: np.ndarray
) -> None:
    served.predict(npy(beats[0]), NPY)
    served.bedside.replace(unsure.bedside.runtime)
    served.predict(npy(beats[0]), NPY)
    wait_until(lambda: seqs(served, "") == [2, 1], "both")
    new, old = served.get("/results").json["results"]
    assert (old["threshold"], new["threshold"]) == (0.9, 1.1)
    assert served.get("/health").json["run"]["bundle"] == new["result"]["bundle"]


def test_a_sample_is_drawn_while_it_is_kept(served: Served, beats: np.ndarray) -> None:
    served.predict(npy(beats[0]), NPY)
    wait_until(lambda: seqs(served, "") == [1], "it")
    drawn = served.get("/results/1/drawing").json
    (lead,) = drawn["leads"]
    np.testing.assert_allclose(lead["low"], beats[0], rtol=1e-3)
    for none in ("2", "9" * 5000, "x"):
        assert served.get(f"/results/{none}/drawing").status == 404


# -- health -------------------------------------------------------------------------------------


def test_health_tells_whether_samples_are_answered(
    runtime: Runtime, queue: OfflineQueue, beats: np.ndarray
) -> None:
    moving = [True]
    with serving(runtime, queue, alive=lambda: moving[0]) as served:
        answer = served.get("/health")
        now = answer.json
        assert (answer.status, now["status"], now["serving"]) == (200, "ok", True)
        assert (now["site"], now["device"], now["signed"]) == ("ward", "bed-1", False)
        assert (now["last_s"], now["link"]["state"]) == (None, "unknown")
        served.predict(npy(beats[0]), NPY, "/predict?stream=a")
        wait_until(lambda: served.get("/health").json["stream"] == "http/a", "the last stream")
        assert served.get("/health").json["last_s"] < 60
        moving[0] = False
        answer = served.get("/health")
        assert answer.status == 503
        assert (answer.json["status"], answer.json["serving"]) == ("alarm", False)
        assert "the engine or the disk hangs" in answer.json["alarms"][0]


@contextmanager
def full_queue(folder: Path, make_result: Callable[..., Result]) -> Iterator[OfflineQueue]:
    with OfflineQueue(folder / "small.sqlite", max_bytes=20_000) as queue:
        with suppress(QueueFull):
            while True:
                queue.put(make_result())
        yield queue


def test_a_full_queue_serves_nobody_until_less_waits_in_it(
    runtime: Runtime,
    tmp_path: Path,
    beats: np.ndarray,
    make_result: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that looks before it asks would else never ask again."""
    monkeypatch.setattr("edgeclin.endpoint.endpoint._LOOK_S", 0.05)
    with full_queue(tmp_path, make_result) as queue, serving(runtime, queue) as served:
        assert served.predict(npy(beats[0]), NPY).status == 503
        watch = served.endpoint._watch
        for _ in range(3):
            before = watch._looked
            wait_until(lambda before=before: watch._looked > before, "another look")
            assert served.get("/health").status == 503
        rows = queue.pending(Tier.ROUTINE, limit=3)
        ranges = tuple((row.seq, row.seq) for row in rows)
        queue.remove(wire.Receipt(epoch=queue.epoch, ranges=ranges))
        wait_until(lambda: served.get("/health").status == 200, "room")
        assert served.get("/health").json["alarms"] == []
        assert served.predict(npy(beats[0]), NPY).status == 200


def test_a_full_queue_is_tried_once_more_after_a_while_though_nothing_tells_of_room(
    runtime: Runtime,
    tmp_path: Path,
    beats: np.ndarray,
    make_result: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as where the disk was full of something else, or another program held the lock."""
    monkeypatch.setattr("edgeclin.endpoint.endpoint._LOOK_S", 0.05)
    monkeypatch.setattr("edgeclin.endpoint.health._FORGET_S", 0.5)
    with full_queue(tmp_path, make_result) as queue, serving(runtime, queue) as served:
        assert served.predict(npy(beats[0]), NPY).status == 503
        wait_until(lambda: served.get("/health").status == 200, "it is tried again")
        assert served.predict(npy(beats[0]), NPY).status == 503


def test_health_tells_that_no_engine_answers(
    unsound: Path, engines_of: Callable[..., Bundle], queue: OfflineQueue
) -> None:
    isolation = IsolationConfig(restart_most_s=0.1)
    runtime = Runtime(engines_of("unsound"), isolation=isolation)
    with serving(runtime, queue) as served:
        assert served.get("/health").status == 200
        (unsound / "unsound").write_text("abort")
        rejected = served.predict(npy(np.zeros(140)), NPY)
        assert (rejected.status, rejected.json["result"]["engine"]) == (422, NO_ENGINE)
        answer = served.get("/health")
        assert (answer.status, answer.json["serving"]) == (503, False)
        (unsound / "unsound").unlink()
        wait_until(lambda: served.get("/health").status == 200, "the engine is back", 30)
    runtime.close()


def test_health_tells_of_the_link(served: Served) -> None:
    for state, health in {
        "connected": SyncHealth(made_at=0, up_s=99, connected=True),
        "unanswered": SyncHealth(made_at=0, up_s=99, connected=True, silent_s=42),
        "disconnected": SyncHealth(made_at=0, up_s=99, connected=False, silent_s=42),
    }.items():
        served.queue.notices.tell(health)
        wait_until(partial(says, served, state), state)
        age_s = served.get("/health").json["link"]["age_s"]
        assert 42 <= age_s < 57 if state == "unanswered" else age_s < 15


def says(served: Served, state: str) -> bool:
    return bool(served.get("/health").json["link"]["state"] == state)


def test_health_tells_that_the_queue_cannot_be_read(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise EdgeclinError("the disk is gone")

    wait_until(lambda: served.get("/health").json["queue"], "a first look")
    monkeypatch.setattr(served.queue, "standing", broken)
    wait_until(lambda: served.get("/health").json["alarms"], "an alarm")
    now = served.get("/health").json
    assert now["queue"] is None
    assert now["alarms"] == ["the queue cannot be read: the disk is gone"]


def test_what_cannot_be_delivered_is_an_alarm(
    served: Served, make_result: Callable[..., Result]
) -> None:
    served.queue.put(make_result())
    served.queue.set_aside(1, "too large")
    refused = ("ec/v1/s/d/up/routine: Not authorized",)
    served.queue.notices.tell(SyncHealth(made_at=0, up_s=9, connected=True, refused=refused))
    wait_until(lambda: len(served.get("/health").json["alarms"]) == 2, "two alarms")
    assert served.get("/health").json["alarms"] == [
        "1 rows cannot be delivered: `edgeclin queue list` says why",
        "the broker refuses what is sent on ec/v1/s/d/up/routine: Not authorized",
    ]


def test_what_lacks_its_key_is_an_alarm(served: Served, make_result: Callable[..., Result]) -> None:
    with OfflineQueue(served.queue.path, keyring=Keyring([bytes(32)])) as other:
        other.put(make_result())
    wait_until(lambda: served.get("/health").json["alarms"], "an alarm")
    assert served.get("/health").json["alarms"] == [
        "1 rows wait for a key that is not there: put it back in queue.key"
    ]


def test_whatever_goes_wrong_as_the_queue_is_looked_at_it_is_looked_at_again(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Any:
        raise ValueError("an id that is none")

    with monkeypatch.context() as patch:
        patch.setattr(served.queue, "standing", broken)
        wait_until(lambda: served.get("/health").json["alarms"], "an alarm")
    wait_until(lambda: not served.get("/health").json["alarms"], "no alarm any more")
    assert caplog.text.count("ALARM: the queue cannot be looked at") == 1


def test_an_urgent_result_that_waits_too_long_is_an_alarm(
    served: Served, make_result: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    served.queue.put(make_result(tier=Tier.URGENT))
    later = time.time() + 1200
    monkeypatch.setattr("edgeclin.endpoint.health.time.time", lambda: later)
    wait_until(lambda: served.get("/health").json["alarms"], "an alarm")
    assert served.get("/health").json["alarms"] == [
        "an urgent result has waited 20 minutes for the cloud"
    ]


class Waiting:
    """Another source, which has nothing to deliver yet."""

    def __init__(self) -> None:
        self.more = threading.Event()

    def deliver(self, inbox: Any) -> None:
        self.more.wait(60)
        inbox.line("other").put(np.zeros(140, np.float32))
        inbox.stopped.wait(60)


@pytest.mark.parametrize("how", ["the server", "showing"])
def test_the_loop_goes_on_with_an_alarm_when_serving_ends(
    runtime: Runtime,
    queue: OfflineQueue,
    beats: np.ndarray,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = Waiting()
    if how == "the server":

        async def broken(*_: Any) -> None:
            raise RuntimeError("broken")

        monkeypatch.setattr("uvicorn.Server.main_loop", broken)
    with serving(runtime, queue, sources=[other]) as served:
        if how == "showing":

            def fail(*_: Any) -> None:
                raise RuntimeError("broken")

            monkeypatch.setattr(served.endpoint._metrics, "count", fail)
            served.predict(npy(beats[0]), NPY)
        wait_until(lambda: served.bedside.health().alarms, "an alarm")
        (alarm,) = served.bedside.health().alarms
        assert alarm.startswith(
            "a source has failed: the endpoint has ended (RuntimeError('broken'"
        )
        with pytest.raises(OSError):
            served.get("/health")
        before = len(stored_results(queue))
        other.more.set()
        wait_until(lambda: len(stored_results(queue)) > before, "another answer")
    assert "ALARM: a source has failed, the others go on: the endpoint has ended" in caplog.text


# -- metrics ------------------------------------------------------------------------------------


def metrics(served: Served) -> dict[str, dict[tuple[str, ...], float]]:
    """The samples of `/metrics`, by name and the values of their labels."""
    answer = served.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_metrics_say_what_was_answered_and_how_long_it_took(
    served: Served, beats: np.ndarray
) -> None:
    before = metrics(served)
    assert before["edgeclin_results_total"][("final",)] == 0
    assert "edgeclin_last_answer_age_seconds" not in before
    for beat in beats[:3]:
        served.predict(npy(beat), NPY)
    served.predict(b"[]")
    wait_until(lambda: len(seqs(served, "")) == 4, "all shown")
    now = metrics(served)
    states = [json.loads(msgspec.json.encode(r))["state"] for r in stored_results(served.queue)]
    for state in ("final", "provisional", "confirmed", "amended", "unreviewed"):
        assert now["edgeclin_results_total"][(state,)] == states.count(state)
    assert now["edgeclin_rejected_total"][()] == 1
    latencies = [one.latency_ms for one in stored_results(served.queue) if one.latency_ms]
    for step in ("queue", "preprocess", "engine", "postprocess"):
        assert now["edgeclin_latency_seconds_count"][(step,)] == 3
        spent = sum(getattr(one, step) for one in latencies) / 1000
        assert now["edgeclin_latency_seconds_sum"][(step,)] == pytest.approx(spent)
    assert 0 <= now["edgeclin_last_answer_age_seconds"][()] < 60
    assert now["edgeclin_serving"][()] == 1
    assert now["edgeclin_degraded"][()] == 0
    assert now["edgeclin_link_up"][()] == 0
    assert now["edgeclin_disk_written_bytes_total"][()] >= 0
    for name in ("late_total", "dropped_total", "urgent_total", "waiting_samples", "alarm"):
        assert f"edgeclin_{name}" in now
    wait_until(lambda: metrics(served)["edgeclin_queue_rows"][("routine",)] > 0, "the queue")
    assert 0 <= metrics(served)["edgeclin_oldest_waiting_seconds"][("routine",)] < 60
    wait_until(
        lambda: sum(metrics(served)["edgeclin_queue_rows"].values()) == 4, "all rows counted"
    )
    served.queue.notices.tell(SyncHealth(made_at=0, up_s=1, connected=True))
    wait_until(lambda: metrics(served)["edgeclin_link_up"][()] == 1, "the link")


def test_metrics_tell_that_another_engine_answers(served: Served) -> None:
    runtime = served.bedside.runtime
    runtime._alone = Answering(runtime.engine, "no GPU here")
    now = metrics(served)
    assert now["edgeclin_degraded"][()] == 1
    (labels,) = now["edgeclin_info"]
    assert set(labels) == {runtime.bundle.digest, runtime.engine, "fake-ecg 1.0.0"}


# -- events -------------------------------------------------------------------------------------


class Listener:
    """One listener of `/events`."""

    def __init__(self, served: Served, last: str | None = None) -> None:
        self._connection = served.connect()
        headers = {} if last is None else {"Last-Event-ID": last}
        self._connection.request("GET", "/events", headers=headers)
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self.media_type = self._response.headers["Content-Type"]

    def next(self, name: str) -> tuple[str, Any]:
        """The id and data of the next event of that name."""
        while True:
            fields: dict[str, str] = {}
            while line := self._response.readline().decode().rstrip("\n"):
                field, _, value = line.partition(": ")
                fields[field] = value
            assert fields, "the stream has ended"
            if fields.get("event") == name:
                return fields.get("id", ""), json.loads(fields["data"])

    def close(self) -> None:
        self._response.close()
        self._connection.close()


def test_events_bring_results_as_they_come_and_health_each_second(
    served: Served, beats: np.ndarray
) -> None:
    listener = Listener(served)
    assert (listener.status, listener.media_type) == (200, "text/event-stream")
    assert listener.next("results")[1] == {"results": [], "missed": 0}
    assert listener.next("health")[1]["status"] == "ok"
    answer = served.predict(npy(beats[0]), NPY)
    _, told = listener.next("results")
    assert [shown["id"] for shown in told["results"]] == [answer.json["id"]]
    ups = [listener.next("health")[1]["run"]["up_s"] for _ in range(3)]
    assert 0.9 < ups[2] - ups[1] < 20
    listener.close()


def test_a_listener_that_comes_back_gets_what_it_missed_and_no_more(
    served: Served, beats: np.ndarray
) -> None:
    served.predict(npy(beats[0]), NPY)
    wait_until(lambda: seqs(served, "") == [1], "the first")
    first = Listener(served)
    last, told = first.next("results")
    first.close()
    assert told["missed"] == 0
    for beat in beats[:3]:
        served.predict(npy(beat), NPY)
    wait_until(lambda: len(seqs(served, "")) == 4, "all")
    again = Listener(served, last)
    assert [shown["seq"] for shown in again.next("results")[1]["results"]] == [2, 3, 4]
    again.close()
    for beat in beats[: KEPT + 2]:
        served.predict(npy(beat), NPY)
    wait_until(lambda: seqs(served, "?limit=1") == [KEPT + 6], "all of them")
    late = Listener(served, last)
    told = late.next("results")[1]
    assert (len(told["results"]), told["missed"]) == (KEPT, 5)
    late.close()


@pytest.mark.parametrize("last", ["", "x", "0123456789abcdef-5-5", "-1-1"])
def test_a_listener_from_before_the_restart_gets_all_that_is_kept(
    served: Served, beats: np.ndarray, last: str
) -> None:
    served.predict(npy(beats[0]), NPY)
    wait_until(lambda: seqs(served, "") == [1], "it")
    listener = Listener(served, last)
    assert [shown["seq"] for shown in listener.next("results")[1]["results"]] == [1]
    listener.close()


def test_who_asks_about_events_alone_does_not_wait_for_them(served: Served) -> None:
    answer = served.ask("HEAD", "/events")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Type"].startswith("text/event-stream")


def test_a_review_is_an_event(unsure: Served, beats: np.ndarray) -> None:
    listener = Listener(unsure)
    listener.next("results")
    answer = unsure.predict(npy(beats[0]), NPY)
    assert listener.next("results")[1]["results"][0]["state"] == "provisional"
    unsure.queue.settle(
        wire.Opinion(result=answer.json["id"], model="big", label="ectopic", confidence=0.9)
    )
    (shown,) = listener.next("results")[1]["results"]
    assert (shown["seq"], shown["state"]) == (1, "amended")
    listener.close()


def test_there_are_only_so_many_listeners_and_who_goes_makes_room(served: Served) -> None:
    listeners = [Listener(served) for _ in range(events.LISTENERS)]
    refused = served.get("/events")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
    listeners.pop().close()
    wait_until(lambda: listens(served), "room")
    for listener in listeners:
        listener.close()


def listens(served: Served) -> bool:
    listener = Listener(served)
    listener.close()
    return listener.status == 200


def test_a_listener_that_takes_nothing_is_let_go(
    runtime: Runtime, queue: OfflineQueue, beats: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STALLED_S", 1.0)
    monkeypatch.setattr(events, "HEALTH_S", 0.0)
    monkeypatch.setattr(events, "_TURN_S", 0.0)
    monkeypatch.setattr(events, "LISTENERS", 1)
    with serving(runtime, queue) as served:
        stalled = socket.socket()
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(("127.0.0.1", served.port))
        stalled.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert stalled.recv(15) == b"HTTP/1.1 200 OK"
        assert served.get("/events").status == 503
        wait_until(lambda: listens(served), "it is let go")
        stalled.close()


def test_the_end_is_told_to_listeners(runtime: Runtime, queue: OfflineQueue) -> None:
    with serving(runtime, queue) as served:
        listener = Listener(served)
        listener.next("health")
    with pytest.raises((AssertionError, http.client.HTTPException)):
        while True:
            listener.next("health")


# -- openapi ------------------------------------------------------------------------------------


def test_the_description_is_valid_and_names_every_route(served: Served) -> None:
    document = served.get("/openapi.json").json
    validate(document)
    assert document["openapi"] == "3.1.0"
    predictions = Predictions(served.bedside, ANY)
    rooms: Any = Rooms(None, None, None, predictions, Events(None, None))  # type: ignore[arg-type]
    app = application(rooms, served.bedside, ANY)
    routes = {
        (route.path, method.lower())
        for route in app.routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    described = {(path, method) for path, entry in document["paths"].items() for method in entry}
    assert described == routes
    taken = document["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert list(taken) == ["application/json", NPY]


def test_answers_are_as_described(served: Served, beats: np.ndarray) -> None:
    from jsonschema import Draft202012Validator

    document = served.get("/openapi.json").json
    good = served.predict(npy(beats[0]), NPY)
    wait_until(lambda: seqs(served, "") == [1], "it")
    for path, method, answer in (
        ("/predict", "post", good),
        ("/predict", "post", served.predict(b"[]")),
        ("/predict", "post", served.predict(b"[]", "text/plain")),
        ("/predict", "post", served.predict(b"[]", path="/predict?stream=a+b")),
        ("/results", "get", served.get("/results")),
        ("/results", "get", served.get("/results?limit=0")),
        ("/results/{seq}/drawing", "get", served.get("/results/1/drawing")),
        ("/results/{seq}/drawing", "get", served.get("/results/9/drawing")),
        ("/health", "get", served.get("/health")),
    ):
        described = document["paths"][path][method]["responses"][str(answer.status)]
        schema = described["content"]["application/json"]["schema"]
        whole = {**schema, "components": document["components"]}
        Draft202012Validator(whole).validate(answer.json)


# -- who may ask --------------------------------------------------------------------------------


def test_it_listens_on_loopback_and_nothing_else(served: Served) -> None:
    assert served.endpoint._socket.getsockname()[0] == "127.0.0.1"


HOSTS = {
    200: ("localhost", "LOCALHOST:80", "127.0.0.1:8080", "127.9.9.9", "[::1]:8080"),
    421: (
        "evil.example", "localhost.evil.example:8080", "192.168.1.7", "", "[::1", "localhost:",
        "127.0.0.1.evil.example", "localhost:80@evil.example", "localhost.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("status", HOSTS)
def test_only_names_of_this_machine_are_answered(served: Served, status: int) -> None:
    for host in HOSTS[status]:
        for path in ("/health", "/", "/openapi.json"):
            assert served.get(path, Host=host).status == status, host
        body = {"Content-Type": "application/json", "Host": host}
        asked = served.ask("POST", "/predict", b"[]", body).status
        assert asked == (422 if status == 200 else 421)


ORIGINS: dict[int, tuple[dict[str, str], ...]] = {
    422: (
        {},
        {"Origin": "http://127.0.0.1:PORT", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ),
    403: (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1:PORT"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ),
}


@pytest.mark.parametrize("status", ORIGINS)
def test_a_page_of_another_site_cannot_have_a_sample_judged(served: Served, status: int) -> None:
    for headers in ORIGINS[status]:
        named = {name: value.replace("PORT", str(served.port)) for name, value in headers.items()}
        named["Content-Type"] = "application/json"
        assert served.ask("POST", "/predict", b"[]", named).status == status, headers
    assert bool(stored_results(served.queue)) == (status == 422)


def test_a_page_of_another_site_takes_no_listeners_place_but_may_link_here(served: Served) -> None:
    fetched = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    for path in ("/events", "/results", "/"):
        assert served.ask("GET", path, headers=fetched).status == 403
        assert served.ask("GET", path, headers={"Origin": "http://evil.example"}).status == 403
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert served.ask("GET", "/", headers=followed).status == 200
    assert served.ask("POST", "/predict", b"[]", followed).status == 403


def test_no_answer_lets_another_site_read_or_frame_it(served: Served) -> None:
    for path in ("/", "/bedside.js", "/results", "/nothing", "/metrics", "/events/"):
        answer = served.get(path, Origin="http://evil.example")
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    preflight = served.ask(
        "OPTIONS", "/predict", None,
        {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"},
    )  # fmt: skip
    assert preflight.status == 403


def test_beyond_loopback_addresses_are_answered_and_names_are_not(
    runtime: Runtime, queue: OfflineQueue
) -> None:
    config = HTTPConfig(port=0, host="0.0.0.0", beyond_loopback=True)
    with serving(runtime, queue, config) as served:
        for host, status in (("192.168.1.7:8080", 200), ("localhost", 200), ("evil.example", 421)):
            assert served.get("/health", Host=host).status == status


# -- connections --------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: local"])
def test_a_head_that_does_not_come_ends_the_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(sent)
        assert client.recv(1) == b""


def test_a_head_that_drips_ends_the_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.5)
    dripping = threading.Event()
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:

        def drip() -> None:
            try:
                client.sendall(b"GET / HTTP/1.1\r\nX: ")
                while not dripping.wait(0.05):
                    client.sendall(b"x")
            except OSError:
                pass

        thread = threading.Thread(target=drip)
        thread.start()
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""
        dripping.set()
        thread.join()


def test_a_connection_in_use_is_not_ended(
    served: Served, monkeypatch: pytest.MonkeyPatch, beats: np.ndarray
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    connection = served.connect()
    connection.connect()
    before = connection.sock
    for _ in range(12):
        connection.request("POST", "/predict", npy(beats[0]), {"Content-Type": NPY})
        assert connection.getresponse().read()
        threading.Event().wait(0.1)
    assert connection.sock is before
    connection.close()


def test_no_answer_waits_for_more_to_send(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nagle's algorithm would hold each one for 40 ms."""
    made = connections.ImpatientProtocol.connection_made
    at_once: list[int] = []

    def watched(protocol: connections.ImpatientProtocol, transport: asyncio.Transport) -> None:
        accepted = transport.get_extra_info("socket")
        at_once.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        made(protocol, transport)

    monkeypatch.setattr(connections.ImpatientProtocol, "connection_made", watched)
    served.get("/health")
    assert at_once == [1]


def test_a_port_that_is_taken_is_one_sentence(served: Served) -> None:
    with pytest.raises(EdgeclinError, match=rf"^port {served.port} of 127\.0\.0\.1 cannot be used"):
        connections.listen("127.0.0.1", served.port)
    with pytest.raises(EdgeclinError, match=r"^http\.host no\.such\.host\.invalid: "):
        connections.listen("no.such.host.invalid", 0)


def test_what_it_does_not_know_is_one_sentence(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/predict", 405)):
        answer = served.ask(method, path)
        assert (answer.status, list(answer.json)) == (status, ["error"])
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 400"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_health_of_run_is_what_the_queue_tells(served: Served) -> None:
    now = msgspec.convert(served.get("/health").json["run"], RunHealth)
    assert now.bundle == served.bedside.runtime.bundle.digest
