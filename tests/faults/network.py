"""Networks as devices meet them, emulated by a TCP proxy: the kernel here has no `netem`.

A proxy sees a stream, not packets. What is lost below TCP comes late above it, and holds up all
that is behind it: so loss is emulated as the wait for a retransmission.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from link import Link

PACKET = 1460
"""Bytes of TCP payload in an Ethernet frame."""
_RETRANSMISSION_S = 0.2
"""Linux's least retransmission timeout, on top of a round trip (RFC 6298)."""
_BUFFER = 64
"""Packets that the slowest hop keeps waiting before the sender feels it."""


@dataclass(frozen=True)
class Conditions:
    """A network, in both directions alike.

    Attributes:
        delay_s: one way.
        bits_per_s: 0 for as fast as the machine is.
        loss: share of packets that come late for having been lost once.
        pause_s: shortest and longest time for which nothing passes, as when Wi-Fi roams.
        every_s: shortest and longest time between two pauses.
    """

    delay_s: float = 0.0
    bits_per_s: float = 0.0
    loss: float = 0.0
    pause_s: tuple[float, float] = (0.0, 0.0)
    every_s: tuple[float, float] = (0.0, 0.0)


PROFILES = {
    "loopback": Conditions(),
    "3g": Conditions(delay_s=0.05, bits_per_s=384e3, loss=0.005),
    "slow": Conditions(delay_s=0.02, bits_per_s=256e3),
    "satellite": Conditions(delay_s=0.3, bits_per_s=1e6, loss=0.02),
    "roaming": Conditions(delay_s=0.005, pause_s=(2.0, 8.0), every_s=(3.0, 10.0)),
}
"""`3g` is UMTS without HSPA; `satellite` is geostationary, 600 ms there and back."""


class Network(Link):
    """A link under conditions that may change at any time.

    Attributes:
        late: packets that were lost once so far.
        pauses: how often nothing passed for a while.
    """

    def __init__(
        self, port: int, target: int, conditions: Conditions = PROFILES["loopback"], seed: int = 0
    ) -> None:
        self.conditions = conditions
        self.late = self.pauses = 0
        self._chance = random.Random(seed)
        self._stranded = asyncio.Event()
        self._paused_until = 0.0
        self._next_pause = 0.0
        super().__init__(port, target)

    def strand(self) -> None:
        """Carry nothing more over the connections that there are, and let neither end know: they
        are half open. New ones are carried."""
        before = self._stranded
        self._stranded = asyncio.Event()
        self._loop.call_soon_threadsafe(before.set)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stranded = self._stranded
        pipe: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_BUFFER)
        clock = asyncio.get_running_loop().time
        taking = asyncio.create_task(self._take(reader, pipe, clock))
        try:
            while True:
                arrives, data = await pipe.get()
                await asyncio.sleep(max(0.0, max(arrives, self._paused(clock())) - clock()))
                if stranded.is_set():
                    await asyncio.Event().wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            taking.cancel()
            writer.transport.abort()

    async def _take(
        self,
        reader: asyncio.StreamReader,
        pipe: asyncio.Queue[tuple[float, bytes]],
        clock: Callable[[], float],
    ) -> None:
        """Read what is sent, and when each packet of it arrives, in order; empty at the end."""
        free = arrives = 0.0
        data = b"-"
        while data:
            try:
                data = await reader.read(PACKET)
            except OSError:
                data = b""
            now = self.conditions
            free = max(free, clock())
            if now.bits_per_s:
                free += len(data) * 8 / now.bits_per_s
            arrives = max(arrives, free + now.delay_s)
            if self._chance.random() < now.loss:
                arrives += 2 * now.delay_s + _RETRANSMISSION_S
                self.late += 1
            await pipe.put((arrives, data))

    def _paused(self, now: float) -> float:
        """Until when nothing passes."""
        conditions = self.conditions
        if not conditions.pause_s[1]:
            return 0.0
        if now >= self._next_pause:
            if self._next_pause:
                self._paused_until = now + self._chance.uniform(*conditions.pause_s)
                self.pauses += 1
            between = self._chance.uniform(*conditions.every_s)
            self._next_pause = max(now, self._paused_until) + between
        return self._paused_until
