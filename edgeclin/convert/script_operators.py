"""Which operators the methods of a TorchScript model may call: those that only compute.

A graph is checked as PyTorch will run it, every call inlined and with the blocks within blocks, so
that no spelling of its source matters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgeclin.errors import ConversionFailed
from edgeclin.model_files.plain_script import OUTSIDE

_CONTROL = {
    "Constant", "DictConstruct", "GetAttr", "If", "ListConstruct", "ListUnpack", "Loop",
    "NumToTensor", "Print", "RaiseException", "SetAttr", "TupleConstruct", "TupleIndex",
    "TupleSlice", "TupleUnpack", "Uninitialized", "abs", "data", "device", "dtype", "is_cpu",
    "is_cuda", "is_meta", "is_mkldnn", "is_mps", "is_nested", "is_quantized", "is_sparse",
    "is_vulkan", "is_xla", "is_xpu", "isinstance", "itemsize", "layout", "max", "min",
    "rangelist", "requires_grad", "shape", "tolist", "type", "unchecked_cast",
    "unchecked_unwrap_optional",
}  # fmt: skip
"""Of `prim::`: values, branches and loops. Not: calls of what is known only when it runs, forks,
contexts, Python and remote calls. Of `aten::`, PyTorch's operators on tensors, numbers, texts and
lists, all but those that reach files."""


def require_plain_operators(module: Any) -> None:
    """Refuse a loaded `torch.jit.ScriptModule` of which a method does more than compute.

    Raises:
        ConversionFailed: names the operator and the method.
    """
    for part in module.modules():
        for name in part._c._method_names():
            for kind in _kinds(part._c._get_method(name).inlined_graph):
                if not _is_plain(kind):
                    raise ConversionFailed(
                        f"the TorchScript model's {name} uses {kind}, which does more than "
                        "compute; export the model without it, or give ONNX"
                    )


def _is_plain(kind: str) -> bool:
    namespace, _, name = kind.partition("::")
    return name in _CONTROL if namespace == "prim" else namespace == "aten" and name not in OUTSIDE


def _kinds(block: Any) -> Iterator[str]:
    """The kinds of a graph's nodes, those of blocks within it too."""
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _kinds(inner)
