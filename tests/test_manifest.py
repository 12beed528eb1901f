"""manifest: canonical, complete, and never in contradiction with itself."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeclin.errors import EdgeclinError
from edgeclin.manifest import (
    MEASURES,
    FileEntry,
    GuardLimits,
    Limit,
    Manifest,
    ScoreLimit,
    check_file_name,
    parse_manifest,
)

ENTRY = FileEntry(sha256="0" * 64, size=1)


@pytest.fixture(scope="module")
def manifest(manifest_and_files: tuple[Manifest, dict[str, bytes]]) -> Manifest:
    manifest, files = manifest_and_files
    return msgspec.structs.replace(manifest, files=dict.fromkeys(files, ENTRY))


def changed(manifest: Manifest, *path: str | int, to: Any) -> bytes:
    """The manifest's JSON with the value at `path` replaced."""
    plain = json.loads(manifest.to_json())
    place = plain
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return json.dumps(plain).encode()


def test_a_manifest_is_the_same_after_its_journey(manifest: Manifest) -> None:
    assert parse_manifest(manifest.to_json()) == manifest


def test_its_bytes_are_canonical(manifest: Manifest) -> None:
    """RFC 8785: keys sorted, no spaces, numbers as ECMAScript writes them."""
    text = manifest.to_json()
    assert json.loads(text) == json.loads(msgspec.json.encode(manifest))
    assert rfc8785.dumps(json.loads(text)) == text
    assert b'"temperature":1,' in text  # 1.0 in Python
    assert b'"threshold":0.9,' in text


def test_equal_manifests_are_equal_bytes_whatever_the_order(manifest: Manifest) -> None:
    turned = dict(reversed(manifest.files.items()))
    assert list(turned) != list(manifest.files)
    assert msgspec.structs.replace(manifest, files=turned).to_json() == manifest.to_json()


def test_every_part_is_required_and_an_unknown_one_is_an_error(manifest: Manifest) -> None:
    for key in set(Manifest.__struct_fields__) - {"guard"}:
        plain = json.loads(manifest.to_json())
        del plain[key]
        with pytest.raises(EdgeclinError, match=key):
            parse_manifest(json.dumps(plain).encode())
    with pytest.raises(EdgeclinError, match="surprise"):
        parse_manifest(changed(manifest, "surprise", to=1))
    with pytest.raises(EdgeclinError, match="surprise"):
        parse_manifest(changed(manifest, "engines", 0, "surprise", to=1))


@pytest.mark.parametrize("schema", [0, 2, 99, "1", None, True, [1], 1.5])
def test_an_unknown_schema_is_refused_before_anything_else(manifest: Manifest, schema: Any) -> None:
    with pytest.raises(EdgeclinError, match="schema"):
        parse_manifest(changed(manifest, "schema", to=schema))
    only = json.dumps({"schema": 2, "whatever": "a later version holds"}).encode()
    with pytest.raises(EdgeclinError, match="schema 2 is unknown; this version reads 1"):
        parse_manifest(only)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("golden", "file"), "other.npz", "other.npz, which its list of files does not"),
        (("engines", 0, "file"), "b.tflite", "b.tflite, which its list of files does not"),
        (("engines",), [], "exactly one primary"),
        (("engines", 0, "role"), "cpu-twin", "exactly one primary"),
        (("engines", 0, "role"), "spare", "spare"),
        (("inputs",), [], "no input is described"),
        (("inputs", 0, "shape"), [0], "size below 1"),
        (("inputs", 0, "preprocessing"), [{"step": "blur"}], "blur"),
        (("inputs", 0, "preprocessing"), [{"step": "clip", "low": 1, "high": 0}], "clip"),
        (("inputs", 0, "preprocessing"), [{"step": "zscore"}, {"step": "decode"}], "first step"),
        (("output", "labels"), ["one"], "at least two labels"),
        (("output", "labels"), ["a", "a"], "names a label twice"),
        (("output", "urgent"), ["stroke"], "output.urgent names stroke"),
        (("confidence", "temperature"), 0, "temperature must be above zero"),
        (("confidence", "temperature"), -1, "temperature must be above zero"),
        (("files", "engine.json", "size"), "1", "size"),
        (("profile", "engine"), "abacus", "abacus"),
    ],
)
def test_a_contradiction_is_refused_and_named(
    manifest: Manifest, path: tuple[str | int, ...], value: Any, problem: str
) -> None:
    with pytest.raises(EdgeclinError, match=problem):
        parse_manifest(changed(manifest, *path, to=value))


def by_label(*entries: tuple[str, float, float, int]) -> list[dict[str, Any]]:
    return [
        {"label": label, "threshold": threshold, "max_error": allowed, "answers": answers,
         "coverage": 0.5, "error": 0.0, "error_bound": allowed}
        for label, threshold, allowed, answers in entries
    ]  # fmt: skip


