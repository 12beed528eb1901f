"""A backend that fails in the way that a file orders; see the fixture `unsound`."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import numpy as np

from edgeclin.backends.fake import FakeBackend
from edgeclin.errors import EngineUnavailable

SHAPES = {
    "one of all": lambda outputs: outputs[:1],
    "a scalar": lambda outputs: outputs[0],
    "one too few": lambda outputs: outputs[:-1],
    "one too many": lambda outputs: np.append(outputs, outputs[:1]),
    "a batch": lambda outputs: outputs[np.newaxis],
    "nothing": lambda _: None,
}


class UnsoundBackend(FakeBackend):
    """The fake engine, until its file orders a fault."""

    name = "unsound"

    def __init__(self, model: bytes, threads: int = 1) -> None:
        fault = self._fault()
        if fault == "absent":
            raise EngineUnavailable("no accelerator is plugged in")
        self._grown: list[bytearray] = []
        while fault.endswith("while loading") and self._fault() == fault:
            time.sleep(0.01)
            if fault.startswith("grow") and len(self._grown) < 8:
                self._grow()
        super().__init__(model, threads)
        self.version = f"{self.name} 1"

    def run(self, sample: np.ndarray) -> np.ndarray:
        outputs = super().run(sample)
        fault = self._fault()
        if fault == "hang":
            while self._fault() == fault:
                time.sleep(0.01)
        elif fault == "abort":
            os.abort()
        elif fault == "segfault":
            ctypes.string_at(0)
        elif fault == "raise":
            raise ValueError("out of sorts")
        elif fault == "lie":
            return outputs + np.float32(0.5)
        elif fault == "nan":
            return outputs * np.float32("nan")
        elif fault in SHAPES:
            return SHAPES[fault](outputs)
        elif fault == "grow":
            self._grow()
        return outputs

    def _grow(self) -> None:
        self._grown.append(bytearray(b"x" * (64 << 20)))

    def _fault(self) -> str:
        try:
            return (Path(os.environ["UNSOUND_FAULTS"]) / self.name).read_text()
        except OSError:
            return ""


class UnsoundTwin(UnsoundBackend):
    """The same with a file of its own."""

    name = "unsound-twin"
