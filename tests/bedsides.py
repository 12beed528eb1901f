"""What `run` does with sources: judged by the fake engine, stored in a real queue."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from edgeclin.backends.fake import FakeBackend
from edgeclin.bedside import Bedside
from edgeclin.bundle import Bundle, write_bundle
from edgeclin.description import Input
from edgeclin.golden import write_golden
from edgeclin.inbox import Inbox, Sample
from edgeclin.manifest import MEASURES, GuardLimits, Limit, Manifest
from edgeclin.offline_queue import OfflineQueue
from edgeclin.preprocess import Preprocess
from edgeclin.records import Result, Tier
from edgeclin.runtime import Runtime
from edgeclin.sources import Source
from edgeclin.steps import Decode, Normalise, Resize

PICTURE = Input(
    name="picture",
    kind="image",
    shape=(8, 8, 3),
    preprocessing=(
        Decode(colour="rgb"),
        Resize(height=8, width=8, interpolation="area"),
        Normalise(scale=1 / 255),
    ),
)


def bundle_of(folder: Path, manifest: Manifest, spec: Input, sample: np.ndarray) -> Bundle:
    """An unsigned bundle of the fake engine for another input, with a guard that knows only what
    cannot be judged at all.

    Args:
        sample: raw, a golden one.
    """
    engine = msgspec.json.encode({"input_shape": list(spec.shape), "labels": 5, "gain": 8.0})
    answer = FakeBackend(engine).run(Preprocess(spec)(sample))
    wide = tuple(
        Limit(measure=name, low=-1e30, high=1e30, share=0.0) for name in MEASURES[spec.kind]
    )
    changed = msgspec.structs.replace(
        manifest,
        inputs=(spec,),
        golden=msgspec.structs.replace(manifest.golden, samples=1),
        guard=GuardLimits(samples=100, flat_leads=0, limits=wide, share=0.0),
    )
    files = {"engine.json": engine, "golden.npz": write_golden([sample], answer[np.newaxis])}
    path = write_bundle(folder / f"{spec.name}.edgeclin", changed, files, None)
    return Bundle.open(path, (), allow_unsigned=True)


class Scripted:
    """A source that delivers what a test says, as the stream `scripted`."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def deliver(self, inbox: Inbox) -> None:
        line = inbox.line("scripted")
        for sample in self._samples:
            line.put(sample)


def stored_results(queue: OfflineQueue) -> list[Result]:
    """All results of a queue, in the order in which they were stored."""
    rows = [row for tier in Tier for row in queue.pending(tier, limit=100_000)]
    rows.sort(key=lambda row: row.seq)
    return [msgspec.json.decode(row.body, type=Result) for row in rows if row.kind == "result"]


class Judged(list[Result]):
    """Results so far, and the loop that gives them."""

    def __init__(self, bedside: Bedside) -> None:
        super().__init__()
        self._bedside = bedside

    @property
    def away(self) -> list[str]:
        """Alarms of sources from which nothing comes now."""
        return [one for one in self._bedside.health().alarms if "nothing comes from it now" in one]


@contextmanager
def judging(runtime: Runtime, queue: OfflineQueue, sources: Sequence[Source]) -> Iterator[Judged]:
    """The loop at work in the block; the list grows with its results."""
    bedside = Bedside(runtime, queue, 60)
    found = Judged(bedside)
    loop = threading.Thread(
        target=bedside.run, args=(sources, lambda _, result, __: found.append(result))
    )
    loop.start()
    try:
        yield found
    finally:
        bedside.inbox.stop()
        loop.join(30)
        assert not loop.is_alive()
