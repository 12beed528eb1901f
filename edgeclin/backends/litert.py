"""LiteRT's interpreter, or that of tflite-runtime on a board that has nothing else.

tflite-runtime (last released as 2.14, which is built for NumPy 1) is many times slower: an INT8
MobileNetV2 took 125 ms where LiteRT took 6.4 (x86-64).
"""

from __future__ import annotations

from importlib.metadata import version

from edgeclin.errors import MissingExtra

try:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType, load_delegate

    RUNTIME = f"LiteRT {version('ai-edge-litert')}"
except ImportError:
    try:
        from tflite_runtime.interpreter import Interpreter, OpResolverType, load_delegate

        RUNTIME = f"tflite-runtime {version('tflite-runtime')}"
    except ImportError as exc:
        raise MissingExtra("LiteRT, which executes TFLite engines,", "tflite") from exc

__all__ = ["RUNTIME", "Interpreter", "OpResolverType", "load_delegate"]