def test_a_manifest_from_before_there_were_other_thresholds_or_guards_is_read(
    manifest: Manifest,
) -> None:
    plain = json.loads(manifest.to_json())
    for key in ("thresholds", "by_label"):
        del plain["confidence"][key]
    del plain["guard"]
    read = parse_manifest(json.dumps(plain).encode())
    assert read == manifest
    assert [read.confidence.threshold_of(label) for label in (0, 4)] == [0.9, 0.9]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"thresholds": "one"}, "says that there is one for all"),
        ({"by_label": by_label(("b", 0.9, 0.05, 70), ("a", 0.7, 0.02, 30))}, "in their order"),
        ({"by_label": []}, "in their order"),
        ({"threshold": 0.7}, "not the highest"),
        ({"max_error": 0.02}, "not the highest"),
        ({"samples": 99}, "not as many as its samples"),
        ({"thresholds": "three"}, "three"),
    ],
)
def test_thresholds_of_labels_agree_with_the_labels_and_with_each_other(
    manifest: Manifest, changes: dict[str, Any], problem: str | None
) -> None:
    plain = json.loads(manifest.to_json())
    plain["output"] |= {"labels": ["a", "b"], "positive": ["b"], "urgent": []}
    plain["confidence"] |= {
        "thresholds": "dual", "threshold": 0.9, "max_error": 0.05, "samples": 100,
        "by_label": by_label(("a", 0.7, 0.02, 70), ("b", 0.9, 0.05, 30)),
    }  # fmt: skip
    plain["confidence"] |= changes
    data = json.dumps(plain).encode()
    if problem is None:
        confidence = parse_manifest(data).confidence
        assert [confidence.threshold_of(label) for label in (0, 1)] == [0.7, 0.9]
        said = confidence.said(parse_manifest(data).output)
        assert said == "b from 0.900, a up to 0.300 of its score, in doubt between"
        return
    with pytest.raises(EdgeclinError, match=problem):
        parse_manifest(data)


def test_dual_thresholds_take_two_labels(manifest: Manifest) -> None:
    plain = json.loads(manifest.to_json())
    labels = [(label, 0.9, 0.05, 20) for label in plain["output"]["labels"]]
    plain["confidence"] |= {"thresholds": "dual", "by_label": by_label(*labels)}
    with pytest.raises(EdgeclinError, match="dual thresholds for 5 labels"):
        parse_manifest(json.dumps(plain).encode())
    plain["confidence"]["thresholds"] = "per-class"
    assert parse_manifest(json.dumps(plain).encode()).confidence.threshold_of(4) == 0.9


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("share",), 0.02, None),
        (("limits", 0, "measure"), "blur", "does not limit lowest, highest, spread"),
        (("limits",), [], "does not limit"),
        (("limits", 2, "low"), 2.0, "spread is from 2.0 to 1.0"),
        (("scores", "means"), [[0.0] * 5] * 4, "not of 5 labels"),
        (("scores", "means", 1), [0.0] * 4, "not of 5 labels"),
        (("scores", "means", 1), [], None),
        (("scores", "whitening"), [], "no whitening"),
        (("scores", "whitening", 0), [1.0], "not of 5 labels"),
        (("scores",), None, None),
        (("sharpness",), 1.0, "sharpness"),
    ],
)
def test_the_limits_of_a_guard_fit_the_input_and_the_labels(
    manifest: Manifest, path: tuple[str | int, ...], value: Any, problem: str | None
) -> None:
    limits = tuple(Limit(measure, 0.0, 1.0, 0.01) for measure in MEASURES["signal"])
    scores = ScoreLimit(((0.0,) * 5,) * 5, ((1.0,) * 5,), 9.0, 100, 0.01)
    guard = GuardLimits(500, 0, limits, 0.01, scores)
    guarded = msgspec.structs.replace(manifest, guard=guard)
    assert parse_manifest(guarded.to_json()) == guarded
    data = changed(guarded, "guard", *path, to=value)
    if problem is None:
        parse_manifest(data)
        return
    with pytest.raises(EdgeclinError, match=problem):
        parse_manifest(data)


def test_two_primaries_are_one_too_many_and_a_twin_is_none(manifest: Manifest) -> None:
    (primary,) = manifest.engines
    twin = msgspec.structs.replace(primary, role="cpu-twin")
    both = msgspec.structs.replace(manifest, engines=(twin, primary))
    assert parse_manifest(both.to_json()).primary == primary
    two = msgspec.structs.replace(manifest, engines=(primary, primary))
    with pytest.raises(EdgeclinError, match="exactly one primary"):
        parse_manifest(two.to_json())


LEAVING = ["../x", "a/../../x", "a/..", "..", "/x", "//x", "C:x", "a\\x", "..\\x", "a\0b"]
UNPLAIN = ["", ".", "./x", "a//x", "a/./x", "x/"]


@pytest.mark.parametrize("name", [*LEAVING, *UNPLAIN])
def test_a_name_that_could_mean_another_place_is_refused(manifest: Manifest, name: str) -> None:
    reason = "leaves the bundle" if name in LEAVING else "not written plainly"
    with pytest.raises(EdgeclinError, match=reason):
        check_file_name(name)
    files = json.loads(manifest.to_json())["files"] | {name: {"sha256": "0" * 64, "size": 0}}
    with pytest.raises(EdgeclinError, match=reason):
        parse_manifest(changed(manifest, "files", to=files))


@pytest.mark.parametrize("name", ["x", "engine.tflite", "a/b/c.json", "..x", "x..", "…", "a b"])
def test_a_plain_name_is_taken(name: str) -> None:
    check_file_name(name)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'"\xff"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schema":1e400}',
        b'{"a":NaN}',
    ],
)
def test_what_is_no_manifest_is_one_sentence(data: bytes) -> None:
    with pytest.raises(EdgeclinError) as caught:
        parse_manifest(data)
    assert str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    return [path, *(place for key in keys for place in places(value[key], (*path, key)))]


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_strange_manifest_is_refused_or_consistent_and_nothing_else(
    manifest: Manifest, data: st.DataObject
) -> None:
    place = data.draw(st.sampled_from(places(json.loads(manifest.to_json()))[1:]))
    body = changed(manifest, *place, to=data.draw(json_values))
    try:
        parsed = parse_manifest(body)
    except EdgeclinError:
        return
    assert parsed.primary.file in parsed.files
    assert parsed.golden.file in parsed.files
    assert parsed.confidence.temperature > 0


@given(data=st.binary())
def test_random_bytes_are_no_manifest(data: bytes) -> None:
    with pytest.raises(EdgeclinError):
        parse_manifest(data)
