"""What may stand in an exported program that PyTorch is given to load.

`torch.export.load` trusts its file: it falls back to unpickling, evaluates the text of symbolic
sizes, resolves any name below `torch`, writes names into Python source that it executes, and loads
compiled libraries. So only what an ordinary exported network consists of is let through, and
PyTorch gets a copy of just that.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeclin.errors import BadFile
from edgeclin.model_files.facts import CONVERTIBLE

_ENTRY = re.compile(
    r"models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt"
    r"|archive_format|archive_version|byteorder|version|\.data/\w+|\.format_version"
    r"|\.storage_alignment"
)
_PROGRAM = "models/model.json"
_CONFIGURATIONS = (
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
)
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims)\.[A-Za-z_]\w*\.\w+|torch\.sym_\w+|math\.(floor|ceil|trunc)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|getitem|eq|ne|lt|le|gt|ge|and_)"
)
_FILES = {"from_file", "save"}
_DROPPED: dict[str, Any] = {"metadata": {}, "guards_code": []}
"""What PyTorch does without: notes on each operator, and tests of shapes written in Python."""
_APART = {"torch_version", "verifiers", "module_call_graph"}
"""Versions, and the tree of calls, which is checked by itself."""
_SYMBOLIC = {
    "Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "FloorDiv",
    "ModularIndexing", "CleanDiv", "CeilDiv", "PythonMod", "IntTrueDiv", "FloatTrueDiv",
    "ToFloat", "TruncToInt", "CeilToInt", "FloorToInt", "PowByNatural",
}  # fmt: skip
_ARITHMETIC = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.BinOp, ast.UnaryOp,
    ast.operator, ast.unaryop, ast.Compare, ast.cmpop,
)  # fmt: skip
_TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}


def plain_entries(path: Path) -> dict[str, bytes]:
    """The files of an exported program by their names below its folder.

    Raises:
        BadFile: damaged, or with files in it that are none of an ordinary program.
    """
    entries: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.partition("/")[2]
                if not _ENTRY.fullmatch(name) or name in entries:
                    raise BadFile(path, f"holds {info.filename!r}, which no plain program has", "")
                entries[name] = archive.read(info)
    except BadFile:
        raise
    except Exception as exc:  # whatever a damaged zip file leads to
        raise BadFile(path, "a damaged exported program", CONVERTIBLE) from exc
    return entries


def program_of(path: Path, entries: dict[str, bytes]) -> dict[str, Any]:
    """The program itself, without notes, once nothing in it can run code.

    Raises:
        BadFile: something can, or it is damaged.
    """
    try:
        program: dict[str, Any] = json.loads(entries[_PROGRAM])
        configurations = [json.loads(entries[name]) for name in _CONFIGURATIONS]
        _refuse_pickles(path, configurations)
        program = _without_notes(program)
        for tree in _trees(program):
            _check_tree(path, tree)
        _check(path, program)
        for configuration in configurations:
            _check(path, configuration)
    except BadFile:
        raise
    except Exception as exc:  # whatever strange JSON leads to
        raise BadFile(path, "a damaged or unusual exported program", CONVERTIBLE) from exc
    return program


def write_plain_program(path: Path, target: Path) -> None:
    """Write a copy of `path` that holds what was checked and nothing else.

    Two readers of zip files may see different things in one made for it.

    Raises:
        BadFile: as the functions above.
    """
    entries = plain_entries(path)
    entries[_PROGRAM] = json.dumps(program_of(path, entries)).encode()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in entries.items():
            archive.writestr(f"model/{name}", data)


def _without_notes(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _DROPPED[name] if name in _DROPPED else _without_notes(part)
            for name, part in value.items()
        }
    return [_without_notes(part) for part in value] if isinstance(value, list) else value


def _refuse_pickles(path: Path, configurations: list[dict[str, Any]]) -> None:
    for configuration in configurations:
        for name, payload in configuration["config"].items():
            if payload["use_pickle"] or payload["tensor_meta"] is None:
                raise BadFile(
                    path,
                    f"holds {name!r} pickled, and reading that can run code",
                    "export a model whose weights are plain tensors",
                )


def _trees(program: dict[str, Any]) -> Iterator[Any]:
    for call in program["graph_module"]["module_call_graph"]:
        signature = call.get("signature") or {}
        yield call["fqn"]
        yield from signature.get("forward_arg_names") or ()
        for end in ("in_spec", "out_spec"):
            if signature.get(end):
                yield json.loads(signature[end])


def _check_tree(path: Path, tree: Any) -> None:
    """How inputs and outputs are nested: tuples, lists and dictionaries with plain keys."""
    if isinstance(tree, str):
        if not _is_plain(tree):
            raise _strange(path, tree)
    elif isinstance(tree, list):
        for part in tree:
            _check_tree(path, part)
    elif isinstance(tree, dict):
        if tree["type"] not in _TREES:
            raise _strange(path, tree["type"])
        if tree["context"] is not None:
            _check_tree(path, json.loads(tree["context"]))
        _check_tree(path, tree["children_spec"])


def _check(path: Path, value: Any, key: str = "") -> None:
    """Every text in a program is a plain name, a known operator, or arithmetic."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name in _APART:
                continue
            # Ranges are listed by the expressions that they bound.
            if not _is_plain(name) and not (key == "range_constraints" and _is_arithmetic(name)):
                raise _strange(path, name)
            _check(path, part, name)
    elif isinstance(value, list):
        for part in value:
            _check(path, part, key)
    elif isinstance(value, str):
        known = (
            _is_operator(value)
            if key in ("target", "as_operator")
            else _is_arithmetic(value)
            if key == "expr_str"
            else _is_plain(value)
        )
        if not known:
            raise _strange(path, value)


def _is_plain(text: str) -> bool:
    own = any(part.startswith("__") and part.endswith("__") for part in text.split(".") if part)
    return re.fullmatch(r"[\w.:-]*", text) is not None and not own


def _is_operator(text: str) -> bool:
    return _OPERATOR.fullmatch(text) is not None and not _FILES & set(text.split("."))


def _is_arithmetic(text: str) -> bool:
    nodes = list(ast.walk(ast.parse(text, mode="eval")))
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return (
        all(isinstance(node, _ARITHMETIC) for node in nodes)
        and all(isinstance(call, ast.Name) and call.id in _SYMBOLIC for call in calls)
        and all(not isinstance(one, str) or re.fullmatch(r"[a-z]+\d+", one) for one in texts)
        and all("__" not in node.id for node in nodes if isinstance(node, ast.Name))
    )


def _strange(path: Path, what: Any) -> BadFile:
    return BadFile(
        path,
        f"an exported program with {str(what)[:60]!r} in it, which edgeclin does not let PyTorch "
        "load",
        "export an ordinary network (ATen operators, plain names), or give ONNX",
    )
