"""The TensorRT that is installed here: on a Jetson it comes with JetPack, from no registry."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from edgeclin.errors import EngineUnavailable
from edgeclin.tensorrt.families import Family, Version11, family_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Library:
    """One TensorRT and the way to ask it. `title` names it with its version."""

    module: Any
    version: str
    family: Family
    title: str


def load_library() -> Library:
    """The TensorRT of this machine.

    Raises:
        EngineUnavailable: there is none, it does not load, or its version is unknown.
    """
    try:
        module = import_module("tensorrt")
    except (ImportError, OSError) as exc:  # the latter for a shared library that is not there
        raise EngineUnavailable(
            f"TensorRT's Python package cannot be imported here ({exc}): on a Jetson it comes with "
            "JetPack (apt-get install python3-libnvinfer), and a virtual environment sees it with "
            "--system-site-packages"
        ) from exc
    version = str(module.__version__)
    return Library(module, version, family_of(version), f"TensorRT {version}")


def load_rtx() -> Library:
    """TensorRT-RTX: another TensorRT, for desktop GPUs. It parses and builds without a GPU.

    Raises:
        EngineUnavailable: it is not installed.
    """
    try:
        module = import_module("tensorrt_rtx_bindings")
    except ImportError as exc:
        raise EngineUnavailable(
            "neither TensorRT nor TensorRT-RTX can be imported here: pip install 'edgeclin[rtx]' "
            "brings the latter, whose parser gives a second opinion"
        ) from exc
    version = str(module.__version__)
    return Library(module, version, Version11(), f"TensorRT-RTX {version}")


def new_logger(trt: Any) -> Any:
    """A logger for TensorRT that passes on what it says; `problems` keeps its errors, in order."""

    levels = trt.ILogger.Severity

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.problems: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (levels.INTERNAL_ERROR, levels.ERROR):
                self.problems.append(msg.strip())
            elif severity == levels.WARNING:
                log.info("%s", msg)

    return Logger()
