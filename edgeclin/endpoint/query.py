"""What follows `?` in an address."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request

_DIGITS = 20


def known_names(request: Request, *known: str) -> None:
    """Refuse other names, and one given twice: what is misspelt would be taken as not given.

    Raises:
        HTTPException: 400.
    """
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            raise HTTPException(400, f"{name!r} is unknown here; known: {', '.join(known)}")
        if given.count(name) > 1:
            raise HTTPException(400, f"{name} is given more than once")


def number(request: Request, name: str, default: int, low: int, high: int) -> int:
    """A number from `low` to `high`, or the default where it is not given.

    Raises:
        HTTPException: 400.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    found = whole(text)
    if found is None or not low <= found <= high:
        raise HTTPException(400, f"{name} must be a number from {low} to {high}")
    return found


def whole(text: str) -> int | None:
    """The number that a text is; None for one that is none, or has more digits than any here."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < _DIGITS else None
