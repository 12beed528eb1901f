"""A device's queue and agent, a real mosquitto and a real ingest worker, in one process."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from broker import LocalBroker, find_mosquitto, free_port
from polling import wait_until

from edgeclin import wire
from edgeclin.bundle import Bundle
from edgeclin.config import BrokerConfig, SyncConfig
from edgeclin.offline_queue import OfflineQueue
from edgeclin.records import Result, Tier
from edgeclin.runtime import Runtime
from edgeclin.sync import SyncAgent
from edgeclin.transport.mqtt import MQTTTransport
from faults.network import PROFILES, Conditions, Network

if TYPE_CHECKING:
    from edgeclin.cloud.offload import Offload

needs_mosquitto = pytest.mark.skipif(
    find_mosquitto() is None, reason="mosquitto is not installed: apt-get install mosquitto"
)


class Ward:
    """A device whose link to the broker is a network; the cloud is beside the broker.

    Args:
        rules: of the broker; see `LocalBroker`.
    """

    def __init__(
        self, folder: Path, conditions: Conditions = PROFILES["loopback"], rules: str = ""
    ) -> None:
        from edgeclin.cloud.ingest import Ingest
        from edgeclin.cloud.store import Store

        self._broker = LocalBroker(folder, "mosquitto", rules).start()
        self.network = Network(free_port(), self._broker.port, conditions, seed=7)
        self.store = Store(folder / "store")
        self.ingest = Ingest(self.store, MQTTTransport(self._config(self._broker.port), "ingest"))
        self.queue = OfflineQueue(folder / "queue.sqlite")
        self._transport = MQTTTransport(self._config(self.network.port), "ward.bed")
        self.agent = SyncAgent(
            self.queue,
            self._transport,
            wire.Topics("ward", "bed"),
            SyncConfig(receipt_timeout_s=2.0, receipt_most_s=8.0),
        )
        self._offload: Offload | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.agent.run, args=(self._stop,))
        self.ingest.open()
        self.agent.open()
        self._thread.start()

    def _config(self, port: int) -> BrokerConfig:
        return BrokerConfig(port=port, reconnect_most_s=1.0)

    @property
    def sessions(self) -> int:
        """How often the agent connected."""
        return self._transport.sessions

    def join_offload(self, bundle: Bundle) -> None:
        """Have a worker give second opinions."""
        from edgeclin.cloud.offload import Offload

        transport = MQTTTransport(self._config(self._broker.port), "offload")
        self._offload = Offload(Runtime(bundle), transport, self.store.inputs)
        self._offload.open()

    def restart_ingest(self) -> None:
        """Another worker in the place of the one that was."""
        from edgeclin.cloud.ingest import Ingest

        self.ingest.close()
        self.ingest = Ingest(self.store, MQTTTransport(self._config(self._broker.port), "ingest"))
        self.ingest.open()

    def receipt_s(self, result: Result) -> float:
        """Put an urgent result, and how long its receipt takes."""
        seq, began = self.queue.put(result).seq, time.monotonic()
        wait_until(
            lambda: not self.queue.pending(Tier.URGENT, after=seq - 1, limit=1),
            "an urgent result is receipted",
        )
        return time.monotonic() - began

    def stored(self) -> list[str]:
        ids: list[str] = self.store.tables()["result"].column("id").to_pylist()
        return ids

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.agent.close()
        self.ingest.close()
        if self._offload is not None:
            self._offload.close()
        self.network.close()
        self._broker.stop()
        self.queue.close()
        self.store.close()
