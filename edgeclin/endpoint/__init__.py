"""The local HTTP endpoint of `edgeclin run`, and the bedside page that it serves."""

from edgeclin.endpoint.endpoint import Endpoint

__all__ = ["Endpoint"]
