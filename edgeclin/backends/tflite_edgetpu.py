"""TensorFlow Lite engines that the Edge TPU compiler made, executed by a Coral.

Tested with stand-ins for Coral's library; **nothing here has run on an Edge TPU**.
"""

from __future__ import annotations

import ctypes
import re
from typing import Any

from edgeclin.backends.litert import RUNTIME, load_delegate
from edgeclin.backends.tflite import CUSTOM_OPERATOR, TFLiteBackend
from edgeclin.errors import EngineUnavailable

LIBRARY = "libedgetpu.so.1"
_CREATE, _DESTROY = "tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"
_OF_ANOTHER_AGE = re.compile(r"requires runtime version|EdgeTpuDelegateForCustomOp")
"""What libedgetpu says of an engine that is newer than itself, and LiteRT of a delegate that was
built for another version of its own (google-coral/edgetpu#214, google-coral/tflite#45)."""


class TFLiteEdgeTPUBackend(TFLiteBackend):
    """One interpreter whose custom operator the Edge TPU executes, batch size 1.

    Args:
        library: Coral's delegate, by a name that the loader knows or by its path.
    """

    def __init__(self, model: bytes, threads: int = 1, *, library: str = LIBRARY) -> None:
        if CUSTOM_OPERATOR.encode() not in model:
            raise EngineUnavailable(
                f"the engine has no {CUSTOM_OPERATOR}, so nothing of it would run on the Edge TPU: "
                "it is not compiled, and the backend tflite runs it on the CPU"
            )
        delegate = _delegate(library)
        try:
            super().__init__(model, threads, delegates=[delegate])
        except EngineUnavailable as exc:
            if "unresolved custom op" in str(exc):
                raise EngineUnavailable(
                    f"{library} does not take the engine's {CUSTOM_OPERATOR}"
                ) from exc
            if _OF_ANOTHER_AGE.search(str(exc)):
                raise EngineUnavailable(
                    f"{library}, {RUNTIME} and the engine's compiler are of different ages: "
                    f"install versions made for each other ({exc})"
                ) from exc
            raise
        self.version = f"{RUNTIME} Edge TPU by {library}"


def _delegate(library: str) -> Any:
    """Coral's delegate, with the Edge TPU that it found.

    The library is loaded here first: LiteRT prints tracebacks where it cannot.
    """
    try:
        loaded = ctypes.PyDLL(library)
    except OSError as exc:
        if "No such file" in str(exc):
            raise EngineUnavailable(
                f"{library} is not installed: the Edge TPU needs it (Debian package "
                "libedgetpu1-std from coral.ai)"
            ) from exc
        raise EngineUnavailable(f"{library} does not load: {exc}") from exc
    if not (hasattr(loaded, _CREATE) and hasattr(loaded, _DESTROY)):
        raise EngineUnavailable(f"{library} is no delegate of LiteRT: it has no {_CREATE}")
    try:
        return load_delegate(library)
    except ValueError as exc:
        said = " ".join(str(exc).split()).removeprefix(f"Failed to load delegate from {library}")
        raise EngineUnavailable(
            f"{library} found no Edge TPU: plug it in, and let this user open it"
            + f" (it says:{said})" * bool(said)
        ) from exc
