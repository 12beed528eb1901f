"""What in a Keras model only code of its author's could bring back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeclin.errors import BadFile

EXPORT = "export it where its code is, `model.export('folder')`, and give the folder"


def refuse_own_code(path: Path, model: Any) -> None:
    """Refuse layers, functions and models that are not Keras's own: no code of a file is run.

    Args:
        model: as Keras's `serialize_keras_object` writes it. Those in `.h5` files do not tell whose
            a class is: Keras says so later.

    Raises:
        BadFile: names the first of them.
    """
    for found in _objects(model):
        what = _foreign(found, found is model)
        if what:
            raise BadFile(path, f"has {what}, whose code is not Keras's", EXPORT)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Outermost first."""
    if isinstance(value, dict):
        if isinstance(value.get("class_name"), str):
            yield value
        for part in value.values():
            yield from _objects(part)
    elif isinstance(value, list):
        for part in value:
            yield from _objects(part)


def _foreign(found: dict[str, Any], outermost: bool) -> str:
    kind, config = found["class_name"], found.get("config")
    if kind == "Lambda":
        return f"a Lambda layer{_named(config)}"
    if kind == "function":
        return f"the function {config}"
    told = "registered_name" in found and not str(found.get("module")).startswith("keras.")
    subclassed = outermost and isinstance(config, dict) and "layers" not in config
    if subclassed or ">" in kind or (told and found["module"] not in ("keras", "builtins")):
        return f"an object of the class {found.get('registered_name') or kind}{_named(config)}"
    return ""


def _named(config: Any) -> str:
    name = config.get("name") if isinstance(config, dict) else None
    return f" ({name})" if name else ""
