"""Mixed precision: which layers stay in float so that an engine that misses its gates holds them.

Layers are taken hardest first, by the error that each of them adds alone. An engine is made for
every trial and judged by the same gates as an INT8 engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

import msgspec
import numpy as np

from edgeclin.convert import latency
from edgeclin.convert.fewest import Search
from edgeclin.convert.layers import EXACT_DB, INPUT, Layers, Price
from edgeclin.convert.quantising import Quantised, quantise_by
from edgeclin.convert.stages import BACKEND, Progress, Stage, Workshop
from edgeclin.records import Record

MOST_TRIALS = 32
MOST_SHARE = 0.5
"""An engine with more of its layers in float is a float engine, and should be made as one."""
MOST_PRICED = 12
_INT8 = "INT8 engine"


class MixedPrecision(Record, frozen=True):
    """What became of trying it.

    Attributes:
        kept: names of the layers that stay in float; empty where nothing helped.
        trials: engines that were made on the way; 0 where it was not tried.
        said: in a sentence what came of it, or why it was not tried.
        latency_ms, int8_latency_ms: medians of `runs` interleaved runs on one thread of this
            machine; of an INT8 engine that cannot be loaded 0, as its bytes are.
    """

    kept: tuple[str, ...]
    trials: int
    said: str
    runs: int = 0
    latency_ms: float = 0.0
    int8_latency_ms: float = 0.0
    bytes: int = 0
    int8_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """An engine that holds its gates, and what each layer costs that it keeps in float."""

    quantised: Quantised
    facts: MixedPrecision
    prices: Mapping[str, Price]


@dataclass(slots=True)
class Mixer:
    """Makes engines with layers in float, beside one INT8 engine that misses its gates.

    Attributes:
        source: the source model's answers to the validation samples, float32 [n, outputs].
        judged: prepared validation samples, float32 [n, …].
        holds: whether an engine's answers to them hold the gates.
    """

    workshop: Workshop
    model: Stage
    source: np.ndarray
    judged: np.ndarray
    int8: Quantised
    layers: Layers
    holds: Callable[[np.ndarray], bool]
    progress: Progress
    _made: dict[frozenset[str], Quantised] = field(default_factory=dict)

    def search(self) -> Found | MixedPrecision:
        """The engine with the fewest layers in float, or what was tried in vain."""
        ranked = [
            layer.name
            for layer in self.layers.ranked
            if layer.operator != INPUT and layer.harm_db < EXACT_DB
        ]
        most = ceil(MOST_SHARE * len(self.layers.layers))
        search = Search(self._try, MOST_TRIALS)
        kept = search.run(ranked, most)
        if kept is None:
            return MixedPrecision(
                kept=(),
                trials=search.trials,
                said=f"mixed precision does not help: of {search.trials} engines none held every "
                f"gate with at most {most} of {len(self.layers.layers)} layers in float",
            )
        return self._priced(tuple(name for name in ranked if name in kept), search.trials)

    def _try(self, kept: tuple[str, ...]) -> bool:
        many = f"{len(kept)} layers" if len(kept) > 1 else "1 layer"
        self.progress(f"trying mixed precision, {many} in float")
        stage = self._engine(kept).stage
        assert stage.outputs is not None
        return not stage.refused and self.holds(stage.outputs)

    def _engine(self, kept: Sequence[str]) -> Quantised:
        """The engine that keeps these layers, by the ranges of the INT8 engine's own method."""
        asked = frozenset(kept)
        if not asked:
            return self.int8
        if asked not in self._made:
            method, calibrated = self.int8.method, self.int8.calibrated
            tensors = {layer.name: layer.tensors for layer in self.layers.layers}
            made = quantise_by(
                self.int8.quantiser,
                self.workshop,
                self.model,
                self.source,
                self.judged,
                replace(calibrated, ranges={method: calibrated.ranges[method]}),
                tuple(tensor for name in kept for tensor in tensors[name]),
            )
            self._made[asked] = replace(made, calibrated=calibrated)
        return self._made[asked]

    def _priced(self, kept: tuple[str, ...], trials: int) -> Found:
        self.progress("measuring what each layer in float costs")
        mixed = self._engine(kept)
        without = {
            name: self._engine([other for other in kept if other != name])
            for name in kept[:MOST_PRICED]
        }
        engines = {"": mixed, **without, _INT8: self.int8}
        data = {
            name: one.stage.path.read_bytes()
            for name, one in engines.items()
            if not one.stage.refused
        }
        took = latency.measure(BACKEND[self.model.form], data, np.ascontiguousarray(self.judged[0]))
        medians, size = took.medians, len(data[""])
        prices = {
            name: Price(latency_ms=medians[""] - medians[name], bytes=size - len(data[name]))
            for name in without
            if name in data
        }
        facts = MixedPrecision(
            kept=kept,
            trials=trials,
            said=f"mixed precision holds every gate with {len(kept)} of "
            f"{len(self.layers.layers)} layers in float (engines tried: {trials})",
            runs=took.runs,
            latency_ms=medians[""],
            int8_latency_ms=medians.get(_INT8, 0.0),
            bytes=size,
            int8_bytes=len(data.get(_INT8, b"")),
        )
        return Found(mixed, facts, prices)


def with_prices(layers: Layers, prices: Mapping[str, Price], kept: Sequence[str]) -> Layers:
    """The same layers, with those marked that stay in float, and what is known of their prices."""
    marked = tuple(
        msgspec.structs.replace(layer, kept=layer.name in kept, price=prices.get(layer.name))
        for layer in layers.layers
    )
    return msgspec.structs.replace(layers, layers=marked)
