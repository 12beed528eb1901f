"""wire: what one side says the other understands, and nothing that arrives can break it."""

from __future__ import annotations

import base64
import json
import threading
import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeclin import wire
from edgeclin.errors import BadMessage
from edgeclin.records import Tier

quick = settings(deadline=None)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(0, 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)
MESSAGES: dict[type, st.SearchStrategy[Any]] = {
    wire.Receipt: st.builds(
        wire.Receipt, epoch=texts, ranges=st.lists(st.tuples(numbers, numbers)).map(tuple)
    ),
    wire.Ask: st.builds(
        wire.Ask,
        result=texts,
        model=texts,
        input=st.builds(wire.Array, shape=shapes, data=st.binary().map(lambda b: b.hex())),
    ),
    wire.Part: st.builds(
        wire.Part,
        whole=digests,
        size=st.integers(1, wire.MAX_DECODED),
        at=st.integers(0, wire.MAX_DECODED - 1),
        data=st.binary(min_size=1),
    ),
    wire.Kept: st.builds(
        wire.Kept, whole=digests, ranges=st.lists(st.tuples(numbers, numbers)).map(tuple)
    ),
    wire.AskWhole: st.builds(wire.AskWhole, result=texts, whole=digests),
    wire.Opinion: st.builds(
        wire.Opinion, result=texts, model=texts, label=st.none() | texts, confidence=finite
    ),
    wire.Status: st.builds(
        wire.Status, made_at=finite, version=texts, pending=st.dictionaries(texts, numbers)
    ),
    wire.SignedRequest: st.builds(
        wire.SignedRequest,
        payload=texts,
        signatures=st.lists(st.builds(wire.Signature, keyid=texts, sig=texts)).map(tuple),
    ),
    wire.Request: st.builds(
        wire.Request, number=st.integers(1, 2**63 - 1), arguments=st.dictionaries(texts, numbers)
    ),
    wire.Reply: st.builds(wire.Reply, digest=texts, facts=st.dictionaries(texts, numbers)),
}
KINDS = list(MESSAGES)
RECEIPT = wire.Receipt(epoch="e", ranges=((1, 64), (70, 70)))


def packed(body: bytes | Any) -> bytes:
    """JSON under zstd, made without the code under test."""
    plain = body if isinstance(body, bytes) else json.dumps(body).encode()
    return zstandard.ZstdCompressor().compress(plain)


def plain(message: Any) -> dict[str, Any]:
    body = json.loads(zstandard.ZstdDecompressor().decompress(wire.encode(message)))
    assert isinstance(body, dict)
    return body


@quick
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_a_message_is_the_same_after_its_journey(data: st.DataObject, kind: Any) -> None:
    message = data.draw(MESSAGES[kind])
    assert wire.decode(wire.encode(message), kind) == message


def test_the_documented_receipt_is_what_is_sent() -> None:
    assert plain(RECEIPT) == {"epoch": "e", "ranges": [[1, 64], [70, 70]], "schema": 1}
    assert wire.decode(packed(plain(RECEIPT)), wire.Receipt) == RECEIPT


def test_the_documented_request_is_what_is_sent() -> None:
    signature = wire.Signature(keyid="k", sig="c2ln")
    assert plain(wire.SignedRequest("e30=", wire.REQUEST_TYPE, (signature,))) == {
        "payload": "e30=",
        "payloadType": "application/vnd.edgeclin.command+json",
        "signatures": [{"keyid": "k", "sig": "c2ln"}],
        "schema": 1,
    }


def test_a_reader_may_demand_less_than_the_most() -> None:
    body = plain(RECEIPT) | {"epoch": "e" * 1000}
    assert wire.decode(packed(body), wire.Receipt, most=2000).epoch == "e" * 1000
    with pytest.raises(BadMessage, match="would unpack to"):
        wire.decode(packed(body), wire.Receipt, most=1000)


def test_a_frame_states_its_size_as_a_reader_may_demand() -> None:
    data = wire.encode(RECEIPT)
    assert zstandard.frame_content_size(data) == len(
        json.dumps(plain(RECEIPT), separators=(",", ":"))
    )


