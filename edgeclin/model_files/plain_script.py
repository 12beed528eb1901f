"""What may stand in a TorchScript file that PyTorch is given to load.

`torch.jit.load` runs code: defaults of arguments, constants of classes, `__setstate__`, and what
pickled objects of PyTorch's own C++ classes do when they are made. So only literals may stand where
code would run on loading, and PyTorch gets a copy of what was checked, in which every source is
written anew from its syntax tree: two readers of a zip file, or of a text, may see different things
in one made for it. What the methods do when they are called is checked on the loaded graph
(`edgeclin/convert/script_operators.py`).
"""

from __future__ import annotations

import ast
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from edgeclin.errors import BadFile
from edgeclin.model_files.facts import CONVERTIBLE

OUTSIDE = {"save", "from_file"}
"""Operators of `aten` that reach files."""
_KEPT = re.compile(
    r"(data|constants)(\.pkl|/\w+)|code/[\w/.]+\.py|version|byteorder|\.data/\w+|\.format_version"
)
"""Without what PyTorch loads without: places in the source, traced inputs, extra files."""
_NAMESPACES = {"aten", "prim"}
_LITERAL_CALLS = {"annotate", "float"}
_HOOKS = {"__forward_hooks__", "__forward_pre_hooks__"}
_CPP_CLASS = re.compile(rb"torch[.\n]classes[.\n]")
_UNUSUAL = re.compile(r"[^ -~]|['\"\\]")
"""What is replaced in texts, which are messages mostly: a text must end where it seems to."""


def plain_script(path: Path) -> dict[str, bytes]:
    """The files of a TorchScript model by their names below its folder, once loading them runs
    nothing.

    Raises:
        BadFile: damaged, or loading it would run code.
    """
    entries: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.partition("/")[2]
                if name in entries:
                    raise BadFile(path, f"holds {info.filename!r} twice", "export it anew")
                if _KEPT.fullmatch(name):
                    entries[name] = _checked(path, name, archive.read(info))
    except BadFile:
        raise
    except Exception as exc:  # whatever a damaged zip file or source leads to
        raise BadFile(path, "a damaged or unusual TorchScript file", CONVERTIBLE) from exc
    return entries


def write_plain_script(path: Path, target: Path) -> None:
    """Write a copy of `path` that holds what was checked and nothing else.

    Raises:
        BadFile: as `plain_script` does.
    """
    entries = plain_script(path)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in entries.items():
            archive.writestr(f"model/{name}", data)


def _checked(path: Path, name: str, data: bytes) -> bytes:
    if name.endswith(".pkl") and _CPP_CLASS.search(data):
        raise _refused(path, f"{name} holds an object of a C++ class, and making it runs code")
    if not name.endswith(".py"):
        return data
    tree = ast.parse(data.decode("ascii"))
    for node in ast.walk(tree):
        found = _objection(node)
        if found:
            raise _refused(path, f"{name} {found}")
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = _UNUSUAL.sub("?", node.value)
    return f"{ast.unparse(tree)}\n".encode()


def _refused(path: Path, why: str) -> BadFile:
    return BadFile(
        path, f"a TorchScript file whose {why}", "export the model without it, or give ONNX"
    )


def _objection(node: ast.AST) -> str:
    """Why a node may not stand in a source; empty when it may."""
    if isinstance(node, (ast.AsyncFunctionDef, ast.Lambda)):
        return "defines a function in a way that TorchScript does not write"
    if isinstance(node, ast.FunctionDef):
        return _of_function(node)
    if isinstance(node, ast.ClassDef):
        return next(filter(None, map(_of_class_part, node.body)), "")
    return next((f"uses {name}, which does more than compute" for name in _outside(node)), "")


def _of_function(node: ast.FunctionDef) -> str:
    if node.name == "__setstate__":
        return "has a __setstate__, which runs when the file is loaded"
    defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
    if not all(map(_is_literal, defaults)):
        return f"computes a default of {node.name} when the file is loaded"
    return ""


def _of_class_part(part: ast.stmt) -> str:
    match part:
        case ast.FunctionDef() | ast.Pass() | ast.AnnAssign(value=None):
            return ""
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in _HOOKS:
            return "" if isinstance(value, ast.List) and not value.elts else f"has {name}"
        case ast.AnnAssign(value=value) | ast.Assign(value=value) if _is_literal(value):
            return ""
    return f"computes {ast.unparse(part)[:60]!r} when the file is loaded"


def _is_literal(node: ast.AST | None) -> bool:
    """Whether evaluating it calls nothing that does more than give a value a type."""
    calls = [one.func for one in ast.walk(node or ast.Pass()) if isinstance(one, ast.Call)]
    return all(isinstance(call, ast.Name) and call.id in _LITERAL_CALLS for call in calls)


def _outside(node: ast.AST) -> Iterator[str]:
    """Operators that reach files, and those of libraries: `torch.save`, `ops.other.operator`."""
    match node:
        case ast.Attribute(attr=name) if name in OUTSIDE:
            yield name
        case ast.Attribute(value=ast.Name(id="ops"), attr=name) if name not in _NAMESPACES:
            yield name
        case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=name)]):
            if name in OUTSIDE:
                yield str(name)
