"""Commands: what a trusted key signed for this device, once, and written down before it is done."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from broker import LocalBroker, find_mosquitto
from click.testing import CliRunner
from click.testing import Result as Done
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polling import wait_until

from edgeclin import batches, wire
from edgeclin.cli import main
from edgeclin.cloud.commanding import Commanding
from edgeclin.config import SyncConfig
from edgeclin.errors import NoAnswer, NotConnected
from edgeclin.keys import (
    PAYLOAD_TYPE,
    KeyPair,
    envelope_of,
    load_public_key,
    load_signer,
    new_key_pair,
)
from edgeclin.offline_queue import Keyring, OfflineQueue
from edgeclin.records import Result, Tier
from edgeclin.sync import SyncAgent
from edgeclin.sync.audit import Examination, audit_path, examine
from edgeclin.transport import MemoryBroker, Message

Make = Callable[..., Result]
TOPICS = wire.Topics("ward", "bed")
SETTINGS = SyncConfig(batch_results=8, window_batches=3, receipt_timeout_s=5, receipt_most_s=40)
QUICK = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Device:
    """An agent that takes commands, and one who gives them."""

    def __init__(self, folder: Path, pair: KeyPair) -> None:
        self.now = 100.0
        self.signer = load_signer(pair.private)
        self.keys = [load_public_key(pair.public)]
        self.queue = OfflineQueue(folder / "queue.sqlite", uptime=lambda: self.now, boot="this")
        self.replies: list[wire.Reply] = []
        self.sent: list[int] = []
        self.boot()

    def boot(self) -> None:
        """Start an agent, with a clock that begins in 1970."""
        self.broker = MemoryBroker()
        self.transport = self.broker.transport()
        self.agent = SyncAgent(
            self.queue,
            self.transport,
            TOPICS,
            SETTINGS,
            command_keys=self.keys,
            clock=lambda: 0.0,
            monotonic=lambda: self.now,
            jitter=lambda bound: bound,
        )
        self.cloud = self.broker.transport()
        self.cloud.open((TOPICS.reply, "ec/v1/+/+/up/+"), self._hear)
        self.agent.open()

    def _hear(self, message: Message) -> None:
        if message.topic == TOPICS.reply:
            self.replies.append(wire.decode(message.payload, wire.Reply))
        else:
            batch = batches.decode(message.payload)
            self.sent += [item.seq for item in batch.items]

    def request(self, number: int, command: str = "status", **changes: Any) -> wire.Request:
        request = wire.Request(
            site="ward", device="bed", epoch=self.queue.epoch, number=number, command=command
        )
        return msgspec.structs.replace(request, **changes)

    def signed(self, document: bytes, kind: str = wire.REQUEST_TYPE, signer: Any = None) -> bytes:
        envelope = envelope_of(document, kind, signer or self.signer)
        return wire.encode(msgspec.convert(envelope, wire.SignedRequest))

    def say(self, payload: bytes) -> wire.Reply | None:
        """What a request is answered with at once."""
        before = len(self.replies)
        self.cloud.publish(Message(TOPICS.request, payload))
        self.agent.step()
        return self.replies[before] if len(self.replies) > before else None

    def command(self, number: int, command: str = "status", **changes: Any) -> wire.Reply:
        document = msgspec.json.encode(self.request(number, command, **changes))
        reply = self.say(self.signed(document))
        assert reply is not None
        return reply

    def log(self) -> Examination:
        return examine(self.queue.path, 10_000)

    def told(self) -> list[tuple[str, str]]:
        """What the lines of the log say, with the outcome or the reason."""
        entries = [entry for _, entry in self.log().newest]
        return [(one.what, one.outcome or one.reason) for one in entries if one is not None]


@pytest.fixture
def device(tmp_path: Path, key_pair: KeyPair) -> Iterator[Device]:
    made = Device(tmp_path, key_pair)
    yield made
    made.queue.close()


def test_status_tells_what_waits_and_how_the_link_is(device: Device, make_result: Make) -> None:
    for position in range(3):
        device.queue.put(make_result(position))
    device.queue.set_aside(2, "too large")
    reply = device.command(1)
    assert (reply.outcome, reply.number, reply.reason) == ("done", 1, "")
    facts = reply.facts
    assert facts["epoch"] == device.queue.epoch
    assert facts["waiting"]["routine"]["count"] == 3
    assert (facts["set_aside"], facts["last_seq"]) == (1, 3)
    assert facts["sync"]["connected"] is True
    assert "routine" in facts["oldest_s"]
    assert (reply.lines, reply.head) == (2, device.log().head)
    assert device.told() == [("request", ""), ("outcome", "done")]


def test_a_device_that_trusts_no_key_does_not_even_listen(tmp_path: Path) -> None:
    with OfflineQueue(tmp_path / "queue.sqlite") as queue:
        transport = MemoryBroker().transport()
        agent = SyncAgent(queue, transport, TOPICS, SETTINGS)
        agent.open()
        assert transport.filters == (TOPICS.receipt, TOPICS.opinion, TOPICS.kept)
        agent._receive(Message(TOPICS.request, b"x"))
        agent.step()
    assert not audit_path(queue.path).exists()


def test_a_command_is_written_down_before_it_is_done(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[tuple[str, str]]] = []
    monkeypatch.setattr(device.agent, "drain", lambda: seen.append(device.told()) or 0)
    device.command(5, "drain")
    assert seen == [[("request", "")]]
    (_, entry), _ = device.log().newest
    assert entry is not None
    assert (entry.number, entry.command, entry.key) == (5, "drain", device.keys[0].keyid)


def test_what_came_before_is_refused_also_after_a_restart(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    monkeypatch.setattr(SyncAgent, "drain", lambda _: done.append(1) or 0)
    payload = device.signed(msgspec.json.encode(device.request(7, "drain")))
    for restart in (False, False, True):
        if restart:
            device.boot()
        reply = device.say(payload)
        assert reply is not None
    assert (reply.outcome, done) == ("refused", [1])
    assert "its number 7 is not above 7" in reply.reason
    assert device.command(6, "drain").outcome == "refused"
    assert device.command(8, "drain").outcome == "done"


def test_what_came_before_is_refused_also_when_the_log_or_the_queue_is_lost(
    device: Device,
) -> None:
    payload = device.signed(msgspec.json.encode(device.request(7, "drain")))
    assert device.say(payload) is not None
    audit_path(device.queue.path).unlink()
    reply = device.say(payload)
    assert reply is not None
    assert "its number 7 is not above 7" in reply.reason
    assert device.told()[0][0] == "missing"
    device.queue.close()
    for file in device.queue.path.parent.glob("queue.sqlite*"):
        if file.is_file():
            file.unlink()
    device.queue = OfflineQueue(device.queue.path)
    device.boot()
    reply = device.say(payload)
    assert reply is not None
    assert (reply.outcome, reply.number) == ("refused", 0)
    assert "another life of the queue" in reply.reason


def test_each_key_counts_for_itself(device: Device, tmp_path: Path) -> None:
    pair = new_key_pair(tmp_path / "second")
    device.keys.append(load_public_key(pair.public))
    assert device.command(1000).outcome == "done"
    other = device.signed(msgspec.json.encode(device.request(3)), signer=load_signer(pair.private))
    reply = device.say(other)
    assert reply is not None
    assert reply.outcome == "done"


def spoilt(signed: bytes) -> bytes:
    """The same with one bit of what is signed changed."""
    request = wire.decode(signed, wire.SignedRequest)
    document = request.document.replace(b'"number":9', b'"number":8')
    payload = base64.b64encode(document).decode()
    return wire.encode(msgspec.structs.replace(request, payload=payload))


def test_what_no_trusted_key_signed_for_this_device_is_refused(
    device: Device, tmp_path: Path
) -> None:
    stranger = load_signer(new_key_pair(tmp_path / "stranger").private)
    good = msgspec.json.encode(device.request(9))
    refused = {
        "no valid signature": [
            device.signed(good, signer=stranger),
            spoilt(device.signed(good)),
            wire.encode(
                msgspec.structs.replace(
                    wire.decode(device.signed(good), wire.SignedRequest), signatures=()
                )
            ),
        ],
        "signed as something else": [device.signed(good, kind=PAYLOAD_TYPE)],
        "for another device": [
            device.signed(msgspec.json.encode(device.request(9, device="bed-2"))),
            device.signed(msgspec.json.encode(device.request(9, site="ward-2"))),
        ],
        "another life of the queue": [
            device.signed(msgspec.json.encode(device.request(9, epoch="e")))
        ],
        "not a Request": [device.signed(b"{}"), device.signed(b"no JSON")],
        "would unpack to": [wire.encode(wire.SignedRequest("A" * 20_000, wire.REQUEST_TYPE, ()))],
        "a Request of schema 2": [device.signed(msgspec.json.encode(device.request(9, schema=2)))],
    }
    for reason, payloads in refused.items():
        for payload in payloads:
            reply = device.say(payload)
            assert reason in device.told()[-1][1]
            if reply is None:
                assert reason == "would unpack to", "what is no envelope has no digest to answer"
                continue
            assert (reply.outcome, reply.number) == ("refused", 0)
            assert reason in reply.reason
    assert {what for what, _ in device.told()} == {"refused"}
    assert device.command(9).outcome == "done", "none of these counted"


def test_a_manifest_s_envelope_with_a_request_s_type_does_not_verify(device: Device) -> None:
    """The type is signed too."""
    envelope = envelope_of(msgspec.json.encode(device.request(1)), PAYLOAD_TYPE, device.signer)
    signed = msgspec.convert(envelope | {"payloadType": wire.REQUEST_TYPE}, wire.SignedRequest)
    reply = device.say(wire.encode(signed))
    assert reply is not None
    assert "no valid signature" in reply.reason


def test_an_unknown_command_is_refused_with_those_that_are_known_and_counts(
    device: Device,
) -> None:
    reply = device.command(1, "set clock", arguments={"bytes": 1})
    assert (reply.outcome, reply.number) == ("refused", 1)
    assert reply.reason == "unknown command; this one knows status, drain, send result, set budget"
    assert "not above 1" in device.command(1).reason
    for arguments in ({}, {"seq": "1"}, {"seq": 0}, {"seq": 1, "more": 2}):
        reply = device.command(device.replies[-1].number + 2 or 2, "send result",
                               arguments=arguments)  # fmt: skip
        assert "its arguments do not fit" in reply.reason
    assert all(what == "refused" for what, _ in device.told())


def fail(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_on_a_full_disk_nothing_is_done(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    monkeypatch.setattr(device.agent, "drain", lambda: done.append(1) or 0)
    device.command(1)
    before = audit_path(device.queue.path).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        reply = device.command(2, "drain")
    assert (reply.outcome, done) == ("refused", [])
    assert "nothing was done, for it cannot be written down" in reply.reason
    assert "No space left on device" in reply.reason
    assert audit_path(device.queue.path).read_bytes() == before
    assert device.command(2, "drain").outcome == "refused", "not later, when nobody expects it"
    assert (device.command(3, "drain").outcome, done) == ("done", [1])


def test_without_a_log_nothing_is_done_until_there_is_one(device: Device) -> None:
    path = audit_path(device.queue.path)
    path.mkdir()
    for number in (1, 2):
        reply = device.command(number)
        assert reply.outcome == "refused"
        assert "audit.jsonl: a folder, expected a file" in reply.reason
    path.rmdir()
    assert device.command(3).outcome == "refused", "it is not read at each request"
    device.now += 5
    assert device.command(1).outcome == "done", "for none of these counted"


def test_what_could_not_be_written_of_the_outcome_is_told_as_unknown(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(device.agent, "drain", lambda: patch.setattr(os, "fsync", fail) or 0)
        assert device.command(1, "drain").outcome == "done"
    device.command(2)
    assert device.told()[:2] == [("request", ""), ("outcome", "unknown")]


def test_a_kill_between_request_and_outcome_is_told_and_the_request_is_not_done_again(
    tmp_path: Path, key_pair: KeyPair
) -> None:
    device = Device(tmp_path, key_pair)
    payload = device.signed(msgspec.json.encode(device.request(3, "drain")))
    device.queue.close()
    (tmp_path / "request").write_bytes(payload)
    child = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "command_child.py"), str(tmp_path),
         str(key_pair.public), str(tmp_path / "request")],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == b"begun\n"
    child.kill()
    child.communicate()
    device.queue = OfflineQueue(tmp_path / "queue.sqlite")
    device.boot()
    assert device.told() == [("request", ""), ("outcome", "unknown")]
    reply = device.say(payload)
    assert reply is not None
    assert reply.outcome == "refused"
    assert device.log().problems == []
    device.queue.close()


def test_a_flood_of_rubbish_fills_no_disk_and_keeps_no_command_out(device: Device) -> None:
    forged = spoilt(device.signed(msgspec.json.encode(device.request(9))))
    for number in range(2000):
        device.cloud.publish(Message(TOPICS.request, forged if number % 2 else b"rubbish"))
        if number % 10 == 9:
            device.agent.step()
    for _ in range(20):
        device.agent.step()
    assert device.log().lines == 20
    assert len(device.replies) <= 20
    assert device.command(9).outcome == "done"
    told = sum(entry.count for _, entry in device.log().newest if entry is not None)
    untold = device.replies[-1].facts["refusals_not_written"]
    assert told + untold == 1980
    device.now += 3600
    device.say(b"rubbish")
    last = device.log().newest[-1][1]
    assert last is not None
    assert (last.what, last.count) == ("refused", untold)


def test_a_step_answers_one_request_so_that_deliveries_go_on(
    device: Device, make_result: Make
) -> None:
    for number in range(1, 6):
        payload = device.signed(msgspec.json.encode(device.request(number)))
        device.cloud.publish(Message(TOPICS.request, payload))
    device.queue.put(make_result())
    device.agent.step()
    assert (len(device.replies), device.log().lines, device.sent) == (1, 2, [1])


def test_an_answer_that_is_too_long_for_the_broker_says_so(device: Device) -> None:
    device.transport.most_bytes = 700
    reply = device.command(1)
    assert (reply.outcome, reply.facts) == ("done", {})
    assert reply.reason == "the broker takes no answer of this length"


def test_send_result_sends_that_row_before_an_urgent_backlog(
    device: Device, make_result: Make
) -> None:
    device.queue.put(make_result(0, tier=Tier.BULK))
    for position in range(1, 100):
        device.queue.put(make_result(position, tier=Tier.URGENT))
    device.queue.set_aside(1, "no receipt 3 times")
    reply = device.command(1, "send result", arguments={"seq": 1})
    assert (reply.outcome, reply.facts) == ("done", {"tier": "bulk"})
    assert device.sent[:3] == [1, 2, 3]


def test_what_went_first_does_not_go_once_more_with_others(
    device: Device, make_result: Make
) -> None:
    for position in range(6):
        device.queue.put(make_result(position))
    device.command(1, "send result", arguments={"seq": 4})
    device.agent.step()
    assert device.sent == [4, 1, 2, 3, 5, 6]


def test_send_result_waits_for_room_and_then_goes_first(device: Device, make_result: Make) -> None:
    for position in range(100):
        device.queue.put(make_result(position, tier=Tier.URGENT))
    device.agent.step()
    on_their_way = list(device.sent)
    assert on_their_way == list(range(1, 25)), "three batches of eight"
    device.command(1, "send result", arguments={"seq": 100})
    assert device.sent == on_their_way
    receipt = wire.Receipt(epoch=device.queue.epoch, ranges=((1, 8),))
    device.cloud.publish(Message(TOPICS.receipt, wire.encode(receipt)))
    device.agent.step()
    assert device.sent[24] == 100


def test_send_result_goes_first_again_over_another_connection(
    device: Device, make_result: Make
) -> None:
    for position in range(100):
        device.queue.put(make_result(position, tier=Tier.URGENT))
    device.command(1, "send result", arguments={"seq": 100})
    device.transport.cut()
    device.agent.step()
    device.transport.mend()
    before = len(device.sent)
    device.agent.step()
    assert device.sent[before] == 100
    receipt = wire.Receipt(epoch=device.queue.epoch, ranges=((100, 100),))
    for _ in range(2):
        device.cloud.publish(Message(TOPICS.receipt, wire.encode(receipt)))
        device.agent.step()
    assert device.agent.delivered == 1
    device.transport.renew()
    before = len(device.sent)
    device.agent.step()
    assert device.sent[before] == 1


def test_a_row_that_went_first_and_is_refused_is_sent_again_as_any_other(
    device: Device, make_result: Make
) -> None:
    device.queue.put(make_result())
    device.transport.refuses = lambda message: 0x95 if "/up/" in message.topic else 0
    device.command(1, "send result", arguments={"seq": 1})
    device.agent.step()
    assert device.queue.standing().set_aside == 1
    device.transport.refuses = lambda _: 0
    device.command(2, "drain")
    assert device.sent == [1]
    device.now += 6
    device.agent.step()
    device.agent.step()
    assert device.sent == [1, 1], "as long as no receipt comes"


def test_send_result_of_a_row_that_does_not_wait_says_why(
    device: Device, make_result: Make
) -> None:
    device.queue.put(make_result())
    device.queue.remove(wire.Receipt(epoch=device.queue.epoch, ranges=((1, 1),)))
    gone = device.command(1, "send result", arguments={"seq": 1})
    assert (gone.outcome, gone.reason) == (
        "failed", "row 1 waits no more: it was delivered or given up",
    )  # fmt: skip
    never = device.command(2, "send result", arguments={"seq": 2})
    assert never.reason == "there never was a row 2; the newest is 1"
    assert device.told()[1] == ("outcome", "failed")


def test_send_result_of_a_row_that_cannot_be_opened_says_so_and_leaves_it(
    device: Device, make_result: Make, tmp_path: Path
) -> None:
    with OfflineQueue(tmp_path / "queue.sqlite", keyring=Keyring([bytes(32)])) as other:
        other.put(make_result())
    reply = device.command(1, "send result", arguments={"seq": 1})
    assert (reply.outcome, device.sent) == ("failed", [])
    assert "which is not there; put it back in queue.key" in reply.reason
    standing = device.queue.standing()
    assert (standing.absent, standing.set_aside) == (1, 0)


def test_set_budget_bounds_what_is_sent_and_refuses_what_is_none(
    device: Device, make_result: Make
) -> None:
    reply = device.command(1, "set budget", arguments={"day_mb": 0.002})
    assert (reply.outcome, reply.facts) == ("done", {"left": 2000.0})
    for position in range(20):
        device.queue.put(make_result(position, reason=os.urandom(300).hex()))
    for _ in range(10):
        device.agent.step()
    assert 0 < len(set(device.sent)) <= 8, "one batch"
    assert "routine" in device.agent.health().held
    refused = device.command(2, "set budget", arguments={"day_mb": -1})
    assert refused.outcome == "refused"
    assert device.command(3, "set budget", arguments={"day_mb": None}).facts == {"left": None}
    for _ in range(10):
        device.agent.step()
    assert len(set(device.sent)) > 8


def test_drain_tries_at_once_what_was_refused_and_set_aside(
    device: Device, make_result: Make
) -> None:
    for position in range(4):
        device.queue.put(make_result(position))
    device.queue.set_aside(2, "too large")
    device.transport.refuses = lambda message: 0x97 if "/up/" in message.topic else 0
    device.agent.step()
    device.agent.step()
    device.transport.refuses = lambda _: 0
    device.agent.step()
    assert device.sent == []
    assert device.command(1, "drain").facts == {"taken_back": 1}
    assert sorted(set(device.sent)) == [1, 2, 3, 4]


@QUICK
@given(payload=st.binary(max_size=64) | st.binary(max_size=64).map(lambda b: wire.encode(b)))  # type: ignore[arg-type]
def test_no_bytes_break_the_agent(device: Device, payload: bytes) -> None:
    device.say(payload)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
signatures = st.lists(
    st.fixed_dictionaries({"keyid": st.text(max_size=8), "sig": st.text(max_size=8)}), max_size=3
)


@QUICK
@given(data=st.data())
def test_no_envelope_and_no_document_breaks_the_agent(device: Device, data: st.DataObject) -> None:
    document = json.dumps(data.draw(anything)).encode()
    keyid = device.keys[0].keyid
    envelope = {
        "payload": data.draw(st.just(base64.b64encode(document).decode()) | st.text(max_size=8)),
        "payloadType": wire.REQUEST_TYPE,
        "signatures": [
            {**one, "keyid": keyid} if data.draw(st.booleans()) else one
            for one in data.draw(signatures)
        ],
        "schema": 1,
    }
    device.say(wire.encode(envelope))  # type: ignore[arg-type]
    device.say(device.signed(document))
    request = msgspec.to_builtins(device.request(1))
    key = data.draw(st.sampled_from(sorted(request)))
    device.say(device.signed(json.dumps(request | {key: data.draw(anything)}).encode()))


# -- the cloud's side


def test_the_documented_request_is_what_is_sent_and_only_to_a_device_that_is_there(
    device: Device,
) -> None:
    heard: list[Message] = []
    device.broker.transport().open((TOPICS.request,), heard.append)
    device.agent.step()
    cloud = device.broker.transport()
    commanding = Commanding(cloud, TOPICS, device.signer, clock=lambda: 12.5)
    with pytest.raises(NoAnswer, match=r"ward/bed did not answer in time.*not get later"):
        commanding.command("status", {}, 0.3)
    (message,) = heard
    assert message.expiry_s == 1
    request = wire.from_json(
        wire.decode(message.payload, wire.SignedRequest).document, wire.Request
    )
    assert request == device.request(12_500, made_at=12.5)
    device.agent.close()
    with pytest.raises(NoAnswer, match="ward/bed is offline: nothing was sent"):
        Commanding(cloud, TOPICS, device.signer).command("status", {}, 0.3)
    with pytest.raises(NoAnswer, match="ward/bad is not known to this broker"):
        Commanding(cloud, wire.Topics("ward", "bad"), device.signer).command("status", {}, 0.3)
    assert len(heard) == 1


def test_a_reply_to_another_is_not_taken_for_one_s_own(device: Device) -> None:
    device.agent.step()

    def answer(message: Message) -> None:
        document = wire.decode(message.payload, wire.SignedRequest).document
        for asked in (b"another", document):
            digest = hashlib.sha256(asked).hexdigest()
            reply = wire.Reply(digest, "done" if asked is document else "failed")
            device.cloud.publish(Message(TOPICS.reply, wire.encode(reply)))

    device.broker.transport().open((TOPICS.request,), answer)
    cloud = device.broker.transport()
    assert Commanding(cloud, TOPICS, device.signer).command("status", {}, 5).outcome == "done"


def test_a_request_that_the_broker_refuses_is_told_at_once(device: Device) -> None:
    device.agent.step()
    cloud = device.broker.transport()
    cloud.refuses = lambda _: 0x87
    with pytest.raises(NotConnected, match="the broker does not take a command: refused by 0x87"):
        Commanding(cloud, TOPICS, device.signer).command("status", {}, 30.0)


class Bedside:
    """`edgeclin sync` on a real broker, and `edgeclin cloud command`."""

    def __init__(self, folder: Path, keys: list[Path], port: int) -> None:
        self.folder, self.port = folder, port
        self.config = folder / "device.toml"
        named = ", ".join(f'"{key}"' for key in keys)
        self.config.write_text(
            f'schema = 1\nsite = "ward"\ndevice = "bed"\n[queue]\npath = "{folder / "q.sqlite"}"\n'
            f"[broker]\nport = {port}\nreconnect_most_s = 0.5\n[sync]\ncommand_keys = [{named}]\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "sync.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgeclin", "-v", "sync", "--config", str(self.config)],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
            self.process = None

    def command(self, *words: str, key: Path, timeout: float = 20) -> Done:
        return CliRunner().invoke(
            main,
            ["cloud", "command", "ward/bed", *words, "--signing-key", str(key), "--broker",
             f"127.0.0.1:{self.port}", "--timeout", str(timeout), "--json"],
        )  # fmt: skip


@pytest.fixture
def bedside(tmp_path: Path, key_pair: KeyPair) -> Iterator[Bedside]:
    broker = LocalBroker(tmp_path, "mosquitto").start()
    made = Bedside(tmp_path, [key_pair.public], broker.port)
    yield made
    made.stop()
    broker.stop()


@pytest.mark.mosquitto
@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
def test_a_real_device_answers_its_operator_and_nobody_else(
    bedside: Bedside, key_pair: KeyPair, make_result: Make, tmp_path: Path
) -> None:
    with OfflineQueue(tmp_path / "q.sqlite") as queue:
        for position in range(3):
            queue.put(make_result(position))
    bedside.start()
    told = bedside.command("status", key=key_pair.private)
    assert told.exit_code == 0, told.output
    reply = json.loads(told.stdout)
    assert reply["facts"]["waiting"]["routine"]["count"] == 3
    assert bedside.command("send", "result", "2", key=key_pair.private).exit_code == 0
    gone = bedside.command("send", "result", "9", key=key_pair.private)
    assert (gone.exit_code, json.loads(gone.stdout)["outcome"]) == (1, "failed")
    assert gone.stderr == (
        "edgeclin: ward/bed could not do it: there never was a row 9; the newest is 3\n"
    )
    stranger = new_key_pair(tmp_path / "stranger")
    refused = bedside.command("drain", key=stranger.private)
    assert refused.exit_code == 1
    assert refused.stderr == (
        "edgeclin: ward/bed refused it: no valid signature by a trusted key\n"
    )
    found = examine(tmp_path / "q.sqlite", 10)
    assert (found.lines, found.problems) == (7, [])
    assert json.loads(refused.stdout)["head"] == found.head
    bedside.stop()
    away = bedside.command("status", key=key_pair.private, timeout=1)
    assert away.exit_code == 4
    assert "ward/bed is offline: nothing was sent" in away.stderr
    assert "/" not in away.stdout
    bedside.start()
    again = bedside.command("drain", key=key_pair.private)
    assert again.exit_code == 0, again.output
    wait_until(lambda: examine(tmp_path / "q.sqlite", 0).lines == 9, "both lines")


def test_a_key_file_that_is_none_ends_sync_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "ops.pub").write_text("no key")
    bedside = Bedside(tmp_path, [tmp_path / "ops.pub"], 1)
    done = CliRunner().invoke(main, ["sync", "--config", str(bedside.config)])
    assert done.exit_code == 1
    assert done.stderr == f"edgeclin: {tmp_path}/ops.pub: not a PEM public key\n"


def test_doctor_finds_a_key_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ops.pub").write_text("no key")
    bedside = Bedside(tmp_path, [tmp_path / "ops.pub"], 1)
    done = CliRunner().invoke(main, ["doctor", "--config", str(bedside.config), "--json"])
    (keys,) = [one for one in json.loads(done.stdout) if one["what"] == "keys"]
    assert (keys["status"], keys["detail"]) == (
        "wrong", f"{tmp_path}/ops.pub: not a PEM public key",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("ward/bed", "reboot"), "'reboot' is none of: status, drain, send result N"),
        (("ward/bed", "send", "result", "²"), "is none of"),
        (("ward", "status"), "'ward' is not SITE/DEVICE"),
        (("ward/bed/x", "status"), "must be 1 to 64"),
    ],
)
def test_wrong_words_are_told_before_anything_is_sent(words: tuple[str, ...], problem: str) -> None:
    done = CliRunner().invoke(main, ["cloud", "command", *words])
    assert done.exit_code in (1, 2)
    assert problem in done.stderr


def test_without_a_signing_key_nothing_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECLIN_KEYS", str(tmp_path))
    done = CliRunner().invoke(main, ["cloud", "command", "ward/bed", "status"])
    assert done.exit_code == 1
    assert "no signing key; make one with `edgeclin keys new`" in done.stderr


def test_the_digest_is_of_what_was_signed(device: Device) -> None:
    document = msgspec.json.encode(device.request(1))
    reply = device.say(device.signed(document))
    assert reply is not None
    assert reply.digest == hashlib.sha256(document).hexdigest()