# Whatever arrives


def decoded_or_bad_message(data: bytes) -> None:
    for kind in KINDS:
        try:
            assert isinstance(wire.decode(data, kind), kind)
        except BadMessage as exc:
            assert kind.__name__ in str(exc)


@quick
@given(head=st.sampled_from([b"", b"\x28\xb5\x2f\xfd", wire.encode(RECEIPT)]), data=st.binary())
def test_random_bytes_are_bad_messages_and_nothing_else(head: bytes, data: bytes) -> None:
    decoded_or_bad_message(head + data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@quick
@given(value=json_values)
def test_random_json_is_a_bad_message_and_nothing_else(value: Any) -> None:
    decoded_or_bad_message(packed(value))


@quick
@given(data=st.data(), kind=st.sampled_from(KINDS), value=json_values)
def test_a_message_with_one_strange_value_is_decoded_or_bad(
    data: st.DataObject, kind: type, value: Any
) -> None:
    body = plain(data.draw(MESSAGES[kind]))
    body[data.draw(st.sampled_from(sorted(body)))] = value
    decoded_or_bad_message(packed(body))


@quick
@given(data=st.data())
def test_a_damaged_message_is_decoded_or_bad(data: st.DataObject) -> None:
    changed = bytearray(wire.encode(RECEIPT))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    decoded_or_bad_message(bytes(changed))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b'{"epoch": "\xff", "ranges": []}',
        b"[" * 200_000,
    ],
    ids=["empty", "not UTF-8", "text not UTF-8", "deep"],
)
def test_broken_json_is_a_bad_message(body: bytes) -> None:
    for kind in KINDS:
        with pytest.raises(BadMessage):
            wire.decode(packed(body), kind)


@pytest.mark.parametrize("schema", [0, 2, 99])
def test_another_schema_is_refused_by_its_number(schema: int) -> None:
    body = plain(RECEIPT) | {"schema": schema}
    with pytest.raises(BadMessage, match=f"a Receipt of schema {schema}; this reads 1"):
        wire.decode(packed(body), wire.Receipt)


@pytest.mark.parametrize("key", ["x" * (1 << 20), "x\nERROR ALARM: forged\x1b[2K"])
def test_what_came_fills_no_log_and_forges_no_line_of_it(key: str) -> None:
    body = json.dumps({"epoch": "e", "ranges": [], key: 1}).encode()
    with pytest.raises(BadMessage, match="Object contains unknown field `x") as caught:
        wire.decode(zstandard.ZstdCompressor().compress(body), wire.Receipt)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


def test_an_unknown_key_a_wrong_type_and_another_kind_are_refused() -> None:
    for change in ({"surprise": 1}, {"ranges": "1-64"}, {"epoch": None}, {"schema": "1"}):
        with pytest.raises(BadMessage, match="not a Receipt"):
            wire.decode(packed(plain(RECEIPT) | change), wire.Receipt)
    with pytest.raises(BadMessage, match="not a Opinion"):
        wire.decode(wire.encode(RECEIPT), wire.Opinion)


@pytest.mark.parametrize("tail", [b"\0", b"junk", wire.encode(RECEIPT)])
def test_bytes_behind_the_message_are_refused(tail: bytes) -> None:
    with pytest.raises(BadMessage):
        wire.decode(wire.encode(RECEIPT) + tail, wire.Receipt)


# Bombs


def refused_with_little_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BadMessage):
            wire.decode(data, wire.Receipt)
        assert tracemalloc.get_traced_memory()[1] < 2 * wire.MAX_DECODED
    finally:
        tracemalloc.stop()


def test_a_message_that_would_unpack_to_too_much_is_refused_unpacked() -> None:
    bomb = packed(b" " * (wire.MAX_DECODED + 1))
    assert len(bomb) < 10_000
    tracemalloc.start()
    with pytest.raises(BadMessage, match=f"would unpack to {wire.MAX_DECODED + 1} bytes"):
        wire.decode(bomb, wire.Receipt)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_the_largest_message_that_is_allowed_is_read() -> None:
    body = json.dumps(plain(RECEIPT)).encode()
    assert wire.decode(packed(body.ljust(wire.MAX_DECODED)), wire.Receipt) == RECEIPT


