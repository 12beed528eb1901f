"""An engine in a process of its own, where it may hang, crash or grow."""

from edgeclin.isolation.model import SharedModel
from edgeclin.isolation.process import LOAD_S, EngineProcess
from edgeclin.isolation.supervisor import Limits, Supervisor

__all__ = ["LOAD_S", "EngineProcess", "Limits", "SharedModel", "Supervisor"]
