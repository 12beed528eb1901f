"""The durable queue between the process that judges and the process that delivers."""

from edgeclin.offline_queue.queue import OfflineQueue, Question, Row, Stored, Usage

__all__ = ["OfflineQueue", "Question", "Row", "Stored", "Usage"]
