"""PyTorch's exported programs (`.pt2`), read without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from edgeclin.errors import BadFile
from edgeclin.model_files.facts import CONVERTIBLE, ModelFacts, Shape, values_of
from edgeclin.model_files.plain_program import plain_entries, program_of

_FLOAT32 = 7
"""`ScalarType.FLOAT` of PyTorch's serialisation schema."""
_ACTIVATIONS: dict[str, Literal["softmax", "sigmoid"]] = {
    "torch.ops.aten.softmax.int": "softmax",
    "torch.ops.aten._softmax.default": "softmax",
    "torch.ops.aten.sigmoid.default": "sigmoid",
}


def read_exported_program(path: Path) -> ModelFacts:
    """Facts of an exported program.

    Raises:
        BadFile: damaged, of another make, or with something in it that could run code.
    """
    program = program_of(path, plain_entries(path))
    try:
        module = program["graph_module"]
        graph = module["graph"]
        tensors = graph["tensor_values"]
        entries = [
            spec["user_input"]["arg"]["as_tensor"]["name"]
            for spec in module["signature"]["input_specs"]
            if "user_input" in spec
        ]
        inputs = tuple((name, _shape(path, tensors[name])) for name in entries)
        answer = graph["outputs"][-1]["as_tensor"]["name"]
        makers = [node for node in graph["nodes"] if answer in _made(node)]
        last = makers[-1]["target"] if makers else ""
        outputs, axis = values_of(tuple(_sizes(tensors[answer])[1:]))
        activation = _ACTIVATIONS.get(last)
    except BadFile:
        raise
    except (KeyError, IndexError, TypeError, AttributeError) as exc:
        raise BadFile(path, "an unusual exported program", CONVERTIBLE) from exc
    return ModelFacts("torch_export", inputs, outputs, activation or "none", axis)


def _made(node: dict[str, Any]) -> list[str]:
    return [one["as_tensor"]["name"] for one in node["outputs"] if "as_tensor" in one]


def _shape(path: Path, tensor: dict[str, Any]) -> Shape:
    if tensor["dtype"] != _FLOAT32:
        raise BadFile(path, "takes another type than float32", "export it with float32 inputs")
    batch, *shape = _sizes(tensor)
    if batch not in (None, 1):
        raise BadFile(
            path,
            f"was exported for a batch of {batch}",
            "export it with a sample of batch size 1, or with a dynamic batch",
        )
    return tuple(shape)


def _sizes(tensor: dict[str, Any]) -> list[int | None]:
    return [axis.get("as_int") for axis in tensor["sizes"]]
