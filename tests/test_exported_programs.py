"""PyTorch's exported programs: told without PyTorch, and refused when they could run code."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeclin.errors import BadFile
from edgeclin.model_files import ModelFacts, read_model
from edgeclin.model_files.plain_program import write_plain_program

LEAF = {"type": None, "context": None, "children_spec": []}
BATCH = {"as_expr": {"expr_str": "Symbol('s77', positive=True, integer=True)", "hint": None}}


def tensor(*sizes: Any) -> dict[str, Any]:
    return {
        "dtype": 7,
        "sizes": [one if isinstance(one, dict) else {"as_int": one} for one in sizes],
    }


PROGRAM: dict[str, Any] = {
    "graph_module": {
        "graph": {
            "inputs": [{"as_tensor": {"name": "p_w"}}, {"as_tensor": {"name": "x"}}],
            "outputs": [{"as_tensor": {"name": "softmax"}}],
            "nodes": [
                {
                    "target": "torch.ops.aten.softmax.int",
                    "inputs": [{"name": "self", "arg": {"as_tensor": {"name": "x"}}, "kind": 1}],
                    "outputs": [{"as_tensor": {"name": "softmax"}}],
                    "metadata": {"stack_trace": 'File "m.py", line 1'},
                    "name": "softmax",
                }
            ],
            "tensor_values": {"x": tensor(BATCH, 140, 1), "softmax": tensor(BATCH, 5)},
        },
        "signature": {
            "input_specs": [
                {"parameter": {"arg": {"name": "p_w"}, "parameter_name": "w"}},
                {"user_input": {"arg": {"as_tensor": {"name": "x"}}}},
            ]
        },
        "module_call_graph": [
            {"fqn": "", "signature": {"in_spec": json.dumps([1, LEAF]), "forward_arg_names": ["x"]}}
        ],
    },
    "torch_version": "2.13.0+cpu",
}
WEIGHTS = {"config": {"w": {"path_name": "weight_0", "use_pickle": False, "tensor_meta": {}}}}


def program_file(
    path: Path, change: Callable[[Any, Any], object] | None = None, **more: bytes
) -> Path:
    """An exported program in which `change` did something to the program and its weights."""
    program, weights = copy.deepcopy(PROGRAM), copy.deepcopy(WEIGHTS)
    if change is not None:
        change(program, weights)
    entries = {
        "archive_format": b"pt2",
        "archive_version": b"0",
        "models/model.json": json.dumps(program).encode(),
        "data/weights/model_weights_config.json": json.dumps(weights).encode(),
        "data/constants/model_constants_config.json": b'{"config": {}}',
        "data/weights/weight_0": b"",
        **more,
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(f"m/{name}", data)
    return path


def graph(program: Any) -> Any:
    return program["graph_module"]["graph"]


def test_an_exported_program_is_told_without_pytorch(tmp_path: Path) -> None:
    path = program_file(tmp_path / "m.pt2")
    assert read_model(path) == ModelFacts("torch_export", (("x", (140, 1)),), 5, "softmax")


def test_a_fixed_batch_and_another_type_are_told(tmp_path: Path) -> None:
    def batch(program: Any, _: Any) -> None:
        graph(program)["tensor_values"]["x"] = tensor(4, 140, 1)

    with pytest.raises(BadFile, match="was exported for a batch of 4; export it with a sample of"):
        read_model(program_file(tmp_path / "m.pt2", batch))

    def kind(program: Any, _: Any) -> None:
        graph(program)["tensor_values"]["x"]["dtype"] = 5

    with pytest.raises(BadFile, match="another type than float32"):
        read_model(program_file(tmp_path / "m.pt2", kind))


def node_target(text: str) -> Callable[[Any, Any], None]:
    return lambda program, _: graph(program)["nodes"][0].update(target=text)


def size_text(text: str) -> Callable[[Any, Any], None]:
    def change(program: Any, _: Any) -> None:
        sizes = graph(program)["tensor_values"]["x"]["sizes"]
        sizes[0] = {"as_expr": {"expr_str": text, "hint": None}}

    return change


def in_spec(tree: Any) -> Callable[[Any, Any], None]:
    call = {"fqn": "", "signature": {"in_spec": json.dumps([1, tree])}}
    return lambda program, _: program["graph_module"].update(module_call_graph=[call])


FACTORY = {"type": "collections.defaultdict", "context": '["os", "system"]', "children_spec": []}
HOSTILE: dict[str, Callable[[Any, Any], Any]] = {
    "function": node_target("torch.hub.load"),
    "library": node_target("torch.ops.load_library"),
    "file": node_target("torch.ops.aten.from_file.default"),
    "dunder": node_target("torch.ops.aten.add.__class__.mro"),
    "expression": size_text("__import__('os').system('id')"),
    "call": size_text("Symbol('s0').func(print)"),
    "eval": size_text("eval('1')"),
    "text": size_text("Symbol('s0; import os')"),
    "factory": in_spec(FACTORY),
    "keyword": in_spec({"type": "builtins.dict", "context": '["x=1); a("]', "children_spec": []}),
    "name": lambda program, _: graph(program)["nodes"][0].update(name="x = 1\nimport os"),
    "key": lambda program, _: graph(program)["tensor_values"].update({"a b": tensor(1)}),
    "pickle": lambda _, weights: weights["config"]["w"].update(use_pickle=True),
    "bare": lambda _, weights: weights["config"]["w"].update(tensor_meta=None),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_program_that_could_run_code_is_refused(
    tmp_path: Path, change: Callable[[Any, Any], Any]
) -> None:
    path = program_file(tmp_path / "m.pt2", change)
    with pytest.raises(BadFile, match=r"does not let PyTorch load|pickled, and reading that can"):
        read_model(path)
    with pytest.raises(BadFile):
        write_plain_program(path, tmp_path / "plain.pt2")
    assert not (tmp_path / "plain.pt2").exists()


def test_python_that_pytorch_would_execute_is_not_in_the_copy_that_it_gets(tmp_path: Path) -> None:
    def change(program: Any, _: Any) -> None:
        program["guards_code"] = ["__import__('os').system('id')"]

    path = program_file(tmp_path / "m.pt2", change)
    write_plain_program(path, tmp_path / "plain.pt2")
    with zipfile.ZipFile(tmp_path / "plain.pt2") as archive:
        copied = json.loads(archive.read("model/models/model.json"))
    assert copied["guards_code"] == []
    assert graph(copied)["nodes"][0]["metadata"] == {}
    assert graph(copied)["tensor_values"] == graph(PROGRAM)["tensor_values"]


@pytest.mark.parametrize(
    "name", ["data/aotinductor/model/a.so", "data/constants/opaque_obj_0", "../../escape"]
)
def test_files_that_no_plain_program_has_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadFile, match="which no plain program has"):
        read_model(program_file(tmp_path / "m.pt2", **{name: b"x"}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = program_file(tmp_path / "m.pt2")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/models/model.json", json.dumps(PROGRAM))
    with pytest.raises(BadFile, match="which no plain program has"):
        read_model(path)


def test_a_damaged_program_is_one_sentence(tmp_path: Path) -> None:
    path = program_file(tmp_path / "m.pt2")
    whole = path.read_bytes()
    for content in (whole[:-100], whole.replace(b'"graph_module"', b'"grabh_module"')):
        path.write_bytes(content)
        with pytest.raises(BadFile, match=r"damaged or unusual|damaged exported"):
            read_model(path)
    path = program_file(tmp_path / "m.pt2", lambda program, _: program.clear())
    with pytest.raises(BadFile, match="damaged or unusual"):
        read_model(path)
