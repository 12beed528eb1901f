"""Which engine answers: the primary one, or its CPU twin while that one is out.

Each runs in a process of its own. The twin is loaded from the start, since the sample in hand waits
while the primary engine hangs; and it may hang too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from edgeclin.backends.base import TensorSpec
from edgeclin.bundle import Bundle
from edgeclin.config import IsolationConfig
from edgeclin.errors import EngineFailed, EngineOut, SelfTestFailed
from edgeclin.executable import cpu_twin, executable
from edgeclin.golden import proof
from edgeclin.isolation import EngineProcess, Limits, SharedModel, Supervisor
from edgeclin.manifest import Difference

NO_ENGINE = "none"
_ROLES = {"primary": "the primary engine", "cpu-twin": "the CPU twin"}


@dataclass(frozen=True, slots=True)
class Answering:
    """What answers, as a result says it.

    Attributes:
        engine: backend, precision, version; `none` when no engine does.
        degraded: why it is not the primary engine; empty when it is.
    """

    engine: str
    degraded: str = ""


class Failover:
    """A backend of a bundle's engines by rank.

    Attributes:
        answered: what gave the last answer of `run`.
        off: how far the one that answered first was from the golden outputs.

    Raises:
        SelfTestFailed: the primary engine does not reproduce the bundle's golden outputs here; or
            it does not load, and the CPU twin does not.
        EngineUnavailable, EngineFailed: neither loads.
    """

    def __init__(self, bundle: Bundle, isolation: IsolationConfig, threads: int = 1) -> None:
        chosen, twin = executable(bundle), cpu_twin(bundle, "")
        wanted = [chosen]
        if twin is not None and twin.engine != chosen.engine:
            wanted.append(twin)
        profile = bundle.manifest.profile
        limits = Limits(
            isolation.deadline_s(profile.latency_budget_ms),
            profile.limits.memory_mb,
            isolation.restart_most_s,
        )
        self._note = chosen.note
        self._engines = [one.engine for one in wanted]
        proofs = [proof(bundle, engine) for engine in self._engines]
        self._models: list[SharedModel] = []
        self._supervisors: list[Supervisor] = []
        try:
            for one, prove in zip(wanted, proofs, strict=True):
                self._models.append(SharedModel(one.model))
                launch = partial(EngineProcess, one.engine.backend, self._models[-1], threads)
                name = f"{_ROLES[one.engine.role]} of {bundle.path.name}"
                self._supervisors.append(Supervisor(name, launch, prove, limits))
            first = self._started()
        except BaseException:
            self.close()
            raise
        # As real numbers: each engine quantises with its own scale.
        self.input = TensorSpec(first.input.name, first.input.shape, "float32")
        self.output, self.version = first.output, first.version
        self.off = first.off
        self.answered = self.now

    @property
    def now(self) -> Answering:
        """What would answer the next sample; from any thread."""
        whys: list[str] = []
        for rank, supervisor in enumerate(self._supervisors):
            if supervisor.ready:
                return self._answering(rank, whys)
            whys.append(f"is out: {supervisor.why}")
        return Answering(NO_ENGINE, self._none(whys))

    @property
    def restarts(self) -> int:
        """Of all engines, since the start."""
        return sum(supervisor.restarts for supervisor in self._supervisors)

    @property
    def alarms(self) -> tuple[str, ...]:
        """A sentence for each engine that is out."""
        return tuple(
            f"{_ROLES[engine.role]} is out: {one.why}; restarted {one.restarts} times, "
            + (f"next try in {one.next_s:.0f} s" if one.next_s else "being started now")
            for engine, one in zip(self._engines, self._supervisors, strict=True)
            if not one.ready
        )

    def place(self) -> None:
        """There is none: another engine takes the sample when the first one hangs."""

    def run(self, sample: np.ndarray | None) -> np.ndarray:
        """As `Backend.run`, by the first engine that answers, with finite outputs.

        Raises:
            EngineOut: all were out before.
            EngineFailed: none does.
        """
        assert sample is not None
        whys: list[str] = []
        out_s: list[float] = []
        for rank, supervisor in enumerate(self._supervisors):
            try:
                outputs = supervisor.run(sample)
            except EngineFailed as exc:
                whys.append(f"{'gave no answer' if supervisor.ready else 'is out'}: {exc}")
                if isinstance(exc, EngineOut):
                    out_s.append(exc.out_s)
                continue
            self.answered = self._answering(rank, whys)
            return outputs
        if len(out_s) == len(self._supervisors):
            raise EngineOut(self._none(whys), min(out_s))
        raise EngineFailed(self._none(whys))

    def self_test(self) -> Difference:
        """Prove once more the engine that would answer the next sample.

        Raises:
            SelfTestFailed: it does not reproduce the golden outputs any more, and is out now.
            EngineFailed: none would answer.
        """
        first = self._supervisors[0]
        return next((one for one in self._supervisors if one.ready), first).test()

    def close(self) -> None:
        """End all engines."""
        for supervisor in self._supervisors:
            supervisor.close()
        for model in self._models:
            model.close()

    def _started(self) -> Supervisor:
        """The first engine that started, once all were tried."""
        problem = None
        for supervisor in self._supervisors:
            supervisor.tried.wait()
            problem = supervisor.problem
            if isinstance(problem, SelfTestFailed) and supervisor is self._supervisors[0]:
                raise problem
        for supervisor in self._supervisors:
            if supervisor.version:
                return supervisor
        raise problem or EngineFailed(self.now.degraded)

    def _answering(self, rank: int, whys: Sequence[str]) -> Answering:
        engine, version = self._engines[rank], self._supervisors[rank].version
        why = f"the primary engine {whys[0]}" if whys else self._note
        return Answering(engine.title(version), why)

    def _none(self, whys: Sequence[str]) -> str:
        """Why no engine answers."""
        pairs = zip(self._engines, whys, strict=True)
        return "; ".join(f"{_ROLES[engine.role]} {why}" for engine, why in pairs)
