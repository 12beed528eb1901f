"""description: what a person must say of a model, checked before anything is made of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ECG
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeclin.description import Task, describe_or_guess, load_description, starter
from edgeclin.errors import BadFile
from edgeclin.model_files import ModelFacts, read_model
from edgeclin.steps import ChannelsFirst, Decode, ZScore

EDGE = (ECG / "edge.toml").read_text()
IMAGE = ModelFacts("keras", (("cells", (64, 64, 3)),), 1, "sigmoid")


def facts(**changes: Any) -> ModelFacts:
    known: dict[str, Any] = {
        "source": "keras",
        "inputs": (("beat", (140, 1)),),
        "outputs": 5,
        "activation": "none",
    }
    return ModelFacts(**(known | changes))


def written(folder: Path, text: str) -> Path:
    path = folder / "model.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["edge", "cloud"])
def test_the_example_is_described(name: str) -> None:
    description = load_description(ECG / f"{name}.toml")
    assert description.task is Task.CLASSIFICATION
    assert description.inputs[0].shape == (140, 1)
    assert description.inputs[0].preprocessing == (ZScore(),)
    assert description.output.urgent == ("R-on-T PVC",)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("schema = 1", "schema = 2", "schema 2 is unknown; this version reads 1"),
        ("schema = 1", "schema = 1\ncolour = 1", "colour"),
        ('units = "', 'unit = "', "unit"),
        ('activation = "none"', 'activation = "relu"', "relu"),
        ('task = "classification"', 'task = "guessing"', "guessing"),
        ('kind = "signal"', 'kind = "smell"', "smell"),
        ('"PVC", "supra', '"normal", "supra', "names a label twice"),
        ('urgent = ["R-on-T PVC"]', 'urgent = ["stroke"]', "output.urgent names stroke"),
        ('positive = ["R-on-T PVC"', 'positive = ["flu"', "output.positive names flu"),
        ("shape = [140, 1]", "shape = [0, 1]", "input 'beat' has a shape with a size below 1"),
        ("shape = [140, 1]", "shape = [140, 1]\nsampling_hz = 0", "sampling_hz of 0"),
        ("shape = [140, 1]", "shape = [140, 1]\nsampling_hz = nan", "sampling_hz of nan"),
        ('step = "zscore"', 'step = "blur"', "blur"),
        ('step = "zscore"', 'step = "clip"\nlow = 2\nhigh = 1', "preprocessing step 1: `clip`"),
        ("margin = 0.02", "margin = 2", "metric.margin is 2"),
        ("max_error = 0.08", "max_error = -0.1", "doubt.max_error is -0.1"),
        ("max_error = 0.08", "max_error = nan", "doubt.max_error is nan"),
        ("audit_share = 0.02", "audit_share = 1.1", "doubt.audit_share is 1.1"),
        ("audit_share", 'thresholds = "dual"\naudit_share', "take two labels, output.labels has 5"),
        ("audit_share", 'thresholds = "three"\naudit_share', "three"),
        ("audit_share", "max_error_positive = 0.1\naudit_share", "take dual thresholds"),
        ("audit_share", "max_error_negative = 2\naudit_share", "max_error_negative is 2"),
        ('licence = "Apache-2.0"\n', "", "licence"),
        ('name = "accuracy"', 'name = "luck"', "luck"),
    ],
)
def test_a_wrong_description_is_refused_with_its_path_and_the_reason(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    assert old in EDGE
    path = written(tmp_path, EDGE.replace(old, new, 1))
    with pytest.raises(BadFile, match=re.escape(problem)) as caught:
        load_description(path)
    assert str(path) in str(caught.value)


def test_labels_must_be_two(tmp_path: Path) -> None:
    text = re.sub(r"labels = \[.*\]", 'labels = ["normal"]', EDGE)
    text = re.sub(r"(positive|urgent) = \[.*\]", r"\1 = []", text)
    with pytest.raises(BadFile, match="at least two labels"):
        load_description(written(tmp_path, text))


def test_a_model_needs_an_input(tmp_path: Path) -> None:
    text = re.sub(r"\[\[inputs\]\].*?\[output\]", "[output]", EDGE, flags=re.S)
    text = text.replace("schema = 1", "schema = 1\ninputs = []")
    with pytest.raises(BadFile, match="no input is described"):
        load_description(written(tmp_path, text))


# The starter


@settings(deadline=None)
@given(
    name=st.text(max_size=40),
    entry=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    shape=st.lists(st.integers(1, 2000), max_size=4).map(tuple),
    outputs=st.none() | st.integers(1, 40),
    activation=st.sampled_from(["none", "softmax", "sigmoid", None]),
)
def test_a_starter_can_be_read_before_anybody_filled_it_in(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    entry: str,
    shape: tuple[int, ...],
    outputs: int | None,
    activation: Any,
) -> None:
    told = facts(inputs=((entry, shape),), outputs=outputs, activation=activation)
    path = written(tmp_path_factory.getbasetemp(), starter(name, told))
    description = load_description(path)
    assert description.inputs[0].name == entry
    assert description.inputs[0].shape == shape
    assert len(description.output.labels) == max(2, outputs or 2)
    assert description.output.activation == (activation or "none")
    assert re.fullmatch(r"[A-Za-z0-9._-]+", description.name)
    assert "FILL IN" in description.intended_use


def test_a_starter_asks_for_everything_the_file_does_not_tell() -> None:
    text = starter("beats", facts(outputs=None, activation=None))
    for line in ("intended_use", "units", "activation", "labels", "licence", "source"):
        (found,) = [entry for entry in text.splitlines() if entry.startswith(f"{line} =")]
        assert "FILL IN" in found
    assert "an unknown number of outputs" in text


def test_a_starter_says_what_was_read_from_the_file() -> None:
    text = starter("beats", facts(activation="softmax"))
    assert 'activation = "softmax"      # read from the file' in text
    assert "the model has 5 outputs" in text


def test_a_starter_for_images_begins_with_decoding(tmp_path: Path) -> None:
    description = load_description(written(tmp_path, starter("cells", IMAGE)))
    assert description.inputs[0].kind == "image"
    assert description.inputs[0].preprocessing == (Decode(colour="rgb"),)
    assert len(description.output.labels) == 2


def test_a_starter_for_channels_first_moves_them_there(tmp_path: Path) -> None:
    told = facts(inputs=(("picture", (3, 64, 48)),))
    description = load_description(written(tmp_path, starter("cells", told)))
    assert description.inputs[0].preprocessing == (Decode(colour="rgb"), ChannelsFirst())


def test_every_line_a_starter_offers_as_a_comment_is_right_when_uncommented(
    tmp_path: Path,
) -> None:
    for told in (facts(), IMAGE):
        text = starter("model", told)
        offered = re.sub(r"^# (?=\[\[|\w+ = )", "", text, flags=re.M)
        assert offered.count("[[inputs.preprocessing]]") > text.count("\n[[inputs.preprocessing]]")
        description = load_description(written(tmp_path, offered))
        assert len(description.inputs[0].preprocessing) >= 2


def test_a_dynamic_shape_wants_a_person(tmp_path: Path) -> None:
    text = starter("beats", facts(inputs=(("beat", (None, 1)),)))
    with pytest.raises(BadFile, match="size below 1"):
        load_description(written(tmp_path, text))


def test_a_starter_for_a_real_model_describes_that_model(tmp_path: Path) -> None:
    told = read_model(ECG / "edge.keras")
    description = load_description(written(tmp_path, starter("edge", told)))
    by_hand = load_description(ECG / "edge.toml")
    assert description.inputs[0].shape == by_hand.inputs[0].shape
    assert description.output.activation == by_hand.output.activation
    assert len(description.output.labels) == len(by_hand.output.labels)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((64, 64, 3), "image"),
        ((3, 64, 48), "image"),
        ((28, 28, 1), "image"),
        ((None, None, 3), "image"),
        ((1, 1250, 1), "signal"),
        ((1250, 12, 1), "signal"),
        ((1, 5000, 12), "signal"),
        ((140, 1), "signal"),
    ],
)
def test_what_is_long_and_thin_is_guessed_to_be_a_signal(
    shape: tuple[int | None, ...], kind: str
) -> None:
    text = starter("model", facts(inputs=(("x", shape),)))
    assert f'kind = "{kind}"                  # FILL IN: a guess' in text
    assert ('step = "decode"                  # FILL IN: a guess' in text) is (kind == "image")


@pytest.mark.parametrize("axis", ["first", "last"])
def test_an_output_that_is_a_map_is_guessed_to_be_a_segmentation(tmp_path: Path, axis: str) -> None:
    told = facts(inputs=(("x", (48, 48, 1)),), outputs=2, activation="softmax", map=axis)
    text = starter("model", told)
    assert 'task = "segmentation"          # FILL IN: a guess; its output is a map' in text
    described = load_description(written(tmp_path, text))
    assert (described.task, described.metric.name) == (Task.SEGMENTATION, "dice")
    assert described.output.axis == axis
    assert len(described.output.labels) == 2
    with pytest.raises(BadFile, match="answers with a map, not with a label; describe it"):
        describe_or_guess(None, "model", told)


def test_what_nobody_filled_in_is_refused_by_its_keys(tmp_path: Path) -> None:
    text = starter("model", facts()).replace('"class 3"', '"FILL IN: which?"')
    path = written(tmp_path, text)
    with pytest.raises(BadFile) as refused:
        describe_or_guess(path, "model", facts())
    assert str(refused.value) == (
        f"{path}: still says FILL IN in intended_use, output.labels[3], provenance.licence, "
        "provenance.source; a person must say it"
    )
    filled = re.sub(r'= "FILL IN[^"]*"', '= "said"', starter("model", facts()))
    assert "FILL IN" in filled, "in comments, which are nobody's description"
    assert describe_or_guess(written(tmp_path, filled), "model", facts()).intended_use == "said"


# Without a description


def test_a_description_that_is_there_is_taken() -> None:
    description = describe_or_guess(ECG / "edge.toml", "other", facts())
    assert description == load_description(ECG / "edge.toml")


def test_without_one_arrays_are_taken_as_they_come_and_classes_are_numbered() -> None:
    description = describe_or_guess(None, "my model (1)", facts(activation="softmax"))
    assert description.name == "my-model-1-"
    assert description.output.labels == ("0", "1", "2", "3", "4")
    assert description.output.activation == "softmax"
    assert description.inputs[0].kind == "array"
    assert description.inputs[0].preprocessing == ()
    assert description.inputs[0].shape == (140, 1)
    assert description.intended_use == "not described"
    assert description.output.urgent == ()


def test_one_sigmoid_is_two_classes() -> None:
    assert describe_or_guess(None, "cells", IMAGE).output.labels == ("0", "1")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"outputs": None}, "does not tell what it answers"),
        ({"activation": None}, "does not tell what it answers"),
        ({"inputs": (("beat", (None, 1)),)}, "dynamic input shape"),
    ],
)
def test_a_file_that_tells_too_little_is_not_guessed_about(
    changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BadFile, match=f"{problem}; describe it: `edgeclin describe`"):
        describe_or_guess(None, "model", facts(**changes))


@pytest.mark.parametrize(
    ("activation", "outputs", "doubt"),
    [
        ("sigmoid", 3, "multi-label"),
        ("none", 1, "regression"),
        ("softmax", 3, ""),
        ("sigmoid", 1, ""),
    ],
)
def test_a_starter_asks_where_outputs_may_stand_for_something_else(
    activation: str, outputs: int, doubt: str
) -> None:
    text = starter("model", facts(activation=activation, outputs=outputs))
    (line,) = [line for line in text.splitlines() if line.startswith("task = ")]
    assert doubt in line if doubt else line.endswith("# FILL IN: a guess")
