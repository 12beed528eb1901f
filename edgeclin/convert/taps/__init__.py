"""Float models that show every tensor on the way."""

from edgeclin.convert.taps.base import Tap

__all__ = ["Tap"]
