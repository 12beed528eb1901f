"""Who listens on the broker, and counts how often each row goes over the wire.

It reads messages as `docs/wire.md` has them, without any code of edgeclin.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import accumulate
from typing import Any

import paho.mqtt.client as mqtt
import zstandard
from paho.mqtt.enums import CallbackAPIVersion


class Spy:
    """Counts from the moment that it is connected, and again after each cut.

    Attributes:
        sightings: how often each row's id was sent.
        receipts: ranges of sequence numbers that receipts named.
    """

    def __init__(self, port: int) -> None:
        self.sightings: Counter[str] = Counter()
        self.receipts: Counter[tuple[int, int]] = Counter()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_connect = self._connected
        self._client.on_message = self._seen
        self._client.reconnect_delay_set(1, 1)
        self._client.connect_async("127.0.0.1", port)
        self._client.loop_start()

    @property
    def resent(self) -> int:
        """Rows that were sent more than once."""
        return sum(times > 1 for times in self.sightings.values())

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe([("ec/v1/+/+/up/+", 1), ("ec/v1/+/+/dn/receipt", 1)])

    def _seen(self, _: Any, __: Any, message: mqtt.MQTTMessage) -> None:
        content = json.loads(zstandard.ZstdDecompressor().decompress(message.payload))
        if "/up/" in message.topic:
            for table in content["tables"]:
                self.sightings.update(_ids(table))
        else:
            self.receipts.update(tuple(pair) for pair in content["ranges"])


def _ids(table: dict[str, Any]) -> list[str]:
    heads, count = table["heads"], table["count"]
    if "id" in heads:
        return [str(identity) for identity in _column(heads["id"], count)]
    parts = (_column(heads[name], count) for name in ("time", "counter", "rest"))
    found = []
    for moment, counter, rest in zip(*parts, strict=True):
        time = f"{moment:012x}"
        found.append(f"{time[:8]}-{time[8:]}-{counter:04x}-{rest}")
    return found


def _column(column: dict[str, Any], count: int) -> list[Any]:
    if "one" in column:
        return [column["one"]] * count
    if "these" in column:
        return list(column["these"])
    if "of" in column:
        return [column["of"][at] for at in column["at"]]
    numbers = column["numbers"]
    return list(accumulate(numbers)) if column.get("steps") else numbers
