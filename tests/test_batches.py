"""A batch comes out of its columns as it went in, and bad columns are refused by a sentence."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeclin import batches, columns
from edgeclin.batches import Batch, Item
from edgeclin.config import SyncConfig
from edgeclin.errors import BadMessage
from edgeclin.offline_queue.ids import Ids
from edgeclin.records import Latency, Result

quick = settings(deadline=None)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(-1000, 1000, places=3).map(float)
    | texts
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)
keys = texts | st.sampled_from(["a", "a/b", "a#0", "", "b"])
rows = st.dictionaries(keys, values, max_size=4)
numbers = st.integers(0, 2**63 - 1)
identities = texts | st.uuids(version=4).map(str)


def raw(body: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(body))


def plain(batch: Batch) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        zstandard.ZstdDecompressor().decompress(batches.encode(batch))
    )
    return found


def packed(body: Any) -> bytes:
    """JSON under zstd, made without the code under test."""
    return zstandard.ZstdCompressor().compress(json.dumps(body).encode())


def results(make_result: Any, count: int) -> list[Item]:
    ids = Ids()
    return [
        Item(
            100 + at,
            ids.new(),
            "result",
            raw(
                make_result(
                    at,
                    made_at=1.79e9 + at + round(at % 7 / 1000, 3),
                    confidence=round(0.9 + at % 89 / 1000, 4),
                    probabilities=(0.99, 0.01),
                    latency_ms=Latency(round(0.1 + at % 5 / 1000, 3), 1.2, 0.05),
                )
            ),
        )
        for at in range(count)
    ]


@quick
@given(given_rows=st.lists(rows | values, max_size=6))
def test_rows_come_out_of_columns_as_they_went_in(given_rows: list[Any]) -> None:
    found: dict[int, Any] = {}
    for indices, packed_rows in columns.pack(given_rows):
        journey = msgspec.json.decode(
            msgspec.json.encode(packed_rows), type=dict[str, columns.Column]
        )
        found |= dict(zip(indices, columns.unpack(journey, len(indices)), strict=True))
    got = [found[index] for index in range(len(given_rows))]
    assert json.dumps(got) == json.dumps(given_rows)


@quick
@given(
    bodies=st.lists(st.tuples(identities, st.sampled_from(["result", "review", "drop"]), rows)),
    first=st.integers(0, 2**40),
)
def test_a_batch_is_the_same_after_its_journey(
    bodies: list[tuple[str, Any, Any]], first: int
) -> None:
    items = tuple(
        Item(first + 2 * at, identity, kind, raw(body))
        for at, (identity, kind, body) in enumerate(bodies)
    )
    got = batches.decode(batches.encode(Batch("e", items)))
    assert [(one.seq, one.id, one.kind) for one in got.items] == [
        (one.seq, one.id, one.kind) for one in items
    ]
    assert [json.loads(bytes(one.body)) for one in got.items] == [
        json.loads(bytes(one.body)) for one in items
    ]


@quick
@given(column=st.lists(st.decimals(-(10**6), 10**6, places=4).map(float), min_size=2, max_size=50))
def test_decimal_fractions_travel_as_whole_numbers(column: list[float]) -> None:
    found = columns.column(column)
    if len(set(column)) > 1 and 0.0 not in column:
        assert found.numbers is not msgspec.UNSET
    assert found.values(len(column)) == column


def test_the_documented_batch_is_what_is_sent(make_result: Any) -> None:
    items = results(make_result, 3)
    body = plain(Batch("e", tuple(items)))
    (table,) = body.pop("tables")
    assert body == {"epoch": "e", "schema": 2}
    assert (table["kind"], table["count"]) == ("result", 3)
    assert table["heads"]["seq"] == {"numbers": [100, 1, 1], "steps": True}
    assert set(table["heads"]) == {"seq", "time", "counter", "rest"}
    assert table["bodies"]["source"] == {"one": "test.npz"}
    assert table["bodies"]["position"] == {"numbers": [0, 1, 1], "steps": True}
    preprocess = table["bodies"]["latency_ms/preprocess"]
    assert preprocess == {"numbers": [100, 1, 1], "scale": 3, "steps": True}
    assert table["bodies"]["probabilities#1"] == {"one": 0.01}
    got = batches.decode(packed(body | {"tables": [table]}))
    assert [one.id for one in got.items] == [one.id for one in items]
    for sent, received in zip(items, got.items, strict=True):
        assert msgspec.json.decode(received.body, type=Result) == msgspec.json.decode(
            sent.body, type=Result
        )


def test_a_result_takes_a_fraction_of_its_json(make_result: Any) -> None:
    items = results(make_result, 256)
    sent = batches.encode(Batch("e", tuple(items)))
    assert len(sent) < 256 * 12 < sum(len(bytes(one.body)) for one in items) / 20


def test_rows_travel_in_the_order_of_their_numbers_whatever_they_are(make_result: Any) -> None:
    kinds = ["result", "review", "drop", "review", "result"]
    items = tuple(Item(at, str(at), kind, raw({"k": at})) for at, kind in enumerate(kinds))  # type: ignore[arg-type]
    assert [one.kind for one in batches.decode(batches.encode(Batch("e", items))).items] == kinds


TABLE = {
    "kind": "result",
    "count": 2,
    "heads": {"seq": {"numbers": [1, 2]}, "id": {"these": ["a", "b"]}},
    "bodies": {"k": {"one": 1}},
}
ONE_ROW = {"count": 1, "heads": {"seq": {"one": 1}, "id": {"one": "a"}}}
UUID_HEADS = {
    "seq": {"numbers": [1, 2]},
    "time": {"numbers": [5, 6]},
    "counter": {"one": 28672},
    "rest": {"one": "8000-000000000000"},
}


@pytest.mark.parametrize(
    ("change", "about"),
    [
        ({"count": 3}, "a column of 2 values for 3 rows"),
        ({"count": 10**12}, "a batch of 1000000000000 values; this reads 4000000"),
        ({"count": 0}, "not a PackedBatch"),
        ({"count": 10_001}, "a batch of 10001 rows; this reads 10000"),
        ({"kind": "secret"}, "not a PackedBatch"),
        ({"heads": {"id": {"one": "a"}}}, "without numbers"),
        ({"heads": {"seq": {"numbers": [1, 2]}}}, "without ids"),
        ({"heads": TABLE["heads"] | {"seq": {"numbers": [-1, 2]}}}, "a number of a row"),
        ({"heads": TABLE["heads"] | {"seq": {"these": [1, 2**63]}}}, "a number of a row"),
        ({"heads": TABLE["heads"] | {"seq": {"these": [1.5, 2]}}}, "a number of a row"),
        ({"heads": TABLE["heads"] | {"seq": {"these": [True, 2]}}}, "a number of a row"),
        ({"heads": TABLE["heads"] | {"id": {"one": 7}}}, "an id of a row"),
        ({"heads": TABLE["heads"] | {"id": {"these": ["a", "b" * 65]}}}, "an id of a row"),
        ({"heads": UUID_HEADS | {"time": {"one": 1 << 48}}}, "an id of a row"),
        ({"heads": UUID_HEADS | {"counter": {"one": -1}}}, "an id of a row"),
        ({"heads": UUID_HEADS | {"rest": {"one": "../../../../etc"}}}, "an id of a row"),
        ({"bodies": {"k": {}}}, "a column without values"),
        ({"bodies": {"k": {"of": ["a"], "at": [0, 1]}}}, "names another"),
        ({"bodies": {"k": {"of": ["a"], "at": [0, -1]}}}, "not a PackedBatch"),
        ({"bodies": {"k": {"numbers": [1, 2], "scale": 99}}}, "not a PackedBatch"),
        ({"bodies": {"k": {"numbers": [1, 10**400], "scale": 1}}}, "not a PackedBatch"),
        ({"bodies": {"k": {"numbers": [1, 2**63]}}}, "not a PackedBatch"),
        ({"bodies": {"k": {"one": 1}, "k/a": {"one": 1}}}, "k is several things"),
        ({"bodies": {"k/a": {"one": 1}, "k#0": {"one": 1}}}, "k is several things"),
        ({"surprise": 1}, "not a PackedBatch"),
    ],
)
def test_columns_that_do_not_fit_are_a_bad_message(change: dict[str, Any], about: str) -> None:
    good = {"epoch": "e", "tables": [TABLE], "schema": 2}
    assert len(batches.decode(packed(good)).items) == 2
    with pytest.raises(BadMessage, match=about):
        batches.decode(packed(good | {"tables": [TABLE | change]}))


def test_an_epoch_that_is_none_is_a_bad_message() -> None:
    with pytest.raises(BadMessage, match="not a PackedBatch"):
        batches.decode(packed({"epoch": "e" * 65, "tables": [TABLE], "schema": 2}))


def test_few_bytes_that_stand_for_many_are_a_bad_message_before_they_are_unpacked() -> None:
    wide: dict[str, Any] = TABLE | {"bodies": {"k": {"one": "x" * (20 << 20)}}}
    data = packed({"epoch": "e", "tables": [wide], "schema": 2})
    assert len(data) < 10_000
    with pytest.raises(BadMessage, match="more than 33554432 bytes of rows"):
        batches.decode(data)
    twice = packed({"epoch": "e", "tables": [TABLE | ONE_ROW] * 10_001, "schema": 2})
    with pytest.raises(BadMessage, match="a batch of 10001 rows"):
        batches.decode(twice)


def test_as_many_rows_and_bytes_as_a_device_may_be_set_to_send_are_read(make_result: Any) -> None:
    made = bytes(raw(make_result(0, reason="x" * 2800)))
    items = tuple(Item(seq, f"id-{seq}", "result", msgspec.Raw(made)) for seq in range(1, 10_001))
    assert 0.9 * (32 << 20) < len(made) * 10_000 <= 32 << 20
    SyncConfig(batch_results=10_000, batch_bytes=32 << 20)
    got = batches.decode(batches.encode(Batch("e", items))).items
    assert [(one.seq, bytes(one.body)) for one in got] == [(at, made) for at in range(1, 10_001)]


@pytest.mark.parametrize("depth", [*range(300, 1100, 7), 200_000])
def test_columns_however_deep_are_a_batch_or_a_bad_message(depth: int) -> None:
    text = json.dumps(
        {"epoch": "e", "tables": [TABLE | {"bodies": {"k": {"one": 0}}}], "schema": 2}
    )
    deep = text.replace('{"one": 0}', f'{{"one": {"[" * depth}{"]" * depth}}}')
    with suppress(BadMessage):
        batches.decode(zstandard.ZstdCompressor().compress(deep.encode()))


def test_a_batch_of_rows_is_refused_by_its_schema() -> None:
    for schema in (1, 3):
        body = {"epoch": "e", "tables": [], "schema": schema}
        with pytest.raises(BadMessage, match=f"of schema {schema}; this reads 2"):
            batches.decode(packed(body))


@settings(deadline=None, max_examples=300)
@given(
    data=st.dictionaries(st.sampled_from(["epoch", "tables", "schema"]), values)
    | st.fixed_dictionaries(
        {
            "epoch": texts,
            "schema": st.just(2),
            "tables": st.lists(
                st.fixed_dictionaries(
                    {
                        "kind": st.sampled_from(["result", "drop"]),
                        "count": st.integers(1, 4),
                        "heads": st.dictionaries(
                            st.sampled_from(["seq", "id", "time", "counter", "rest"]),
                            st.dictionaries(
                                st.sampled_from(["one", "these", "of", "at", "numbers", "scale"]),
                                values,
                                max_size=3,
                            ),
                        ),
                        "bodies": st.dictionaries(
                            keys, st.fixed_dictionaries({"one": values}), max_size=3
                        ),
                    }
                ),
                max_size=2,
            ),
        }
    )
)
def test_whatever_columns_say_it_is_a_batch_or_a_bad_message(data: Any) -> None:
    with suppress(BadMessage):
        batches.decode(packed(data))


def test_ids_rise_and_are_told_apart_though_the_clock_goes_back() -> None:
    moments = iter([5_000_000_000] * 10_000 + [1_000_000] * 10_000 + [9_000_000_000] * 10)
    ids = Ids(lambda: next(moments))
    made = [ids.new() for _ in range(20_010)]
    assert made == sorted(set(made))
    assert all(wire_id[14] == "7" and wire_id[19] in "89ab" for wire_id in made)
    assert made[-1].startswith("00000000-2328")
    others = Ids()
    assert others.new()[19:] != made[0][19:]
