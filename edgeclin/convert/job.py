"""What is asked of a conversion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeclin.convert.diagnosis import AUTO
from edgeclin.convert.ranges import Method
from edgeclin.datasets import Dataset
from edgeclin.description import Description
from edgeclin.gates import Margins
from edgeclin.profiles import Profile


@dataclass(frozen=True, slots=True)
class Conversion:
    """What to convert, for which device, proven on what.

    Attributes:
        described: whether somebody described the model, or its file alone.
        output: where the bundle goes.
        signer: None leaves it unsigned.
        margins: the limits of the gates.
        methods: ways to choose ranges; with several the one that measures best is kept.
        quantiser: one of the names in `edgeclin.convert.routes.QUANTISERS`, or `AUTO`: the first,
            and another only where the first misses a gate.
        mixed_precision: whether layers may stay in float where INT8 misses a gate.
        allow_failed_gates: write the bundle all the same, marked for good.
        allow_shared_groups: whether calibration and validation may have patients in common; the
            bundle says so.
        report: the page of the report goes there too, whether gates hold or not.
        input_shape: sizes for a model whose file leaves axes open, without the batch axis.
    """

    model: Path
    profile: Profile
    description: Description
    described: bool
    calibration: Dataset
    validation: Dataset | None
    output: Path
    signer: Any | None
    margins: Margins
    methods: tuple[Method, ...] = tuple(Method)
    quantiser: str = AUTO
    mixed_precision: bool = True
    allow_failed_gates: bool = False
    allow_shared_groups: bool = False
    input_shape: tuple[int, ...] | None = None
    report: Path | None = None

    @property
    def quantises(self) -> bool:
        return self.profile.numeric.precision == "int8"
