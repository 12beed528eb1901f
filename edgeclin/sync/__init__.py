"""The process that delivers: from the queue to the cloud, and opinions back."""

from edgeclin.sync.agent import SyncAgent
from edgeclin.sync.metered import NetworkManager

__all__ = ["NetworkManager", "SyncAgent"]
