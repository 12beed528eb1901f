"""What executes engines: one file an implementation, found by the entry points."""

from edgeclin.backends.base import Backend, TensorSpec
from edgeclin.backends.registry import load_backend

__all__ = ["Backend", "TensorSpec", "load_backend"]
