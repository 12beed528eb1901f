"""A file that is no record says where, what was expected, and what may have been meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ECG

from edgeclin.description import load_description
from edgeclin.errors import BadFile
from edgeclin.gates.margins import load_margins
from edgeclin.records import Drop, load_json


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            'task = "classification"',
            'task = "klassification"',
            "task is 'klassification', which is unknown; did you mean `classification`? known are "
            "classification, detection, multi-label, regression, segmentation",
        ),
        (
            "labels =",
            "lables =",
            "the key `lables` in output is unknown; did you mean `labels`? known are activation, "
            "axis, labels, positive, urgent",
        ),
        (
            '"zscore"',
            '"zskore"',
            "inputs[0].preprocessing[0].step is 'zskore', which is unknown; did you mean `zscore`? "
            "known are channels_first, clip, crop",
        ),
        (
            'activation = "none"',
            'activation = "relu"',
            "output.activation is 'relu', which is unknown; known are none, sigmoid, softmax",
        ),
        (
            '"zscore"',
            '"zscore"\nepsilom = 1',
            "[0] is unknown; did you mean `epsilon`",
        ),
        ("shape = [140, 1]", "", "the key `shape` in inputs[0] is missing; add it"),
        (
            "margin = 0.02",
            'margin = "2 %"',
            "margin is text in quotes; it must be a number or n",
        ),
        ("schema = 1", "schema = 1 1", "expected newline or end of document"),
        ("[output]", "[[output]]", "output is a list; it must be a table"),
    ],
)
def test_a_description_says_what_is_wrong_where(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    text = (ECG / "edge.toml").read_text()
    path = tmp_path / "model.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BadFile) as problem:
        load_description(path)
    assert f"{path}: " in str(problem.value)
    assert words in str(problem.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[loss]\nacuracy = 0.1", "the key `acuracy` in loss is unknown; did you mean `accuracy`?"),
        ("[los]\naccuracy = 0.1", "the key `los` is unknown; did you mean `loss`?"),
        ("[loss]\naccuracy = true", "loss.accuracy is true or false; it must be a number"),
    ],
)
def test_limits_of_gates_say_what_is_wrong_where(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "gates.toml"
    path.write_text(text)
    with pytest.raises(BadFile) as problem:
        load_margins(path)
    assert f"{path}: {words}" in str(problem.value)


def test_json_that_is_no_table_says_so() -> None:
    with pytest.raises(BadFile, match="x: the file is a list; it must be a table"):
        load_json(b"[]", Drop, "x")


def test_a_file_that_is_no_text_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(BadFile) as caught:
        load_description(path)
    assert str(caught.value) == f"{path}: not text in UTF-8; is it the right file?"
