"""HTML pages that load nothing from outside, and the drawings in them."""

from edgeclin.pages.rendering import render

__all__ = ["render"]
