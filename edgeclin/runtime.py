"""One bundle, loaded, self-tested and ready to answer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from math import isfinite

import numpy as np

from edgeclin.backends import Backend
from edgeclin.backends.base import misshapen
from edgeclin.bundle import Bundle
from edgeclin.confidence import finds_nothing, probabilities, to_logits
from edgeclin.config import IsolationConfig
from edgeclin.datasets import Dataset, require_described
from edgeclin.description import Task
from edgeclin.drift import FILE, Drift, Reference, read_reference
from edgeclin.errors import BadBundle, BadFile, BadInput, EngineFailed, EngineUnavailable
from edgeclin.executable import load_executable
from edgeclin.failover import Answering, Failover
from edgeclin.golden import self_test
from edgeclin.guards import Guard
from edgeclin.manifest import Difference
from edgeclin.preprocess import Preprocess
from edgeclin.records import Latency, Result, State, Tier
from edgeclin.states import decide
from edgeclin.steps import Decode

DIGITS = 4
"""Decimals of a probability in a record. What an answer is was decided by all of them; each more is
half a byte for every label on the wire."""


class Runtime:
    """Answers about samples with the engine of one bundle.

    Args:
        bundle: opened, and so already checked.
        backend: the loaded engine; by default the bundle's primary engine, or its CPU twin when
            that one cannot run here; every result says which, and why.
        isolation: runs the bundle's engine in a process of its own, with its CPU twin for the time
            that it is out; `engine` and `degraded` then change with what answers.
        clock: seconds since 1970, for `made_at` alone.
        draw: a number in [0, 1) that decides which confident results are audited.

    Attributes:
        off: how far its outputs were from the golden ones.
        guard: what puts answers in doubt about samples unlike those of calibration.
        drift: how far what was answered is from what was validated.

    Raises:
        SelfTestFailed: the engine does not reproduce the bundle's golden outputs here.
        EngineUnavailable: this machine cannot execute the bundle's engine.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend | None = None,
        *,
        threads: int = 1,
        isolation: IsolationConfig | None = None,
        clock: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        manifest = bundle.manifest
        if len(manifest.inputs) != 1:
            raise BadBundle(bundle.path, f"{len(manifest.inputs)} inputs; one is supported")
        self.bundle = bundle
        self.preprocess = Preprocess(manifest.inputs[0])
        self.guard = Guard(manifest.guard, manifest.inputs[0])
        self.drift = Drift(self._reference())
        self._clock = clock
        self._draw = draw
        self._failover = None
        if isolation is not None and backend is None:
            self.backend: Backend
            self.backend = self._failover = Failover(bundle, isolation, threads)
            self._shape = self.backend.output.shape
            self.off = self._failover.off
            return
        engine, note = manifest.primary, ""
        if backend is None:
            chosen, backend = load_executable(bundle, threads)
            engine, note = chosen.engine, chosen.note
        self.backend = backend
        self._shape = backend.output.shape
        self._alone = Answering(engine.title(backend.version), note)
        self._twin = engine.role == "cpu-twin"
        self.off = self.self_test()

    @property
    def engine(self) -> str:
        """What would answer now, in words: backend, precision, version; `none` when none would."""
        return self._now.engine

    @property
    def degraded(self) -> str:
        """Why it is the CPU twin, or none; empty when it is the primary engine."""
        return self._now.degraded

    @property
    def restarts(self) -> int:
        """How often engines were started again."""
        return self._failover.restarts if self._failover else 0

    @property
    def alarms(self) -> tuple[str, ...]:
        """What somebody must look at now, a sentence each."""
        return self._failover.alarms if self._failover else ()

    @property
    def _now(self) -> Answering:
        return self._failover.now if self._failover else self._alone

    def predict(
        self, sample: np.ndarray, source: str = "", position: int = 0, waited_ms: float = 0.0
    ) -> Result:
        """Answer about one raw sample.

        Args:
            source, position, waited_ms: where it came from and how long it waited, for the record.

        Raises:
            BadInput: the sample cannot be judged, or there is nothing to judge in it; see
                `reject`.
            EngineFailed: the engine gave no answer, no number or too many; see `reject` too.
            EngineUnavailable: the bundle's task is another than classification.
        """
        manifest = self.bundle.manifest
        require_answerable(self.bundle)
        started = time.perf_counter()
        seen = self.preprocess.decoded(sample)
        prepared = self.preprocess.for_engine(seen, self.backend)
        measures = self.guard.measure(seen)
        ready = time.perf_counter()
        outputs = self.backend.run(prepared)
        answered = time.perf_counter()
        by = self.require_sound(outputs)
        logits = to_logits(outputs, manifest.output.activation)
        scores = probabilities(logits, manifest.confidence.temperature)
        answer = int(scores.argmax())
        doubt = self.guard.unlike(measures, logits, answer) or self._nothing(logits, scores, answer)
        decision = decide(scores, manifest.output, manifest.confidence, doubt)
        audit = decision.state is State.FINAL and self._draw() < manifest.confidence.audit_share
        finished = time.perf_counter()
        if self.drift.due(finished - started):
            self.drift.observe(seen, measures, decision.confidence, answer)
        return Result(
            bundle=self.bundle.digest,
            engine=by.engine,
            preprocessing=self.preprocess.digest,
            source=source,
            position=position,
            made_at=round(self._clock(), 3),
            state=decision.state,
            reason=decision.reason,
            tier=decision.tier,
            label=decision.label,
            confidence=round(decision.confidence, DIGITS),
            probabilities=tuple(scores.round(DIGITS).tolist()),
            latency_ms=Latency(
                preprocess=_milliseconds(started, ready),
                engine=_milliseconds(ready, answered),
                postprocess=_milliseconds(answered, finished),
                queue=waited_ms,
            ),
            audit=audit,
            degraded=by.degraded,
            unsigned_bundle=self.bundle.signed_by is None,
        )

    def require_sound(self, outputs: np.ndarray) -> Answering:
        """Refuse what is no answer of this bundle; returns which engine gave it.

        Raises:
            EngineFailed: it has another shape, or is not finite.
        """
        by = self._failover.answered if self._failover else self._alone
        if getattr(outputs, "shape", None) != self._shape:
            raise EngineFailed(f"{by.engine} {misshapen(outputs, self._shape)}")
        if not isfinite(outputs.sum()) and not np.isfinite(outputs).all():
            raise EngineFailed(f"the outputs of {by.engine} are not finite")
        return by

    def _nothing(self, logits: np.ndarray, scores: np.ndarray, answer: int) -> str:
        """That nothing is found, in a sentence; empty where one label is."""
        activation = self.bundle.manifest.output.activation
        stands_out = scores.item(answer) > 0.5 and activation != "sigmoid"
        if stands_out or not finds_nothing(logits, activation):
            return ""
        return "nothing is found: no label stands out"

    def require_fit(self, dataset: Dataset) -> None:
        """Refuse data of another kind than described, and arrays [n, …] of which no sample could
        be judged, whatever its values.

        Raises:
            BadFile: says which shape or type was found and which is expected.
        """
        require_described(dataset, self.bundle.manifest.inputs[0])
        samples = dataset.samples
        if not isinstance(samples, np.ndarray) or self._encoded(samples):
            return
        blank = np.zeros(samples.shape[1:], samples.dtype)
        try:
            self.preprocess(next(self.preprocess.windows(blank)))
        except BadInput as exc:
            raise BadFile(
                dataset.path,
                f"no sample of shape {list(blank.shape)} and type {blank.dtype} can be judged: "
                f"{exc}",
            ) from exc

    def _encoded(self, samples: np.ndarray) -> bool:
        """Whether they are images' bytes [n, bytes], of which each may be another picture."""
        steps = self.bundle.manifest.inputs[0].preprocessing
        return samples.ndim == 2 and any(isinstance(step, Decode) for step in steps)

    def reject(
        self, problem: BadInput | BadFile | EngineFailed, source: str, position: int
    ) -> Result:
        """The result for a sample that could not be judged: a person must look."""
        now = self._now
        return Result(
            bundle=self.bundle.digest,
            engine=now.engine,
            preprocessing=self.preprocess.digest,
            source=source,
            position=position,
            made_at=self._clock(),
            state=State.UNREVIEWED,
            reason=f"rejected: {problem}",
            tier=Tier.ROUTINE,
            rejected=True,
            degraded=now.degraded,
            unsigned_bundle=self.bundle.signed_by is None,
        )

    def _reference(self) -> Reference | None:
        manifest = self.bundle.manifest
        if FILE not in manifest.files:
            return None
        data, (spec,) = self.bundle.read(FILE), manifest.inputs
        return read_reference(data, self.bundle.path, spec.kind, len(manifest.output.labels))

    def self_test(self) -> Difference:
        """Compare this machine's answers with the golden ones, through the whole preprocessing.

        Returns:
            how far they are apart.

        Raises:
            SelfTestFailed: further than the tolerance, in one output or in the mean.
            EngineFailed: an isolated engine gave no answer.
        """
        if self._failover is not None:
            return self._failover.self_test()
        data = self.bundle.read(self.bundle.manifest.golden.file)
        return self_test(self.bundle, data, self.preprocess, self.backend, self._twin)

    def close(self) -> None:
        """Give the engine's memory back."""
        self.backend.close()


def require_answerable(bundle: Bundle) -> None:
    """Refuse a bundle about whose task `Runtime.predict` has no answers.

    Raises:
        EngineUnavailable: names the task.
    """
    if bundle.manifest.task is not Task.CLASSIFICATION:
        raise EngineUnavailable(
            f"{bundle.path}: this version answers classification; the bundle's task is "
            f"{bundle.manifest.task.value}"
        )


def _milliseconds(start: float, end: float) -> float:
    return round((end - start) * 1000, 3)
