"""Float model against engine, layer by layer: what a converter `layers_from_…` does."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import msgspec
import numpy as np

from edgeclin.convert.layers import Layer, Layers
from edgeclin.convert.probes import Place, Probe
from edgeclin.convert.request import Outcome, Request
from edgeclin.convert.tally import Extremes, Tally
from edgeclin.convert.taps import Tap

LAYERS = "layers.json"
MOST_SAMPLES = 32


def compare(
    tap: Tap, probe: Probe, request: Request, report: Callable[[str], None], tools: dict[str, str]
) -> Outcome:
    """Run up to `MOST_SAMPLES` samples through both; the tensors of one are in memory at a time."""
    samples = np.load(request.samples, mmap_mode="r")
    chosen = np.linspace(0, len(samples) - 1, min(len(samples), MOST_SAMPLES)).astype(int)
    report(f"comparing layer by layer on {len(chosen)} samples")
    sums = [_Sums(place, probe.channel_axis) for place in probe.places]
    sums[-1].take_every_axis()
    by_name = {one.place.name: one for one in sums}
    for index in chosen:
        sample = np.ascontiguousarray(samples[index])
        floats = {name: np.array(values) for name, values in tap.run(sample)}
        for one in sums:
            one.see(floats[one.place.name])
        for name, values in probe.arriving(sample):
            by_name[name].accumulated.add(floats[name], values)
        for name, values in probe.own(floats):
            by_name[name].own.add(floats[name], values)
    found = Layers(
        samples=len(chosen),
        executed_by=probe.executed_by,
        layers=tuple(one.layer(order, request.kept) for order, one in enumerate(sums)),
    )
    (Path(request.folder) / LAYERS).write_bytes(msgspec.json.encode(found))
    return Outcome(file=LAYERS, tools=tools)


class _Sums:
    """What is summed up of one layer."""

    def __init__(self, place: Place, channel_axis: int) -> None:
        self.place = place
        self.accumulated, self.own = Tally(channel_axis), Tally(channel_axis)
        self._extremes = Extremes((channel_axis,))
        self._channel_axis = channel_axis
        self._beyond = self._values = 0

    def take_every_axis(self) -> None:
        """An output may mix ranges along any of its axes."""
        self._extremes = Extremes((self._channel_axis, *range(1, 5)))

    def see(self, values: np.ndarray) -> None:
        """Take in the float model's values, float32 [1, …]."""
        self._extremes.add(values)
        self._values += values.size
        if self.place.ends is not None:
            least, most = self.place.ends
            step = self.place.step
            self._beyond += int(np.count_nonzero((values < least - step) | (values > most + step)))

    def layer(self, order: int, kept: Collection[str]) -> Layer:
        place, (low, high) = self.place, self._extremes.range
        accumulated = self.accumulated.error
        assert accumulated is not None
        return Layer(
            order=order,
            name=place.name,
            operator=place.operator,
            tensors=place.tensors,
            accumulated=accumulated,
            own=self.own.error,
            saturated=self._beyond / self._values,
            low=low,
            high=high,
            least=None if place.ends is None else place.ends[0],
            most=None if place.ends is None else place.ends[1],
            channel_spread=self._extremes.channel_spread,
            mixture=self._extremes.mixture,
            weight_spread=place.weight_spread,
            weight_scales=place.weight_scales,
            kept=not set(place.tensors).isdisjoint(kept),
        )
