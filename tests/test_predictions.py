"""`POST /predict`: the stored answer, or why there is none and what to do."""

from __future__ import annotations

import gzip
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from bedsides import PICTURE, bundle_of, stored_results
from polling import wait_until

pytest.importorskip("uvicorn", reason="the http extra is not installed")
from endpoints import ANY, JSON, NPY, Answered, Served, doubting, npy, serving

from edgeclin.bundle import Bundle
from edgeclin.config import HTTPConfig
from edgeclin.endpoint import predictions
from edgeclin.inbox import LINE
from edgeclin.manifest import Manifest
from edgeclin.offline_queue import OfflineQueue
from edgeclin.records import Result
from edgeclin.runtime import Runtime
from edgeclin.sources.json_lines import MAX_STREAMS


@pytest.fixture
def runtime(heartbeats: Bundle) -> Runtime:
    return Runtime(heartbeats, draw=lambda: 1.0)


@pytest.fixture
def served(runtime: Runtime, queue: OfflineQueue) -> Iterator[Served]:
    with serving(runtime, queue) as opened:
        yield opened


@pytest.fixture
def held(runtime: Runtime, queue: OfflineQueue) -> Iterator[Served]:
    """Nothing is judged."""
    with serving(runtime, queue, HTTPConfig(port=0, answer_s=0.2), judge=False) as opened:
        yield opened


@pytest.fixture
def pictures(
    tmp_path: Path, manifest_and_files: tuple[Manifest, dict[str, bytes]], queue: OfflineQueue
) -> Iterator[Served]:
    sample = np.full((9, 9, 3), 99, np.uint8)
    bundle = bundle_of(tmp_path, manifest_and_files[0], PICTURE, sample)
    with serving(Runtime(bundle), queue) as opened:
        yield opened


@pytest.fixture
def unsure(tmp_path: Path, heartbeats: Bundle) -> Runtime:
    """Its every answer is in doubt."""
    return Runtime(doubting(heartbeats, tmp_path / "unsure.edgeclin"))


def the_stored(answer: Answered, queue: OfflineQueue) -> Result:
    """The result in an answer, which is the last one in the queue."""
    result = msgspec.convert(answer.json["result"], Result)
    assert stored_results(queue)[-1] == result
    return result


@pytest.mark.parametrize("form", ["array", "object", "npy", "npy of the other byte order"])
def test_a_sample_is_answered_with_what_was_stored(
    served: Served, queue: OfflineQueue, runtime: Runtime, beats: np.ndarray, form: str
) -> None:
    sample, name = beats[7].astype(np.float32), "http"
    if form == "array":
        answer = served.predict(json.dumps(sample.tolist()))
    elif form == "object":
        name = "http/bed.7"
        answer = served.predict(json.dumps({"stream": "bed.7", "samples": sample.tolist()}))
    else:
        order = ">f4" if "other" in form else "<f4"
        answer = served.predict(npy(sample.astype(order)), NPY)
    assert answer.status == 200
    result = the_stored(answer, queue)
    direct = runtime.predict(sample)
    assert (result.label, result.probabilities) == (direct.label, direct.probabilities)
    assert (result.state, result.confidence) == (direct.state, direct.confidence)
    assert (result.source, result.position, answer.json["seq"]) == (name, 0, 1)


def test_samples_of_a_stream_are_numbered_and_go_on_after_a_restart(
    runtime: Runtime, queue: OfflineQueue, beats: np.ndarray
) -> None:
    positions = []
    for _ in range(2):
        with serving(runtime, queue) as served:
            for stream in ("a", "b", "a"):
                answer = served.predict(npy(beats[0]), NPY, f"/predict?stream={stream}")
                positions.append(
                    (answer.json["result"]["source"], answer.json["result"]["position"])
                )
    assert positions == [
        ("http/a", 0), ("http/b", 0), ("http/a", 1), ("http/a", 2), ("http/b", 1), ("http/a", 3)
    ]  # fmt: skip


NOT_FINITE = [float("nan")] + [0.0] * 139


