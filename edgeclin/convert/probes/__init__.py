"""Quantised engines that show what each of their layers makes."""

from edgeclin.convert.probes.base import Place, Probe

__all__ = ["Place", "Probe"]
