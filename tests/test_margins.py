"""`gates.toml`: the limits of the gates."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from conftest import ROOT

from edgeclin.errors import BadFile
from edgeclin.gates import Margins, load_margins


def test_without_a_file_the_defaults_hold() -> None:
    assert load_margins(None) == Margins()
    assert Margins().changed() == {}


def test_what_a_file_leaves_out_keeps_its_default_and_what_it_changes_is_known(
    tmp_path: Path,
) -> None:
    path = tmp_path / "gates.toml"
    path.write_text("schema = 1\n[decisions]\nagreement = 0.99\n[loss]\nauc = 0.02\n")
    margins = load_margins(path)
    assert margins.error == Margins().error
    assert margins.changed() == {"decisions.agreement": (0.99, 0.95)}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("schema = 2", "schema 2 is unknown"),
        ("[decisions]\nagrement = 0.9", "agrement"),
        ("[loss]\naccuracy = -0.1", "loss.accuracy is -0.1"),
        ("[loss]\naccuracy = nan", "loss.accuracy is nan"),
        ("[loss]\naccuracy = 'much'", "loss.accuracy"),
        ("loss = 3", "loss"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "gates.toml"
    path.write_text(text)
    with pytest.raises(BadFile, match=problem.replace(".", r"\.")):
        load_margins(path)


def test_the_documentation_shows_every_limit_with_its_default(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "gates.md").read_text()
    path = tmp_path / "gates.toml"
    path.write_text(page.split("```toml\n")[1].split("```")[0])
    assert load_margins(path) == Margins()
    written = msgspec.toml.decode(path.read_bytes())
    assert written == msgspec.to_builtins(Margins())
    for table, limits in written.items():
        for key in limits if isinstance(limits, dict) else ():
            named = f"`{table}.{key}`" in page or (table == "loss" and "`loss.` and" in page)
            assert named, f"the table of gates does not name {table}.{key}"
