"""Why a file is not the record it should be: msgspec's words, with their place and a remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from msgspec import inspect

_PLACE = re.compile(r"(?P<said>.*?) - at `\$\.?(?P<place>[^`]*)`", re.S)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.S)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`", re.S)
_OTHER = re.compile(r"Invalid (enum )?value '(?P<name>.*)'", re.S)
_WRONG = re.compile(r"Expected `(?P<wanted>.*)`, got `(?P<got>.*)`", re.S)
_BOUND = re.compile(r"Expected `(?P<wanted>.*?)` (?P<bound>.*)", re.S)
_WORDS = {
    "str": "text in quotes",
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}


def explain(error: Exception, kind: type) -> tuple[str, str]:
    """What is wrong with a file that is no `kind`, and how to mend it (empty where nobody knows).

    Args:
        error: from msgspec, or whatever else a decoder raised.
    """
    if isinstance(error, UnicodeDecodeError):
        return "not text in UTF-8", "is it the right file?"
    found = _PLACE.fullmatch(str(error))
    said, place = (found["said"], found["place"]) if found else (str(error), "")
    where = f" in {place}" if place else ""
    if unknown := _UNKNOWN.fullmatch(said):
        name = unknown["name"]
        keys = {key for one in _at(kind, place) for key in _keys(one)}
        return f"the key `{name}`{where} is unknown", _choice(name, keys)
    if missing := _MISSING.fullmatch(said):
        return f"the key `{missing['name']}`{where} is missing", "add it"
    if other := _OTHER.fullmatch(said):
        name = other["name"]
        values = {value for one in _at(kind, place) for value in _values(one)}
        return f"{place} is '{name}', which is unknown", _choice(name, values)
    if wrong := _WRONG.fullmatch(said):
        wanted = " or ".join(_WORDS.get(one, one) for one in wrong["wanted"].split(" | "))
        got = _WORDS.get(wrong["got"], wrong["got"])
        return f"{place or 'the file'} is {got}", f"it must be {wanted}"
    if bound := _BOUND.fullmatch(said):
        wanted = _WORDS.get(bound["wanted"], bound["wanted"])
        return f"{place or 'the file'} does not fit", f"it must be {wanted} {bound['bound']}"
    return f"{said[:1].lower()}{said[1:]}{where}", ""


def _choice(name: str, known: set[str]) -> str:
    near = get_close_matches(name, sorted(known), n=1)
    guess = f"did you mean `{near[0]}`? " if near else ""
    return f"{guess}known are {', '.join(sorted(known))}" if known else ""


def _at(kind: type, place: str) -> Sequence[Any]:
    """The types that may stand at a place such as `inputs[0].preprocessing[1].step`."""
    here = list(_members(inspect.type_info(kind)))
    for step in re.findall(r"[^.\[\]]+|\[[^\]]*\]", place):
        here = [inner for one in here for inner in _inside(one, step)]
    return here


def _inside(info: Any, step: str) -> Iterator[Any]:
    if step.startswith("["):
        item = getattr(info, "item_type", getattr(info, "value_type", None))
        yield from () if item is None else _members(item)
        return
    if getattr(info, "tag_field", None) == step:
        yield info
    for field in getattr(info, "fields", ()):
        if field.encode_name == step:
            yield from _members(field.type)


def _members(info: Any) -> tuple[Any, ...]:
    """Of a union each, of another type itself."""
    return tuple(getattr(info, "types", (info,)))


def _keys(info: Any) -> Iterator[str]:
    yield from (field.encode_name for field in getattr(info, "fields", ()))


def _values(info: Any) -> Iterator[str]:
    """Of a choice in words, or of records that are told apart by one."""
    if isinstance(info, inspect.StructType) and isinstance(info.tag, str):
        yield info.tag
    elif isinstance(info, inspect.EnumType):
        yield from (str(member.value) for member in info.cls)
    elif isinstance(info, inspect.LiteralType):
        yield from map(str, info.values)
