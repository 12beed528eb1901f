"""How messages reach the other side: a seam, MQTT behind it, and one in memory for tests."""

from edgeclin.transport.base import Message, Refusal, Transport, fits
from edgeclin.transport.memory import MemoryBroker, MemoryTransport

__all__ = ["MemoryBroker", "MemoryTransport", "Message", "Refusal", "Transport", "fits"]
