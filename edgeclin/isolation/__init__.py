"""An engine in a process of its own, where it may hang or crash."""

from edgeclin.isolation.model import SharedModel
from edgeclin.isolation.process import EngineProcess

__all__ = ["EngineProcess", "SharedModel"]