@pytest.mark.parametrize(
    ("body", "media_type", "why"),
    [
        (json.dumps(NOT_FINITE), JSON, "finite"),
        (json.dumps({"stream": "a", "samples": NOT_FINITE}), JSON, "finite"),
        (npy(np.full(140, np.inf)), NPY, "finite"),
        (json.dumps([0.0] * 139), JSON, "139"),
        (npy(np.zeros((2, 140))), NPY, "[2, 140]"),
        ("[1, 2", JSON, "not a JSON array of numbers"),
        ("{}", JSON, "not what came of a stream"),
        ("", JSON, "not a JSON array of numbers"),
        ("[" * 100_000, JSON, "not a JSON array of numbers"),
        ('["a"]', JSON, "not a JSON array of numbers"),
        (npy(np.zeros(140))[:-1], NPY, "not a .npy file of numbers"),
        (npy(np.array([{}], object)), NPY, "not a .npy file of numbers"),
        (npy(np.zeros(140)) * 2, NPY, "bytes follow the .npy file's array"),
        (b"PK\x03\x04", NPY, "not a .npy file of numbers"),
        (b"\x80\x04N.", NPY, "not a .npy file of numbers"),
    ],
)
def test_a_sample_that_cannot_be_judged_is_answered_with_the_stored_rejection(
    served: Served, queue: OfflineQueue, body: Any, media_type: str, why: str
) -> None:
    answer = served.predict(body, media_type)
    assert answer.status == 422
    result = the_stored(answer, queue)
    assert result.rejected
    assert result.label is None
    assert why in result.reason


@pytest.mark.parametrize("dtype", ["longdouble", "complex64", "S3", "U3", "M8[s]", "f4,f4"])
def test_numbers_that_no_question_can_carry_are_rejected_and_the_loop_goes_on(
    unsure: Runtime, queue: OfflineQueue, beats: np.ndarray, dtype: str
) -> None:
    with serving(unsure, queue) as served:
        assert served.predict(npy(np.ones(140, dtype)), NPY).status == 422
        for carried in ("?", "i1", "u8", ">f8", "f2"):
            answer = served.predict(npy(beats[0].astype(carried)), NPY)
            assert answer.status in (200, 422), answer.body
        assert answer.json["result"]["state"] == "provisional"


def test_a_header_that_promises_a_huge_array_costs_no_memory(served: Served) -> None:
    file = io.BytesIO()
    facts = {"descr": "<f8", "fortran_order": False, "shape": (1 << 33,)}
    np.lib.format.write_array_header_1_0(file, facts)
    assert served.predict(file.getvalue(), NPY).status == 422


def test_pictures_are_judged_and_a_broken_one_is_rejected(
    pictures: Served, queue: OfflineQueue
) -> None:
    cv2 = pytest.importorskip("cv2", reason="the vision extra is not installed")
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    for suffix in ("png", "jpeg", "bmp", "tiff", "webp"):
        whole = cv2.imencode(f".{suffix}", noise)[1].tobytes()
        answer = pictures.predict(whole, f"image/{suffix}")
        assert answer.status == 200, answer.body
        assert the_stored(answer, queue).label is not None
        if suffix != "bmp":
            answer = pictures.predict(whole[: len(whole) // 2], f"image/{suffix}")
            assert answer.status == 422
            assert the_stored(answer, queue).rejected


def test_a_dicom_file_is_judged_and_one_of_many_frames_is_not(
    pictures: Served, queue: OfflineQueue
) -> None:
    pytest.importorskip("pydicom", reason="the vision extra is not installed")
    from pydicom.data import get_testdata_file

    def post(name: str, cut: int | None = None) -> Answered:
        path = get_testdata_file(name)
        assert isinstance(path, str)
        return pictures.predict(Path(path).read_bytes()[:cut], "application/dicom")

    answer = post("SC_rgb_small_odd.dcm")
    assert (answer.status, the_stored(answer, queue).rejected) == (200, False)
    answer = post("SC_rgb_small_odd.dcm", -10)
    assert (answer.status, "DICOM" in the_stored(answer, queue).reason) == (422, True)
    answer = post("examples_rgb_color.dcm", 200)
    assert answer.status == 422
    answer = post("rtdose.dcm")
    assert (answer.status, "frames" in the_stored(answer, queue).reason) == (422, True)


def test_other_media_types_are_refused_and_nothing_is_stored(
    served: Served, queue: OfflineQueue
) -> None:
    for media_type in ("text/plain", "image/png", "application/dicom", ""):
        answer = served.predict(b"[]", media_type)
        assert answer.status == 415
        assert answer.headers["Accept"] == f"{JSON}, {NPY}"
        assert NPY in answer.json["error"]
    assert stored_results(queue) == []


@pytest.mark.parametrize("query", ["stream=a+b", "stream=", "stream=" + "a" * 65, "stream=a%0A"])
def test_a_stream_without_a_proper_name_is_refused(
    served: Served, queue: OfflineQueue, query: str
) -> None:
    assert served.predict(b"[]", path=f"/predict?{query}").status == 400
    assert stored_results(queue) == []


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("steam=bed-7", "'steam' is unknown here; known: stream"),
        ("Stream=bed-7", "'Stream' is unknown here"),
        ("stream=bed-7&patient=9", "'patient' is unknown here"),
        ("stream=bed-7&stream=bed-8", "stream is given more than once"),
    ],
)
def test_a_misspelt_name_in_the_address_puts_a_sample_on_no_other_stream(
    served: Served, queue: OfflineQueue, beats: np.ndarray, query: str, says: str
) -> None:
    answer = served.predict(npy(beats[0]), NPY, f"/predict?{query}")
    assert answer.status == 400
    assert says in answer.json["error"]
    assert stored_results(queue) == []