def test_a_bomb_that_does_not_state_its_size_is_refused() -> None:
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(b" " * (64 << 20))
    assert zstandard.frame_content_size(silent) == -1
    refused_with_little_memory(silent)


def test_a_bomb_that_understates_its_size_is_refused() -> None:
    """Single-segment frame: descriptor at 4, then the content size, here 4 bytes."""
    bomb = bytearray(packed(b" " * (64 << 20)))
    size = (64 << 20).to_bytes(4, "little")
    at = bytes(bomb).index(size)
    bomb[at : at + 4] = (100).to_bytes(4, "little")
    assert zstandard.frame_content_size(bytes(bomb)) == 100
    refused_with_little_memory(bytes(bomb))


def test_a_second_frame_behind_a_small_one_is_not_unpacked() -> None:
    refused_with_little_memory(wire.encode(RECEIPT) + packed(b" " * (64 << 20)))


def test_threads_may_encode_and_decode_at_once() -> None:
    """A transport's thread and the caller's do; sharing one zstd context would crash Python."""
    wrong: list[BaseException] = []
    messages = [wire.Receipt(epoch="e" * n, ranges=((n, n),) * (40 * n)) for n in range(1, 30)]

    def work() -> None:
        try:
            for message in messages * 12:
                assert wire.decode(wire.encode(message), wire.Receipt) == message
        except BaseException as exc:
            wrong.append(exc)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Arrays

CARRIED = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
CARRIED += ["float16", "float32", "float64"]


@quick
@given(
    value=st.sampled_from(CARRIED).flatmap(
        lambda name: hnp.arrays(
            np.dtype(name), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
        )
    )
)
def test_an_array_is_the_same_after_its_journey(value: np.ndarray) -> None:
    ask = wire.Ask(result="r", model="m", input=wire.to_array(value))
    got = wire.from_array(wire.decode(wire.encode(ask), wire.Ask).input)
    assert got.dtype == value.dtype
    assert got.shape == value.shape
    assert got.tobytes() == value.tobytes()


@pytest.mark.parametrize("name", CARRIED)
def test_an_array_of_every_type_travels_little_endian_and_row_major(name: str) -> None:
    value = np.arange(12).reshape(3, 4).astype(name)
    wanted = base64.b64encode(value.astype(value.dtype.newbyteorder("<")).tobytes()).decode()
    foreign = value.astype(value.dtype.newbyteorder(">"))
    for same in (value, foreign, np.asfortranarray(value), value[:, ::-1][:, ::-1]):
        packed_up = wire.to_array(same)
        assert packed_up.data == wanted
        assert packed_up.shape == (3, 4)
        assert packed_up.dtype[0] in "<|"
        np.testing.assert_array_equal(wire.from_array(packed_up), value)


def test_nan_and_infinity_travel_as_they_are() -> None:
    value = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
    assert wire.from_array(wire.to_array(value)).tobytes() == value.tobytes()


@pytest.mark.parametrize(
    "value",
    [
        np.array(["text"]),
        np.array([1j]),
        np.array([None]),
        np.array([b"bytes"]),
        np.zeros(2, [("a", "<i4")]),
        np.array(["2026-01-01"], "datetime64[s]"),
    ],
    ids=lambda value: value.dtype.kind,
)
def test_what_is_no_array_of_numbers_does_not_travel(value: np.ndarray) -> None:
    with pytest.raises(BadMessage, match="cannot travel"):
        wire.to_array(value)


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ((4,), "AAAA"),
        ((2,), "AAAA"),
        ((3,), "AAA"),
        ((3,), "A A A A"),
        ((3,), "ÄÄÄÄ"),
        ((3,), "****"),
        ((-1,), "AAAA"),
        ((-1, -3), "AAAA"),
        ((-3,), "AAAA"),
        ((0,), "AAAA"),
        ((2**70,), "AAAA"),
        ((2**62, 4), ""),
        ((1,) * 100, "AA=="),
        ((), ""),
    ],
)
def test_an_array_whose_data_do_not_fit_is_a_bad_message(shape: tuple[int, ...], data: str) -> None:
    with pytest.raises(BadMessage, match="array of shape"):
        wire.from_array(wire.Array(dtype="|u1", shape=shape, data=data))


