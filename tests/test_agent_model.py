"""The agent against a model of what it owes: whatever broker and cloud do, each result that was put
waits or is stored, none is stored twice, and once all is well everything is."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgeclin import batches, wire
from edgeclin.config import SyncConfig
from edgeclin.offline_queue import OfflineQueue
from edgeclin.records import Result, State, Tier
from edgeclin.sync import SyncAgent
from edgeclin.transport import MemoryBroker, Message

TOPICS = wire.Topics("ward", "bed")
SETTINGS = SyncConfig(
    batch_results=4, batch_bytes=50_000, window_batches=3, receipt_timeout_s=5, receipt_most_s=40
)
SAMPLES = {"small": bytes(9), "large": np.random.default_rng(1).bytes(150_000)}
CODES = (0x80, 0x87, 0x97, 0x95, 0x99)
"""Reason codes of MQTT 5: unspecified, not authorised, quota, packet too large, payload invalid."""


class Cloud:
    """What broker and cloud have: `heard` was not stored yet."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.transport = broker.transport()
        self.heard: list[batches.Batch] = []
        self.asked: list[str] = []
        self.stored: set[str] = set()
        self.parts: dict[str, list[tuple[int, int]]] = {}
        self.transport.open(("ec/v1/+/+/up/+", "ec/v1/+/+/ask/+"), self._hear)
        self.prompt = False

    def _hear(self, message: Message) -> None:
        if "/up/" in message.topic:
            self.heard.append(batches.decode(message.payload))
        elif message.topic == TOPICS.ask:
            self.asked.append(wire.decode(message.payload, wire.Ask).result)
        elif message.topic == TOPICS.whole:
            self.asked.append(wire.decode(message.payload, wire.AskWhole).result)
        elif message.topic == TOPICS.part:
            part = wire.decode(message.payload, wire.Part)
            own = self.parts.setdefault(part.whole, [])
            own.append((part.at, part.at + len(part.data) - 1))
            self._say(TOPICS.kept, wire.Kept(part.whole, wire.joined(own)))
        if self.prompt:
            while self.heard:
                self.store(0)
            while self.asked:
                self.judge(self.asked[0], "normal")

    def store(self, at: int) -> None:
        """Store a batch, and say so; it may have come before."""
        batch = self.heard.pop(at % len(self.heard))
        self.stored |= {item.id for item in batch.items}
        self.receipt(batch.epoch, wire.ranges(item.seq for item in batch.items))

    def receipt(self, epoch: str, ranges: tuple[tuple[int, int], ...]) -> None:
        self._say(TOPICS.receipt, wire.Receipt(epoch=epoch, ranges=ranges))

    def judge(self, result: str, label: str | None) -> None:
        self.asked = [one for one in self.asked if one != result]
        self._say(TOPICS.opinion, wire.Opinion(result, "m", label, 0.9))

    def _say(self, topic: str, message: wire.Receipt | wire.Kept | wire.Opinion) -> None:
        self.transport.publish(Message(topic, wire.encode(message)))


class AgentMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.now, self.position = 100.0, 0
        self.broker = MemoryBroker()
        self.cloud = Cloud(self.broker)
        self.queue = OfflineQueue(self.folder / "q", uptime=lambda: self.now, boot="this")
        self.put_ids: dict[str, Tier] = {}
        self.start()

    def start(self) -> None:
        self.transport = self.broker.transport()
        self.agent = SyncAgent(
            self.queue,
            self.transport,
            TOPICS,
            SETTINGS,
            monotonic=lambda: self.now,
            jitter=lambda bound: bound,
        )
        self.agent.open()

    @rule(tier=st.sampled_from(list(Tier)), count=st.integers(1, 9))
    def put(self, tier: Tier, count: int) -> None:
        for _ in range(count):
            self._put(tier, State.FINAL, None)

    @rule(sample=st.sampled_from(list(SAMPLES)), deadline_s=st.sampled_from([3.0, 60.0, 900.0]))
    def put_in_doubt(self, sample: str, deadline_s: float) -> None:
        values = np.frombuffer(SAMPLES[sample], np.uint8)
        self._put(Tier.ROUTINE, State.PROVISIONAL, values, deadline_s)

    def _put(
        self, tier: Tier, state: State, sample: np.ndarray | None, deadline_s: float = 60.0
    ) -> None:
        result = Result(
            bundle="b" * 64, engine="fake", preprocessing="p" * 64, source="model",
            position=self.position, made_at=1e9, state=state, reason="r", tier=tier,
            label="normal", confidence=0.5,
        )  # fmt: skip
        self.position += 1
        self.put_ids[self.queue.put(result, sample, deadline_s).id] = tier

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 6.0, 50.0]), times=st.integers(1, 4))
    def step(self, seconds: float, times: int) -> None:
        for _ in range(times):
            self.now += seconds
            self.agent.step()

    @precondition(lambda self: self.cloud.heard)
    @rule(at=st.integers(0, 99))
    def store(self, at: int) -> None:
        self.cloud.store(at)

    @precondition(lambda self: self.cloud.heard)
    @rule(at=st.integers(0, 99))
    def lose(self, at: int) -> None:
        self.cloud.heard.pop(at % len(self.cloud.heard))

    @rule(seq=st.integers(0, 2**62))
    def receipt_what_nobody_put(self, seq: int) -> None:
        self.cloud.receipt(self.queue.epoch, ((self.queue.last_seq() + 1 + seq, 2**62 + seq),))
        self.cloud.receipt("another", ((0, 2**40),))

    @precondition(lambda self: self.cloud.asked)
    @rule(at=st.integers(0, 99), label=st.sampled_from(["normal", "ectopic", None]))
    def judge(self, at: int, label: str | None) -> None:
        self.cloud.judge(self.cloud.asked[at % len(self.cloud.asked)], label)

    @rule()
    def judge_what_nobody_asked(self) -> None:
        self.cloud.judge("nobody", "normal")

    @rule()
    def cut(self) -> None:
        self.transport.cut()

    @rule()
    def mend(self) -> None:
        if not self.transport.connected:
            self.transport.mend()

    @rule(code=st.sampled_from(CODES), topic=st.sampled_from(["up/urgent", "up/routine", "ask/"]))
    def refuse(self, code: int, topic: str) -> None:
        self.transport.refuses = lambda message: code if topic in message.topic else 0

    @rule(topic=st.sampled_from(["up/bulk", "up/routine", "ask/part", "ask/opinion"]))
    def end_for(self, topic: str) -> None:
        self.transport.ends = lambda message: topic in message.topic

    @rule()
    def take_all(self) -> None:
        self._be_well()

    @rule()
    def restart(self) -> None:
        self.transport.cut()
        self.start()

    @invariant()
    def what_was_put_waits_or_is_stored(self) -> None:
        if not hasattr(self, "queue"):
            return
        missing = self.put_ids.keys() - self.cloud.stored - self._waiting()
        assert not missing

    def _waiting(self) -> set[str]:
        rows = self.queue._database.all("SELECT id FROM rows")
        return {str(identity) for (identity,) in rows}

    def _be_well(self) -> None:
        self.transport.refuses = lambda message: 0
        self.transport.ends = lambda message: False
        if not self.transport.connected:
            self.transport.mend()

    def _step_until_idle(self) -> None:
        for _ in range(400):  # an hour has passed, so that what was set aside was tried again
            self.now += 20.0
            self.agent.step()
            if self.agent.idle and not self.queue._database.all("SELECT 1 FROM set_aside"):
                return

    def teardown(self) -> None:
        if not hasattr(self, "queue"):
            return
        self._be_well()
        self.cloud.prompt = True
        self.cloud.heard.clear()
        self._step_until_idle()
        self._put(Tier.URGENT, State.FINAL, None)
        self._step_until_idle()
        assert self.put_ids.keys() <= self.cloud.stored
        assert self.agent.idle, (self.queue.usage(), self.agent.health())
        assert not self.queue._database.all("SELECT 1 FROM set_aside")
        self.queue.close()
        shutil.rmtree(self.folder)


AgentMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAgent = AgentMachine.TestCase
