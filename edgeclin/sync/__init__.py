"""The process that delivers: from the queue to the cloud, and opinions back."""

from edgeclin.sync.agent import SyncAgent

__all__ = ["SyncAgent"]
