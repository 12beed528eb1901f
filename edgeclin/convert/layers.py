"""What quantising does to each layer of a model: figures, and what they say of the whole.

A layer is what an engine computes in one step, with the operators of the float model that are in it
(a convolution with the ReLU behind it); it is named after the float tensor that it gives.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgeclin.records import Record

INPUT = "INPUT"
"""The operator of the first layer, which only quantises the model's input."""
EXACT_DB = 120.0
"""The highest SQNR that is told: beyond it stands the rounding of float32 itself."""
WEAK = 25
"""Per cent of the channels that are no better than `channel_db`."""
LOW_DB = 20.0
"""A signal with an error of a tenth of its own size."""
JUMP_DB = 6.0
"""Twice the error of before."""


class Error(Record, frozen=True):
    """How far a tensor of an engine is from the float model's, over all values of all samples.

    `sqnr_db` is the signal-to-quantisation-noise ratio, 10 log10(sum x² / sum (x - y)²).
    `channel_db` is that of its weak channels: a quarter of all that are ever other than zero are no
    better. Beside one wide channel all others can be lost while the first figure looks well.
    """

    sqnr_db: float
    channel_db: float
    mse: float
    cosine: float

    @property
    def worst_db(self) -> float:
        """The lower of the two: one channel may be lost that is most of the tensor, or most of the
        channels that are little of it."""
        return min(self.sqnr_db, self.channel_db)


class Price(Record, frozen=True):
    """What keeping one layer in float costs, beside an engine that differs in this layer alone."""

    latency_ms: float
    bytes: int


class Layer(Record, frozen=True):
    """One layer of an engine, in execution order.

    Attributes:
        tensors: the float model's tensors that are computed in it: what `Request.kept` names.
        accumulated: the error that arrives here when the whole engine runs.
        own: the error that this layer alone adds: it runs as in the engine, but on the float
            model's tensors. None where it cannot be taken out.
        saturated: share of the float values that lie more than one step beyond what its integers
            represent (a sigmoid, whose integers end at 255/256, is at home there).
        low, high: extremes of the float values.
        least, most: what its integers represent; None where the layer gives floats.
        channel_spread: widest channel of its float values, in widths of the median one.
        mixture: the range of all values, in widths of the narrowest place: along the channels,
            of the engine's output along any axis.
        weight_spread: largest output channel of its weights, in sizes of the median one; 0 without
            weights.
        weight_scales: scales of its weights; 0 where they are float.
        kept: whether it was asked to compute in float.
    """

    order: int
    name: str
    operator: str
    tensors: tuple[str, ...]
    accumulated: Error
    own: Error | None
    saturated: float
    low: float
    high: float
    least: float | None
    most: float | None
    channel_spread: float
    mixture: float
    weight_spread: float = 0.0
    weight_scales: int = 0
    kept: bool = False
    price: Price | None = None

    @property
    def title(self) -> str:
        """As a reader needs it: of a fused tensor, which TFLite names after all, the first name."""
        return f"{self.order} {self.operator} {self.name.split(';')[0]}"

    @property
    def harm_db(self) -> float:
        """What it is ranked by, the lowest being the worst: its own error."""
        return (self.own or self.accumulated).worst_db


class Layers(Record, frozen=True):
    """All layers of an engine, and how many samples they were compared on."""

    samples: int
    executed_by: str
    layers: tuple[Layer, ...]

    @property
    def ranked(self) -> list[Layer]:
        """Worst first."""
        return sorted(self.layers, key=lambda layer: layer.harm_db)

    @property
    def jump(self) -> Layer | None:
        """The first layer, in execution order, at which the error that arrives gets large at once.

        There `worst_db` falls by `JUMP_DB` below all layers before it and below `LOW_DB`.
        """
        return first_jump(self.layers)


def first_jump(layers: Sequence[Layer]) -> Layer | None:
    """See `Layers.jump`."""
    before = EXACT_DB
    for layer in layers:
        here = layer.accumulated.worst_db
        if here < LOW_DB and here <= before - JUMP_DB:
            return layer
        before = min(before, here)
    return None
