"""What is fuzzed: each decoder of bytes from the network or a disk, with the errors that it may
raise and examples made by our own encoders."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zstandard

from edgeclin import batches, wire
from edgeclin.cloud.ingest import Ingest
from edgeclin.cloud.store import Store
from edgeclin.config import SyncConfig
from edgeclin.description import load_description
from edgeclin.endpoint.body import JSON, NPY, sample_of
from edgeclin.errors import BadInput, BadMessage
from edgeclin.health import SyncHealth
from edgeclin.keys import envelope_of, load_public_key, load_signer, new_key_pair
from edgeclin.offline_queue import Keyring, OfflineQueue, Row
from edgeclin.offline_queue.damaged import DamagedDatabase
from edgeclin.offline_queue.salvage import salvage
from edgeclin.offline_queue.write_ahead_log import PAGE, WriteAheadLog
from edgeclin.preprocess import Preprocess
from edgeclin.records import Drop, Result, Review, State, Tier
from edgeclin.sources.json_samples import Chunk, parse, to_array
from edgeclin.sync import SyncAgent
from edgeclin.sync.audit import AuditLog, audit_path, examine
from edgeclin.transport import MemoryBroker, Message

ECG = Path(__file__).parent.parent / "examples" / "ecg" / "edge.toml"
TOPICS = wire.Topics("ward", "bed")
ID = "01890000-0000-7000-8000-{:012x}"
DIGEST = "a" * 64
RESULT = Result(
    "b" * 64, "tflite", "p" * 64, "test.npz", 0, 1.5, State.FINAL, "sure", Tier.ROUTINE, "normal",
    0.99, (0.99, 0.01),
)  # fmt: skip
REVIEW = Review(ID.format(1), State.CONFIRMED, "normal", "agreed", 2.5, confidence=0.9)
DROP = Drop(Tier.BULK, 1, 9, 9, 3.5)
MESSAGES: tuple[wire.Document, ...] = (
    wire.PackedBatch("e", ()),
    wire.Receipt("e", ((1, 64), (70, 70))),
    wire.Ask(ID.format(1), "b" * 64, wire.to_array(np.arange(6, dtype=np.float32).reshape(2, 3))),
    wire.Part(DIGEST, 10, 0, b"0123456789"),
    wire.Kept(DIGEST, ((0, 4), (7, 9)), "no room"),
    wire.AskWhole(ID.format(1), DIGEST),
    wire.Opinion(ID.format(1), "b" * 64, "normal", 0.9),
    wire.Status("online", 1.5, "0.1.0", "e", {"routine": 3}, run_age_s=1.0),
    wire.SignedRequest("e30=", wire.REQUEST_TYPE, (wire.Signature("k", "c2ln"),)),
    wire.Request("ward", "bed", "e", 1, "set_budget", {"day_mb": 1.5}),
    wire.Reply(DIGEST, "done", 1, {"left": 10}, lines=3, head=DIGEST),
)


@dataclass(frozen=True)
class Target:
    """One decoder at work.

    Attributes:
        take: gives it bytes; True when it made something of them.
        seeds: bytes of which it does.
        errors: what it documents to raise.
        json: whether all bytes but the first are JSON.
    """

    take: Callable[[bytes], bool]
    seeds: Sequence[bytes]
    errors: tuple[type[Exception], ...] = ()
    json: bool = False


def frame(_: Path) -> Target:
    """Messages under zstd."""

    def take(data: bytes) -> bool:
        return bool(wire.decode(data[1:], _kind(data)))

    return Target(take, _each(MESSAGES, wire.encode), (BadMessage,))


def message(_: Path) -> Target:
    """Messages, and what is within them."""

    def take(data: bytes) -> bool:
        found = wire.from_json(data[1:], _kind(data))
        if isinstance(found, wire.Ask):
            assert wire.to_array(wire.from_array(found.input)).dtype == found.input.dtype
        elif isinstance(found, wire.SignedRequest):
            assert isinstance(found.document, bytes)
        return True

    return Target(take, _each(MESSAGES, msgspec.json.encode), (BadMessage,), json=True)


def sample(_: Path) -> Target:
    """Arrays of the network, as the signals that a model takes."""
    preprocess = Preprocess(load_description(ECG).inputs[0])

    def take(data: bytes) -> bool:
        array = wire.from_array(wire.from_json(data[1:], wire.Ask).input)
        return bool(np.isfinite(preprocess(array)).all())

    signals = np.sin(np.arange(140)), np.arange(140, dtype=np.int16).reshape(140, 1)
    asked = [wire.Ask("r", "m", wire.to_array(signal)) for signal in signals]
    seeds = [b"0" + msgspec.json.encode(one) for one in asked]
    return Target(take, seeds, (BadMessage, BadInput), json=True)


def batch(_: Path) -> Target:
    """Batches as columns: what can be read is the same once it was written again."""

    def take(data: bytes) -> bool:
        found = batches.decode(_packed(data[1:]))
        again = batches.decode(batches.encode(found))
        assert _plain(again) == _plain(found)
        return True

    return Target(take, [b"0" + plain for plain in _batches()], (BadMessage,), json=True)


def topic(_: Path) -> Target:
    """Topics."""

    def take(data: bytes) -> bool:
        text = data.decode(errors="replace")
        topics, rest = wire.parse_topic(text)
        assert text == f"{wire.ROOT}/{topics.site}/{topics.device}/{rest}"
        return True

    names = ["birth", "part", "receipt", "whole", "reply"]
    return Target(take, [getattr(TOPICS, name).encode() for name in names], (BadMessage,))


def device(folder: Path) -> Target:
    """An agent, and what the network brings it."""
    pair = new_key_pair(folder / "keys")
    signer, now = load_signer(pair.private), [100.0]
    queue = OfflineQueue(folder / "queue.sqlite", uptime=lambda: now[0], boot="this")
    broker = MemoryBroker()
    agent = SyncAgent(
        queue,
        broker.transport(),
        TOPICS,
        SyncConfig(),
        command_keys=[load_public_key(pair.public)],
        clock=lambda: 0.0,
        monotonic=lambda: now[0],
        jitter=lambda bound: bound,
    )
    agent.open()
    topics = (TOPICS.receipt, TOPICS.opinion, TOPICS.kept, TOPICS.request)
    asking = msgspec.structs.replace(RESULT, state=State.PROVISIONAL, confidence=0.5)

    def take(data: bytes) -> bool:
        now[0] += 0.2
        if not queue.questions(limit=1):
            queue.put(asking, np.zeros(4, np.float32), deadline_s=1000.0)
        place, payload = data[0] % 5 if data else 0, data[1:]
        if place == 4:
            envelope = envelope_of(payload, wire.REQUEST_TYPE, signer)
            payload = msgspec.json.encode(msgspec.convert(envelope, wire.SignedRequest))
        broker.route(Message(topics[min(place, 3)], _packed(payload)))
        agent.step()
        return True

    epoch, asked = queue.epoch, queue.put(asking, np.zeros(4, np.float32)).id
    said = [
        (0, wire.Receipt(epoch, ((1, 3),))),
        (1, wire.Opinion(asked, "b" * 64, "ectopic", 0.9)),
        (2, MESSAGES[4]),
        (3, MESSAGES[8]),
        *(
            (4, wire.Request("ward", "bed", epoch, number, command, arguments))
            for number, (command, arguments) in enumerate(
                [("status", {}), ("drain", {}), ("send_result", {"seq": 1})], 1
            )
        ),
        (4, wire.Request("ward", "bed", epoch, 9, "set_budget", {"day_mb": 1.0})),
    ]
    return Target(
        take, [bytes([place]) + msgspec.json.encode(one) for place, one in said], json=True
    )


def ingest(folder: Path) -> Target:
    """An ingest worker, and what the network brings it."""
    store = Store(folder / "store", clock=lambda: 0.0)
    worker = Ingest(store, MemoryBroker().transport())
    worker.open()
    topics = (TOPICS.up(Tier.ROUTINE), TOPICS.health, TOPICS.part, "ec/v1/ward")

    def take(data: bytes) -> bool:
        before = worker.refused + worker.failed
        worker.handle(Message(topics[data[0] % 4 if data else 0], _packed(data[1:])))
        assert not worker.failed
        return worker.refused == before

    told = msgspec.structs.replace(MESSAGES[7], state="lost")
    seeds = [b"\0" + plain for plain in _batches()]
    seeds += [b"\1" + msgspec.json.encode(one) for one in (MESSAGES[7], told)]
    return Target(take, [*seeds, b"\2" + msgspec.json.encode(MESSAGES[3])], json=True)


def log(folder: Path) -> Target:
    """Logs of databases."""

    def take(data: bytes) -> bool:
        found = WriteAheadLog(data)
        assert all(0 < at <= len(data) - PAGE for at in found.pages.values())
        list(DamagedDatabase(b"", data).records())
        return bool(found.pages)

    with _filled(folder) as queue:
        whole = Path(f"{queue.path}-wal").read_bytes()
    frames = 24 + PAGE
    return Target(take, [whole[: 32 + count * frames] for count in (10, 20, 34)])


def pages(folder: Path) -> Target:
    """Pages of damaged databases, and what a new queue takes over of them."""
    with _filled(folder) as queue:
        aside = folder / "aside.sqlite"
    whole = queue.path.read_bytes()
    with OfflineQueue(folder / "empty.sqlite") as fresh:
        empty = fresh.path
    template = sqlite3.connect(empty)
    keyring = Keyring([b"k" * 32])

    def take(data: bytes) -> bool:
        aside.write_bytes(data)
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
            template.backup(db)
            found = salvage(aside, db, 1.0, keyring)
        return bool(found.unreadable or found.read or found.positions)

    starts = range(PAGE, len(whole) - PAGE, 3 * PAGE)
    return Target(take, [whole[:PAGE] + whole[at : at + 3 * PAGE] for at in starts])


def audit(folder: Path) -> Target:
    """Lines of the log of commands."""
    queue = OfflineQueue(folder / "queue.sqlite")
    written = AuditLog(queue, lambda: 1.5)
    for number in (1, 2):
        facts = {"key": "k", "number": number, "digest": DIGEST, "command": "drain"}
        written.append("request", **facts, arguments={"seq": 1})
        written.append("outcome", digest=DIGEST, command="drain", outcome="done")
    written.append("refused", reason="unknown", count=3)
    whole = audit_path(queue.path).read_bytes()

    def take(data: bytes) -> bool:
        audit_path(queue.path).write_bytes(data)
        found = examine(queue.path, 3)
        assert found.size == len(data)
        assert found.problems or data == whole
        return True

    return Target(take, [whole, whole.splitlines(keepends=True)[0], whole[:-9]])


def row(_: Path) -> Target:
    """Rows, plain and sealed."""
    keyring, identity = Keyring([b"k" * 32]), ID.format(1)

    def take(data: bytes) -> bool:
        kind: Any = ("result", "review", "drop")[data[0] % 3 if data else 0]
        found = Row.opened(keyring, 1, identity, kind, data[1:])
        record = found.record
        assert found.sound, "what is a record can travel"
        return bool(record)

    plain = [
        bytes([at]) + msgspec.json.encode(one) for at, one in enumerate((RESULT, REVIEW, DROP))
    ]
    sealed = b"\0" + keyring.seal(plain[0][1:], "result", identity)
    return Target(take, [*plain, sealed], (ValueError,), json=True)


def line(_: Path) -> Target:
    """Lines of standard input."""

    def take(data: bytes) -> bool:
        found = parse(data[1:])
        sample = to_array(found.samples) if isinstance(found, Chunk) else found
        return sample.dtype == np.float32

    texts = [b"[0.1,2,-3e5]", b'{"stream":"bed-3","samples":[[1,2],[3,NaN]]}']
    return Target(take, [b"0" + text for text in texts], (BadInput,), json=True)


def body(_: Path) -> Target:
    """Bodies of requests."""

    def take(data: bytes) -> bool:
        sample, _ = sample_of((JSON, NPY)[data[0] % 2 if data else 0], data[1:])
        return isinstance(sample, np.ndarray)

    seeds = [b"\0[0.1,2]"]
    for value in (np.zeros((2, 3), np.float32), np.arange(4, dtype=">i2")):
        file = io.BytesIO()
        np.save(file, value)
        seeds.append(b"\1" + file.getvalue())
    return Target(take, seeds)


def notice(folder: Path) -> Target:
    """What the processes of a device say of themselves."""
    with OfflineQueue(folder / "queue.sqlite") as queue:
        notices = queue.notices
    notices.tell(SyncHealth(made_at=1.5, up_s=2.5, connected=True, held={"bulk": "metered"}))
    file = Path(f"{queue.path}.sync.health")

    def take(data: bytes) -> bool:
        file.write_bytes(data[1:])
        return notices.told(SyncHealth) is not None

    return Target(take, [b"0" + file.read_bytes()], json=True)


TARGETS: dict[str, Callable[[Path], Target]] = {
    make.__name__: make
    for make in (
        frame, message, sample, batch, topic, device, ingest, log, pages, audit, row, line, body,
        notice,
    )
}  # fmt: skip
"""By name; each is made in an empty folder of its own."""


def _kind(data: bytes) -> type[Any]:
    return type(MESSAGES[data[0] % len(MESSAGES) if data else 0])


def _each(messages: Sequence[wire.Document], encode: Callable[[Any], bytes]) -> list[bytes]:
    return [bytes([at]) + encode(one) for at, one in enumerate(messages)]


def _packed(plain: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(plain)


def _plain(batch: batches.Batch) -> list[str]:
    """Its rows; those of one number stand in no order."""
    return sorted(
        repr((one.seq, one.id, one.kind, msgspec.json.decode(bytes(one.body))))
        for one in batch.items
    )


def _batches() -> list[bytes]:
    """The JSON of some batches."""
    results = [
        msgspec.structs.replace(
            RESULT, position=at, made_at=at / 8, label=("normal", "ectopic")[at % 2]
        )
        for at in range(4)
    ]
    odd: tuple[object, ...] = ({"a/b": 1}, [1, 2], {"deep": {"er": [1.5, None]}}, 2.0)
    items = [
        *(("result", one) for one in (*results, *odd)), ("review", REVIEW), ("drop", DROP),
    ]  # fmt: skip
    rows = [
        batches.Item(at, ID.format(at), kind, msgspec.Raw(msgspec.json.encode(one)))
        for at, (kind, one) in enumerate(items, 1)
    ]
    named = msgspec.structs.replace(rows[0], id="by-hand")
    some = (tuple(rows[:4]), tuple(rows), (*rows[8:], named))
    return [
        zstandard.ZstdDecompressor().decompress(batches.encode(batches.Batch("e", each)))
        for each in some
    ]


def _filled(folder: Path) -> OfflineQueue:
    """A queue with something in each of its tables."""
    queue = OfflineQueue(folder / "queue.sqlite", uptime=lambda: 1.0, boot="this")
    for at in range(40):
        state = State.PROVISIONAL if at % 4 == 0 else State.FINAL
        result = msgspec.structs.replace(
            RESULT, position=at, tier=tuple(Tier)[at % 3], state=state, reason="x" * (at % 7) * 900
        )
        identity = queue.put(result, np.zeros(9) if at % 4 == 0 else None).id
        if at % 8 == 0:
            queue.settle(wire.Opinion(identity, "b" * 64, "ectopic", 0.9))
    queue.set_aside(3, "too large")
    return queue
