"""The example's rules for mosquitto: no device reads or writes what is another's."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from authority import Authority
from broker import find_mosquitto, free_port
from polling import wait_until

from edgeclin import wire
from edgeclin.config import BrokerConfig
from edgeclin.records import Tier
from edgeclin.transport import Message, Refusal
from edgeclin.transport.mqtt import MQTTTransport

EXAMPLE = Path(__file__).parents[1] / "examples/mosquitto"
OWN, OTHER = wire.Topics("ward-3", "bed-12"), wire.Topics("ward-3", "bed-13")
pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
]


class Client:
    """A client with a certificate of its name, what it got, and what it was refused."""

    def __init__(self, port: int, authority: Authority, name: str, *filters: str) -> None:
        certificate, key = map(str, authority.issue(name, file=name.replace("/", ".")))
        ca = str(authority.certificate)
        config = BrokerConfig(port=port, ca=ca, certificate=certificate, key=key)
        self.transport = MQTTTransport(config, name.replace("/", "."), jitter=lambda _: 0.05)
        self.got: list[str] = []
        self.refused: list[Refusal] = []
        self.transport.open(
            filters, lambda message: self.got.append(message.topic), None, self.refused.append
        )
        wait_until(lambda: self.transport.connected, f"{name} is connected")

    def say(self, *topics: str) -> None:
        for topic in topics:
            self.transport.publish(Message(topic, b"x"))


@pytest.fixture
def join(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Makes clients of a mosquitto with the example's files."""
    authority, port = Authority(tmp_path, "ca"), free_port()
    authority.issue("broker")
    (tmp_path / "certs").mkdir()
    for file in ("ca.pem", "broker.crt", "broker.key"):
        shutil.copy(tmp_path / file, tmp_path / "certs")
    shutil.copy(EXAMPLE / "acl", tmp_path / "acl")
    rules = (EXAMPLE / "mosquitto.conf").read_text().replace("/etc/mosquitto", str(tmp_path))
    rules = re.sub("^listener 8883$", f"listener {port} 127.0.0.1", rules, flags=re.MULTILINE)
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"user root\n{rules}")
    program = find_mosquitto()
    assert program is not None
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log)
    made: list[Client] = []

    def make(name: str, *filters: str) -> Client:
        made.append(Client(port, authority, name, *filters))
        return made[-1]

    yield make
    for client in made:
        client.transport.close()
    process.terminate()
    process.wait(10)


def test_a_device_and_the_cloud_reach_each_other(join: Callable[..., Client]) -> None:
    cloud = join("cloud", *wire.INGEST_FILTERS, *wire.OFFLOAD_FILTERS)
    device = join("ward-3/bed-12", OWN.receipt, OWN.opinion, OWN.kept)
    asks = [OWN.ask, OWN.part, OWN.whole]
    up = [*(OWN.up(tier) for tier in Tier), *asks, OWN.birth, OWN.state, OWN.health]
    device.say(*up)
    down = [OWN.receipt, OWN.opinion, OWN.kept]
    cloud.say(*down)
    wait_until(lambda: len(cloud.got) == len(up), "all reached the cloud")
    wait_until(lambda: device.got == down, "the answers")
    assert not device.refused
    assert not cloud.refused


def test_a_device_neither_reads_nor_writes_what_is_another_s(join: Callable[..., Client]) -> None:
    cloud = join("cloud", *wire.INGEST_FILTERS, *wire.OFFLOAD_FILTERS)
    others = (OTHER.receipt, OTHER.opinion, OTHER.kept, OTHER.part)
    curious = join("ward-3/bed-12", *others, "ec/v1/#", "#")
    other = join("ward-3/bed-13", OTHER.receipt, OTHER.opinion)
    forged = [OTHER.up(Tier.URGENT), OTHER.ask, OTHER.part, OTHER.whole, OTHER.state]
    forged += [OTHER.receipt, OWN.receipt, OWN.kept, "other"]
    curious.say(*forged)
    wait_until(lambda: len(curious.refused) == len(forged), "all are refused")
    assert {refusal.code for refusal in curious.refused} == {0x87}
    other.say(OTHER.up(Tier.URGENT))
    cloud.say(OTHER.receipt, OWN.receipt)
    wait_until(lambda: other.got == [OTHER.receipt], "what is for it")
    wait_until(lambda: OWN.receipt in curious.got, "what is for this one")
    assert cloud.got == [OTHER.up(Tier.URGENT)]
    assert set(curious.got) == {OWN.receipt}


def test_the_cloud_alone_commands_and_a_device_answers_for_itself_alone(
    join: Callable[..., Client],
) -> None:
    cloud = join("cloud", OWN.reply, OTHER.reply)
    device = join("ward-3/bed-12", OWN.request, OTHER.request, OWN.reply, OTHER.reply)
    other = join("ward-3/bed-13", OTHER.request)
    forged = [OWN.request, OTHER.request, OTHER.reply]
    device.say(*forged)
    wait_until(lambda: len(device.refused) == len(forged), "all are refused")
    assert {refusal.code for refusal in device.refused} == {0x87}
    cloud.say(OTHER.request, OWN.request)
    wait_until(lambda: device.got == [OWN.request], "its own request alone")
    wait_until(lambda: other.got == [OTHER.request], "its own request alone")
    device.say(OWN.reply)
    other.say(OTHER.reply)
    wait_until(lambda: set(cloud.got) == {OWN.reply, OTHER.reply}, "both replies")
    assert device.got == [OWN.request]
    assert not cloud.refused