@quick
@given(
    dtype=st.sampled_from(["|b1", "|u1", "<i2", "<f4", "<f8", "<u8"]),
    shape=st.lists(st.integers(-2, 2**65) | st.integers(0, 4), max_size=5).map(tuple),
    data=st.text(max_size=12) | st.binary(max_size=40).map(lambda b: base64.b64encode(b).decode()),
)
def test_any_array_is_unpacked_as_stated_or_a_bad_message(
    dtype: Any, shape: tuple[int, ...], data: str
) -> None:
    try:
        value = wire.from_array(wire.Array(dtype=dtype, shape=shape, data=data))
    except BadMessage:
        return
    assert value.shape == shape
    assert value.dtype.str == dtype


def test_a_type_that_is_not_documented_is_refused() -> None:
    body = {"dtype": "|O8", "shape": [1], "data": ""}
    ask = packed({"result": "r", "model": "m", "input": body, "schema": 1})
    with pytest.raises(BadMessage, match="dtype"):
        wire.decode(ask, wire.Ask)


# Ranges and topics


@given(seqs=st.lists(st.integers(0, 60)))
def test_ranges_hold_the_very_numbers_and_are_as_few_as_can_be(seqs: list[int]) -> None:
    found = wire.ranges(seqs)
    assert [n for first, last in found for n in range(first, last + 1)] == sorted(set(seqs))
    for (_, last), (first, _) in pairwise(found):
        assert first > last + 1


def test_ranges_as_documented() -> None:
    assert wire.ranges([7, 3, 1, 2]) == ((1, 3), (7, 7))
    assert wire.ranges([]) == ()


def test_topics_are_those_of_the_documentation() -> None:
    topics = wire.Topics("ward-3", "bed.7")
    base = "ec/v1/ward-3/bed.7"
    assert [topics.up(tier) for tier in Tier] == [
        f"{base}/up/urgent",
        f"{base}/up/routine",
        f"{base}/up/bulk",
    ]
    assert topics.ask == f"{base}/ask/opinion"
    assert (topics.part, topics.whole) == (f"{base}/ask/part", f"{base}/ask/whole")
    assert topics.kept == f"{base}/dn/kept"
    assert (topics.receipt, topics.opinion) == (f"{base}/dn/receipt", f"{base}/dn/opinion")
    states = (topics.birth, topics.state, topics.health)
    assert states == (f"{base}/st/birth", f"{base}/st/state", f"{base}/st/health")
    for topic in (*[topics.up(tier) for tier in Tier], topics.ask, topics.receipt, *states):
        assert wire.parse_topic(topic) == (topics, topic.removeprefix(f"{base}/"))


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "ec/v1",
        "ec/v1/site/device",
        "ec/v1/site/device/up",
        "ec/v1/site/device/up/urgent/more",
        "ec/v2/site/device/up/urgent",
        "xx/v1/site/device/up/urgent",
        "/ec/v1/site/device/up/urgent",
        "ec/v1//device/up/urgent",
        "ec/v1/site//up/urgent",
        "ec/v1/../device/up/urgent",
        "ec/v1/site/a b/up/urgent",
        "ec/v1/site/+/up/urgent",
    ],
)
def test_a_topic_that_no_device_can_have_is_a_bad_message(topic: str) -> None:
    with pytest.raises(BadMessage, match="topic"):
        wire.parse_topic(topic)


@given(topic=st.text())
def test_any_text_as_a_topic_is_parsed_or_bad(topic: str) -> None:
    try:
        topics, rest = wire.parse_topic(topic)
    except BadMessage:
        return
    assert topic == f"ec/v1/{topics.site}/{topics.device}/{rest}"
