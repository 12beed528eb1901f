"""What data, source and engines must hold before a bundle is written: measured, bounded, judged."""

from edgeclin.gates.answers import Answers
from edgeclin.gates.gate import Gate
from edgeclin.gates.margins import Margins, load_margins

__all__ = ["Answers", "Gate", "Margins", "load_margins"]
