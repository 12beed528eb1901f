"""Questions that come in parts: stored once, whole or not at all, and not for ever."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeclin import wire
from edgeclin.bundle import Bundle
from edgeclin.errors import StoreUnusable
from edgeclin.runtime import Runtime
from edgeclin.transport import MemoryBroker, Message

pytest.importorskip("pyarrow", reason="the cloud extra is not installed")

from edgeclin.cloud import inputs as module
from edgeclin.cloud.ingest import Ingest
from edgeclin.cloud.inputs import ANSWERED_S, KEPT_S, Inputs
from edgeclin.cloud.offload import Offload
from edgeclin.cloud.store import Store

TOPICS = wire.Topics("ward", "bed")
WHOLE = random.Random(5).randbytes(10_000)


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def inputs(tmp_path: Path, clock: Clock) -> Iterator[Inputs]:
    opened = Inputs(tmp_path / "store", clock)
    yield opened
    opened.close()


def part(first: int, last: int, whole: bytes = WHOLE) -> wire.Part:
    digest = hashlib.sha256(whole).hexdigest()
    return wire.Part(digest, len(whole), first, whole[first : last + 1])


def digest_of(whole: bytes) -> str:
    return hashlib.sha256(whole).hexdigest()


def test_parts_in_any_order_and_twice_are_their_whole(inputs: Inputs) -> None:
    cuts = [(0, 2999), (3000, 5999), (6000, 9999)]
    assert inputs.add(TOPICS, part(*cuts[2])).ranges == ((6000, 9999),)
    assert inputs.add(TOPICS, part(*cuts[0])).ranges == ((0, 2999), (6000, 9999))
    assert inputs.add(TOPICS, part(*cuts[0])).ranges == ((0, 2999), (6000, 9999))
    assert inputs.read(TOPICS, digest_of(WHOLE)) is None
    for _ in range(2):
        assert inputs.add(TOPICS, part(*cuts[1])).ranges == ((0, 9999),)
        assert inputs.read(TOPICS, digest_of(WHOLE)) == WHOLE


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), size=st.integers(1, 9_000))
def test_any_parts_that_cover_it_are_their_whole(
    tmp_path: Path, data: st.DataObject, size: int
) -> None:
    whole = random.Random(size).randbytes(size)
    opened = Inputs(tempfile.mkdtemp(dir=tmp_path))
    have: list[tuple[int, int]] = []
    while missing := wire.gaps(have, 0, size - 1):
        first = data.draw(st.integers(0, missing[0][0]))
        least = min(max(missing[0][0], first + wire.LEAST_PART - 1), size - 1)
        cut = first, data.draw(st.integers(least, size - 1))
        kept = opened.add(TOPICS, part(*cut, whole))
        have.append(cut)
        assert kept == wire.Kept(digest_of(whole), wire.joined(have))
    assert opened.read(TOPICS, digest_of(whole)) == whole
    opened.close()


def test_what_is_not_what_its_name_says_is_not_kept(inputs: Inputs) -> None:
    good = part(0, 4999)
    inputs.add(TOPICS, good)
    lie = wire.Part(good.whole, len(WHOLE), 5000, bytes(5000))
    kept = inputs.add(TOPICS, lie)
    assert (kept.ranges, kept.refused) == ((), "its bytes are not those that were hashed")
    assert inputs.read(TOPICS, good.whole) is None
    assert inputs.add(TOPICS, part(5000, 9999)).ranges == ((5000, 9999),), "it begins anew"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (wire.Part(digest_of(WHOLE), 10_000, 9_000, bytes(1024)), "bytes 9000 to 10023 of 10000"),
        (wire.Part(digest_of(WHOLE), 10_000, 0, b"x"), "a part of 1 bytes; the least is 1024"),
        (wire.Part(digest_of(WHOLE), 12_000, 0, bytes(2048)), "its size was 10000 before"),
    ],
)
def test_a_part_that_cannot_be_is_refused(inputs: Inputs, bad: wire.Part, why: str) -> None:
    inputs.add(TOPICS, part(2_000, 4_999))
    kept = inputs.add(TOPICS, bad)
    assert kept.ranges == ()
    assert why in kept.refused
    assert inputs.add(TOPICS, part(5_000, 9_999)).ranges == ((2_000, 9_999),)


def test_a_device_sees_nothing_of_another_s(inputs: Inputs) -> None:
    inputs.add(TOPICS, part(0, 9_999))
    assert inputs.read(wire.Topics("ward", "other"), digest_of(WHOLE)) is None
    assert inputs.read(wire.Topics("other", "bed"), digest_of(WHOLE)) is None


def test_the_oldest_of_a_device_goes_for_its_newest_and_no_device_takes_all(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEVICE_BYTES", 25_000)
    monkeypatch.setattr(module, "MOST_BYTES", 45_000)
    wholes = [random.Random(seed).randbytes(10_000) for seed in range(3)]
    other, third = wire.Topics("ward", "other"), wire.Topics("ward", "third")
    for whole in wholes:
        assert not inputs.add(TOPICS, part(0, 9_999, whole)).refused
    kept = [inputs.read(TOPICS, digest_of(whole)) is not None for whole in wholes]
    assert kept == [False, True, True]
    assert not inputs.add(other, part(0, 9_999)).refused
    assert not inputs.add(other, part(0, 9_999, wholes[0])).refused
    refused = inputs.add(third, part(0, 9_999)).refused
    assert refused == "the store has no room for more inputs"
    assert inputs.read(TOPICS, digest_of(wholes[2])) == wholes[2]


def test_what_is_answered_goes_soon_and_all_else_after_a_day(inputs: Inputs, clock: Clock) -> None:
    other = bytes(5_000)
    inputs.add(TOPICS, part(0, 9_999))
    inputs.add(TOPICS, part(0, 1_999, other))
    inputs.answered(TOPICS, digest_of(WHOLE))
    clock.now += ANSWERED_S - 1
    assert inputs.purge() == 0
    clock.now += 2
    assert inputs.purge() == 1
    assert inputs.read(TOPICS, digest_of(WHOLE)) is None
    clock.now += KEPT_S
    assert inputs.purge() == 1
    assert inputs.add(TOPICS, part(2_000, 4_999, other)).ranges == ((2_000, 4_999),)


def test_what_is_stored_outlives_its_process(inputs: Inputs, tmp_path: Path) -> None:
    inputs.add(TOPICS, part(0, 4_999))
    with_other = Inputs(tmp_path / "store")
    assert with_other.add(TOPICS, part(5_000, 9_999)).ranges == ((0, 9_999),)
    assert inputs.read(TOPICS, digest_of(WHOLE)) == WHOLE
    with_other.close()


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "inputs.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreUnusable, match=r"\(inputs.sqlite: file is not a database\)"):
        Inputs(tmp_path)
    assert (tmp_path / "inputs.sqlite").read_bytes() == b"no database" * 1000


class Cloud:
    """Ingest and offload on one broker, and a device that hears what they say."""

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        self.broker = MemoryBroker()
        self.store = Store(folder)
        self.ingest = Ingest(self.store, self.broker.transport())
        self.offload = Offload(Runtime(bundle), self.broker.transport(), self.store.inputs)
        self.ingest.open()
        self.offload.open()
        self.heard: list[Message] = []
        self.device = self.broker.transport()
        self.device.open((TOPICS.kept, TOPICS.opinion), self.heard.append)

    def say(self, topic: str, payload: bytes) -> Message | None:
        self.heard.clear()
        self.device.publish(Message(topic, payload, correlation=b"r"))
        return self.heard[0] if self.heard else None


@pytest.fixture
def cloud(tmp_path: Path, bundle: Bundle) -> Iterator[Cloud]:
    made = Cloud(tmp_path / "store", bundle)
    yield made
    made.store.close()


def test_a_whole_is_judged_as_one_message_would_be(
    cloud: Cloud, bundle: Bundle, beats: np.ndarray
) -> None:
    ask = wire.encode(wire.Ask(result="r", model="m", input=wire.to_array(beats[0])))
    whole = wire.AskWhole(result="r", whole=digest_of(ask))
    answer = cloud.say(TOPICS.whole, wire.encode(whole))
    assert answer is not None
    assert wire.decode(answer.payload, wire.Kept).refused == "it is not kept here"
    answer = cloud.say(TOPICS.part, wire.encode(part(0, len(ask) - 1, ask)))
    assert answer is not None
    assert wire.decode(answer.payload, wire.Kept).ranges == ((0, len(ask) - 1),)
    answer = cloud.say(TOPICS.whole, wire.encode(whole))
    assert answer is not None
    opinion = wire.decode(answer.payload, wire.Opinion)
    assert (answer.correlation, opinion.result) == (b"r", "r")
    assert opinion.label == Runtime(bundle).predict(beats[0]).label


def test_a_question_about_another_s_input_gets_no_answer(cloud: Cloud, beats: np.ndarray) -> None:
    ask = wire.encode(wire.Ask(result="r", model="m", input=wire.to_array(beats[0])))
    cloud.say(TOPICS.part, wire.encode(part(0, len(ask) - 1, ask)))
    for result, data in (("s", ask), ("r", WHOLE)):
        cloud.say(TOPICS.part, wire.encode(part(0, len(data) - 1, data)))
        asked = wire.AskWhole(result=result, whole=digest_of(data))
        assert cloud.say(TOPICS.whole, wire.encode(asked)) is None
    assert (cloud.offload.answered, cloud.offload.refused) == (0, 2)


def test_a_worker_without_a_store_leaves_wholes_to_others(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    broker = MemoryBroker()
    worker = Offload(Runtime(bundle), broker.transport())
    asked = wire.AskWhole(result="r", whole=digest_of(WHOLE))
    worker.handle(Message(TOPICS.whole, wire.encode(asked)))
    assert (worker.answered, worker.refused) == (0, 1)
    assert "start offload with --store" in caplog.text