@pytest.mark.parametrize(
    ("body", "media_type", "path"),
    [
        ("[1, 2", JSON, "/predict?stream=bed-7"),
        (b"PK\x03\x04", NPY, "/predict?stream=bed-7"),
        ('{"stream": "bed-7", "samples": ["a"]}', JSON, "/predict"),
        ('{"stream": "bed-7", "samples": [[1], [1, 2]]}', JSON, "/predict"),
    ],
)
def test_a_sample_that_cannot_be_read_is_rejected_on_the_stream_that_was_named(
    served: Served, queue: OfflineQueue, body: Any, media_type: str, path: str
) -> None:
    answer = served.predict(body, media_type, path)
    assert answer.status == 422
    assert the_stored(answer, queue).source == "http/bed-7"


def test_two_names_for_one_stream_are_refused(served: Served, queue: OfflineQueue) -> None:
    body = json.dumps({"stream": "a", "samples": [0.0] * 140})
    answer = served.predict(body, path="/predict?stream=b")
    assert (answer.status, "a in the body" in answer.json["error"]) == (400, True)
    assert stored_results(queue) == []


def test_there_may_be_only_so_many_streams(held: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_STREAMS == 1024
    monkeypatch.setattr(predictions, "MAX_STREAMS", 2)
    codes = [held.predict(b"[]", path=f"/predict?stream={name}").status for name in "abca"]
    assert codes == [504, 504, 429, 504]


def test_a_body_that_is_too_long_is_refused_before_it_is_read(
    runtime: Runtime, queue: OfflineQueue
) -> None:
    with serving(runtime, queue, HTTPConfig(port=0, max_body_mb=1)) as served:
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
            client.sendall(_head(f"Content-Length: {1 << 40}"))
            assert client.recv(12) == b"HTTP/1.1 413"
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
            client.sendall(_head("Transfer-Encoding: chunked"))
            piece = b"10000\r\n" + b" " * 65_536 + b"\r\n"
            client.sendall(piece * 16)
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.recv(1)
            client.settimeout(30)
            client.sendall(b"1\r\n \r\n")
            assert client.recv(12) == b"HTTP/1.1 413"
        assert served.predict(b" " * (1 << 20)).status == 422
    assert len(stored_results(queue)) == 1


def test_json_that_would_hold_up_judging_is_refused_and_the_same_as_npy_is_not(
    served: Served,
) -> None:
    head = _head(f"Content-Length: {predictions.MOST_JSON + 1}")
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(head)
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"send it as application/x-npy" in answer
    assert served.predict(npy(np.zeros(400_000)), NPY).status == 422


def _head(*headers: str) -> bytes:
    lines = ["POST /predict HTTP/1.1", "Host: localhost", f"Content-Type: {JSON}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def test_a_body_that_does_not_come_is_given_up(
    served: Served, queue: OfflineQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "BODY_S", 0.2)
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(_head("Content-Length: 2") + b"[")
        assert client.recv(12) == b"HTTP/1.1 408"
    assert stored_results(queue) == []


def test_a_client_that_goes_away_leaves_nothing_behind(
    served: Served, queue: OfflineQueue, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(predictions.AT_ONCE):
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
            client.sendall(_head("Content-Length: 2") + b"[")
    wait_until(lambda: served.predict(b"[]").status == 422, "room again")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_no_answer_in_time_is_said_and_the_result_is_stored_all_the_same(
    runtime: Runtime, queue: OfflineQueue, beats: np.ndarray
) -> None:
    release = threading.Event()
    run = runtime.backend.run

    def slow(sample: np.ndarray) -> np.ndarray:
        release.wait(30)
        return run(sample)

    runtime.backend.run = slow  # type: ignore[method-assign]
    with serving(runtime, queue, HTTPConfig(port=0, answer_s=0.2)) as served:
        answer = served.predict(npy(beats[0]), NPY)
        assert answer.status == 504
        assert "do not send it again" in answer.json["error"]
        assert stored_results(queue) == []
        release.set()
        wait_until(lambda: stored_results(queue), "the result")
        wait_until(lambda: served.get("/results").json["results"], "the result shown")


def test_a_body_that_is_packed_is_refused_and_nothing_stored(
    runtime: Runtime, queue: OfflineQueue, beats: np.ndarray
) -> None:
    with serving(runtime, queue, ANY) as served:
        headers = {"Content-Type": NPY, "Content-Encoding": "gzip"}
        answer = served.ask("POST", "/predict", gzip.compress(npy(beats[0])), headers)
        assert answer.status == 415
        assert "send it as it is" in answer.json["error"]
        assert stored_results(queue) == []


def test_a_full_line_is_said_with_when_to_ask_again(held: Served) -> None:
    codes = [held.predict(b"[]").status for _ in range(LINE)]
    assert codes == [504] * LINE
    answer = held.predict(b"[]")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert "as many samples of http as may wait" in answer.json["error"]
    assert held.predict(b"[]", path="/predict?stream=other").status == 504


def test_only_so_many_requests_are_at_work_at_once(held: Served) -> None:
    clients = []
    try:
        for _ in range(predictions.AT_ONCE):
            client = socket.create_connection(("127.0.0.1", held.port), timeout=30)
            client.sendall(_head("Content-Length: 2") + b"[")
            clients.append(client)
        wait_until(lambda: held.predict(b"[]").status == 503, "no room")
        assert "at work already" in held.predict(b"[]").json["error"]
    finally:
        for client in clients:
            client.close()


def test_a_full_queue_is_said_and_nothing_waits_for_it(
    tmp_path: Path, runtime: Runtime, beats: np.ndarray
) -> None:
    config = HTTPConfig(port=0, answer_s=0.5)
    with (
        OfflineQueue(tmp_path / "small.sqlite", max_bytes=2000) as queue,
        serving(runtime, queue, config) as served,
    ):
        codes: list[int] = []
        while 503 not in codes:
            codes.append(served.predict(npy(beats[0]), NPY).status)
            assert len(codes) < 20
        assert set(codes[:-1]) == {200}
        answer = served.predict(npy(beats[0]), NPY)
        assert answer.headers["Retry-After"] == "1"
        assert "connect the device, or raise queue.max_mb" in answer.json["error"]
        assert served.get("/health").status == 503
        assert served.bedside.inbox.waiting == 0


def test_who_waits_when_it_ends_is_told_and_what_was_stored_is_answered(
    runtime: Runtime, queue: OfflineQueue, beats: np.ndarray
) -> None:
    release, taken = threading.Event(), threading.Event()
    run = runtime.backend.run

    def slow(sample: np.ndarray) -> np.ndarray:
        taken.set()
        release.wait(30)
        return run(sample)

    runtime.backend.run = slow  # type: ignore[method-assign]
    answers: dict[str, Answered] = {}
    with serving(runtime, queue, ANY) as served:

        def ask(stream: str) -> None:
            answers[stream] = served.predict(npy(beats[0]), NPY, f"/predict?stream={stream}")

        clients = [threading.Thread(target=ask, args=(name,)) for name in "ab"]
        clients[0].start()
        assert taken.wait(30)
        clients[1].start()
        wait_until(lambda: served.bedside.inbox.waiting == 1, "the second sample")
        served.bedside.inbox.stop()
        time.sleep(0.3)
        release.set()
    for client in clients:
        client.join(30)
    assert answers["a"].status == 200
    assert answers["b"].status == 503
    assert "stored nothing about this sample" in answers["b"].json["error"]
    assert [result.source for result in stored_results(queue)] == ["http/a"]
