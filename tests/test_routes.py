"""The way from a model to the form that an engine is made from."""

from __future__ import annotations

import pytest

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
