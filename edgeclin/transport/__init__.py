"""How messages reach the other side: a seam, MQTT behind it, and one in memory for tests."""

from edgeclin.transport.base import AROUND, Message, Refusal, Transport, fits
from edgeclin.transport.memory import MemoryBroker, MemoryTransport

__all__ = ["AROUND", "MemoryBroker", "MemoryTransport", "Message", "Refusal", "Transport", "fits"]
