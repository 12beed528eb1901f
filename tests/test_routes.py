"""The way from a model to the form that an engine is made from."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT

from edgeclin.convert.routes import FORM, QUANTISERS, layers_of, made_by, ranges_of, route
from edgeclin.convert.worker import converter_names
from edgeclin.errors import EngineUnavailable
from edgeclin.profiles import EngineKind

NAMES = ("b_from_a", "c_from_b", "d_from_c", "d_from_b", "int8_d_from_d")


@pytest.mark.parametrize(
    ("source", "target", "way"),
    [
        ("a", "a", ()),
        ("a", "b", ("b_from_a",)),
        ("a", "d", ("b_from_a", "d_from_b")),
        ("c", "d", ("d_from_c",)),
    ],
)
def test_the_shortest_way_is_taken(source: str, target: str, way: tuple[str, ...]) -> None:
    assert route(source, target, NAMES) == way


def test_where_no_converters_lead_is_said_with_those_there_are() -> None:
    with pytest.raises(EngineUnavailable, match="from d to a models; there are: b_from_a"):
        route("d", "a", NAMES)


SOURCES = {"keras", "saved_model", "tflite", "onnx", "torch_export", "torchscript"}
"""What `read_model` tells; docs/commands.md has a row for each."""


@pytest.mark.parametrize("source", sorted(SOURCES))
@pytest.mark.parametrize("kind", list(EngineKind))
def test_every_source_reaches_every_target(source: str, kind: EngineKind) -> None:
    way = route(source, FORM[kind], converter_names())
    assert bool(way) == (source != FORM[kind])


def test_the_table_of_ways_in_the_documents_is_the_one_that_is_taken() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    rows = re.findall(r"^\| .*?`(\w+)` \| (.*?) \| (.*?) \|$", text, flags=re.MULTILINE)
    told = {source: cells for source, *cells in rows if source in SOURCES}
    assert set(told) == SOURCES
    for source, cells in told.items():
        for cell, form in zip(cells, ("tflite", "static_onnx"), strict=True):
            assert tuple(re.findall(r"`(\w+)`", cell)) == route(source, form, converter_names())


def test_the_sources_are_those_that_model_files_tell() -> None:
    folder = ROOT / "edgeclin" / "model_files"
    text = "".join(path.read_text() for path in folder.glob("*.py"))
    assert set(re.findall(r"ModelFacts\(\s*\"(\w+)\"", text)) == SOURCES


def test_every_form_has_what_it_needs_to_become_an_engine() -> None:
    installed = converter_names()
    assert set(FORM) == set(QUANTISERS) == set(EngineKind)
    for kind, form in FORM.items():
        assert ranges_of(form) in installed
        assert layers_of(form) in installed
        for quantiser in QUANTISERS[kind].values():
            assert quantiser in installed
            assert made_by(quantiser) != form
        assert route("keras", form, installed)
