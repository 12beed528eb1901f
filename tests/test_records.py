"""records: nothing unknown is taken for noise, and nothing known is lost on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeclin.errors import BadFile
from edgeclin.records import (
    Drop,
    Latency,
    Record,
    Result,
    Review,
    State,
    Tier,
    load_json,
    load_toml,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))
results = st.builds(
    Result,
    bundle=texts,
    source=texts,
    position=st.integers(0, 2**53),
    made_at=finite,
    reason=texts,
    label=st.none() | texts,
    confidence=finite,
    probabilities=st.lists(finite).map(tuple),
    latency_ms=st.none() | st.builds(Latency, preprocess=finite, engine=finite, postprocess=finite),
)
reviews = st.builds(Review, result=texts, label=st.none() | texts, reason=texts, made_at=finite)
drops = st.builds(Drop, made_at=finite, first_seq=st.integers(0, 2**53), last_seq=st.just(1))
DROP = Drop(tier=Tier.BULK, first_seq=1, last_seq=9, count=9, made_at=0.0)


class Little(Record, frozen=True):
    number: int
    words: tuple[str, ...] = ()


@given(record=st.one_of(results, reviews, drops))
def test_a_record_is_the_same_after_its_journey(record: Record) -> None:
    assert load_json(msgspec.json.encode(record), type(record), "wire") == record


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        DROP.count = 10  # type: ignore[misc]
    with pytest.raises(AttributeError):
        DROP.remark = "added"  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [Result, Review, Drop, Latency])
def test_an_unknown_key_is_an_error_in_every_record(kind: type[Record]) -> None:
    with pytest.raises(BadFile, match="surprise"):
        load_json(b'{"surprise": 1}', kind, "row")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"tier": "important"}, "important"),
        ({"count": "9"}, "count"),
        ({"count": 9.5}, "count"),
        ({"count": None}, "count"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, Any], problem: str) -> None:
    body = msgspec.json.encode(msgspec.to_builtins(DROP) | change)
    with pytest.raises(BadFile, match=problem):
        load_json(body, Drop, "row 7")


def test_a_missing_key_is_named_with_where_it_is_missing() -> None:
    with pytest.raises(BadFile, match=r"row 7: .*`first_seq`"):
        load_json(b'{"tier": "bulk"}', Drop, "row 7")


def test_latency_adds_up() -> None:
    assert Latency(preprocess=1.5, engine=2.0, postprocess=0.25).total == 3.75


def test_states_and_tiers_keep_the_words_that_are_on_the_wire() -> None:
    assert {state.value for state in State} == {
        "final",
        "provisional",
        "unreviewed",
        "confirmed",
        "amended",
    }
    assert [tier.value for tier in Tier] == ["urgent", "routine", "bulk"]


def test_toml_is_read_as_the_record_it_describes(tmp_path: Path) -> None:
    file = tmp_path / "little.toml"
    file.write_text('number = 3\nwords = ["a", "ü"]\n', encoding="utf-8")
    assert load_toml(file, Little) == Little(number=3, words=("a", "ü"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"number = 1\ncolour = 2\n", "colour"),
        (b'number = "1"\n', "number is text in quotes"),
        (b"words = []\n", "number"),
        (b"number = \n", "line 1"),
        (b"number = 1\n# \xff\n", "not text in UTF-8"),
        (b"number = " + b"[" * 100_000, "recursion|nested"),
        (b"", "number"),
    ],
    ids=["unknown key", "type", "missing", "not TOML", "not UTF-8", "too deep", "empty"],
)
def test_a_wrong_toml_file_is_refused_with_its_name_and_the_reason(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    file = tmp_path / "little.toml"
    file.write_bytes(content)
    with pytest.raises(BadFile, match=problem) as caught:
        load_toml(file, Little)
    assert str(file) in str(caught.value)
    assert caught.value.path == file


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no such file"):
        load_toml(tmp_path / "absent.toml", Little)
    with pytest.raises(BadFile, match="a folder, expected a file"):
        load_toml(tmp_path, Little)


def test_text_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(BadFile, match=r"row: not text in UTF-8"):
        load_json(b'{"bundle": "\xff"}', Result, "row")


@given(data=st.binary() | texts.map(str.encode))
def test_json_bytes_raise_nothing_but_bad_file(data: bytes) -> None:
    with pytest.raises(BadFile, match="row"):
        load_json(data, Drop, "row")


def test_json_that_nests_too_deep_is_refused() -> None:
    with pytest.raises(BadFile, match="row"):
        load_json(b'{"tier":' + b"[" * 100_000, Drop, "row")


@settings(deadline=None)
@given(data=st.binary() | texts.map(str.encode))
def test_toml_bytes_raise_nothing_but_bad_file(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.toml"
    file.write_bytes(data)
    with pytest.raises(BadFile):
        load_toml(file, Little)
