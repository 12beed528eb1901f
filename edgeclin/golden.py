"""Golden samples: what an engine answered where it was verified, and how far another may be off.

One figure cannot serve. Kernels of one engine differ rarely and then by much: on 1,200 electrograms
built-in LiteRT kernels were up to 10 steps (of 255) from XNNPACK's and 0.2 in the mean, while
another quantisation of the same model was 2.7 off in the mean.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from edgeclin.backends import Backend
from edgeclin.bundle import Bundle
from edgeclin.errors import SelfTestFailed
from edgeclin.manifest import Difference, Engine
from edgeclin.preprocess import Preprocess

_TWIN = "twin_outputs"


def difference(got: np.ndarray, wanted: np.ndarray) -> Difference:
    """How far outputs [n, outputs] are from others; infinite where one is not finite, or of
    another number."""
    if got.shape != wanted.shape:
        return Difference(float("inf"), float("inf"))
    apart = np.abs(got - wanted)
    if not np.isfinite(apart).all():
        return Difference(float("inf"), float("inf"))
    return Difference(float(apart.max()), float(apart.mean()))


def write_golden(
    inputs: list[np.ndarray], outputs: np.ndarray, twin: np.ndarray | None = None
) -> bytes:
    """Raw samples and the engine's outputs [n, outputs] for them, as the bytes of an `.npz`.

    Args:
        twin: the CPU twin's outputs, where it is a file of its own.
    """
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {f"input_{index:04}": sample for index, sample in enumerate(inputs)}
    if twin is not None:
        arrays[_TWIN] = twin.astype(np.float32)
    np.savez_compressed(buffer, outputs=outputs.astype(np.float32), **arrays)
    return buffer.getvalue()


def read_golden(data: bytes, twin: bool = False) -> tuple[list[np.ndarray], np.ndarray]:
    """The samples, and the primary engine's outputs or, where it has its own, the CPU twin's."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        names = sorted(name for name in arrays.files if name.startswith("input_"))
        outputs = _TWIN if twin and _TWIN in arrays.files else "outputs"
        return [arrays[name] for name in names], arrays[outputs]


def self_test(
    bundle: Bundle, data: bytes, preprocess: Preprocess, backend: Backend, twin: bool
) -> Difference:
    """Compare this machine's answers with the golden ones, through the whole preprocessing.

    Args:
        data: the bundle's golden samples, as `write_golden` made them.
        twin: whether `backend` executes the CPU twin.

    Returns:
        how far they are apart.

    Raises:
        SelfTestFailed: further than the tolerance, in one output or in the mean.
    """
    tolerance = bundle.manifest.golden.tolerance
    inputs, wanted = read_golden(data, twin)
    prepare = preprocess.for_engine
    answers = [backend.run(prepare(sample, backend)).ravel() for sample in inputs]
    off = difference(np.stack(answers), wanted)
    if not off.within(tolerance):
        raise SelfTestFailed(
            f"{bundle.path}: the self-test's answers are off by up to {off} (allowed: {tolerance}) "
            f"with {backend.version}: this machine does not compute what was verified, so it must "
            "not answer"
        )
    return off


def proof(bundle: Bundle, engine: Engine) -> Callable[[Backend], Difference]:
    """The self-test of one of a bundle's engines, with what it needs read now."""
    manifest = bundle.manifest
    return partial(
        self_test,
        bundle,
        bundle.read(manifest.golden.file),
        Preprocess(manifest.inputs[0]),
        twin=engine.role == "cpu-twin",
    )
