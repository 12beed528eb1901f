"""What the documents say is true: commands exist and are described, examples run, links lead."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import numpy as np
import pytest
from conftest import ROOT

from edgeclin.cli import main
from edgeclin.config import load_config
from edgeclin.steps import Step

DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("examples/*/*.md"))
    if ".venv" not in str(path)
)


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


@pytest.mark.parametrize(("path", "command"), list(commands(main, "edgeclin")))
def test_every_command_and_option_is_documented(path: str, command: click.Command) -> None:
    sections = re.split(r"^### ", (ROOT / "docs" / "commands.md").read_text(), flags=re.MULTILINE)
    section = next((text for text in sections if text.startswith(f"{path}\n")), "")
    assert section, f"docs/commands.md has no section {path!r}"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            for option in parameter.opts:
                assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", section), option
    assert command.help


def test_every_documented_command_exists() -> None:
    known = {path for path, _ in commands(main, "edgeclin")}
    text = (ROOT / "docs" / "commands.md").read_text()
    described = set(re.findall(r"^### (edgeclin .*)$", text, flags=re.MULTILINE))
    assert described == known


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_documented_configuration_is_a_valid_one(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "device.toml").write_text(example)
    assert load_config(tmp_path / "device.toml").device == "bed-12"
    sample = ROOT / "firmware_scripts" / "device.sample.toml"
    assert load_config(sample).device == "bed-12"


def test_every_preprocessing_step_is_documented_with_its_parameters() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", (ROOT / "docs" / "model.md").read_text(), re.M)
    described = {name: set(re.findall(r"`(\w+)`", parameters)) for name, parameters in rows}
    for step in get_args(Step):
        name = step.__struct_config__.tag
        assert set(step.__struct_fields__) <= described[name]


def test_the_targets_that_documents_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:^ {4}|`)make ([a-z-]+)", document.read_text(), re.MULTILINE))
        assert named <= targets


@pytest.mark.convert
def test_the_readme_s_commands_run_word_by_word(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="the convert extra is not installed")
    text = (ROOT / "README.md").read_text()
    script = "".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL))
    (program,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "build").mkdir()
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f'PATH="{Path(sys.executable).parent}:$PATH"\n')
    environment = {**os.environ, "EDGECLIN_KEYS": str(tmp_path / "keys")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "self-test passed" in done.stdout
    assert "last sequence number  4500" in done.stdout
    with np.load(ROOT / "examples" / "ecg" / "data" / "test.npz") as arrays:
        np.save(tmp_path / "beat.npy", arrays["X"][7])
    done = subprocess.run(
        [sys.executable, "-c", f"import numpy\nbeat = numpy.load('beat.npy')\n{program}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("normal 0.9")
