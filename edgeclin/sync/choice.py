"""Which questions are worth their bytes, where a link cannot carry all of them in time."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from math import inf

from edgeclin.offline_queue import OpenQuestion


def choose(
    questions: Sequence[OpenQuestion], most_bytes: float = inf, bytes_per_s: float = inf
) -> list[OpenQuestion]:
    """Those to ask, in the order of their deadlines, so that the expected number of wrong answers
    that an opinion puts right is as high as can be: the sum of `doubt`, for the share that the
    cloud's model puts right is the same factor of each.

    Which set of at most `most_bytes` is best is the knapsack problem. Taken by doubt a byte,
    falling, or the best one alone where that is worth more, a set has at least half of the best
    one's value (Dantzig 1957, "Discrete-variable extremum problems"; Kellerer, Pferschy and
    Pisinger 2004, 2.1). One is left out where with it not all could arrive in time one after the
    other, the earliest deadline first, which is the best order (Jackson 1955); then there is no
    such bound. Questions about urgent results go before all others.
    """
    if _in_time(questions, most_bytes, bytes_per_s):
        return sorted(questions, key=_deadline)
    chosen: list[OpenQuestion] = []
    for urgent in (True, False):
        some = [one for one in questions if one.urgent is urgent]
        dense = sorted(some, key=lambda one: (-one.doubt / max(one.bytes, 1), one.remaining_s))
        taken = _taken(dense, chosen, most_bytes, bytes_per_s)
        best = sorted(some, key=lambda one: -one.doubt)
        alone = next(
            (one for one in best if _in_time([*chosen, one], most_bytes, bytes_per_s)), None
        )
        if alone is not None and alone.doubt > sum(one.doubt for one in taken):
            taken = [alone]
        chosen += taken
    return sorted(chosen, key=_deadline)


def _taken(
    dense: Sequence[OpenQuestion],
    before: Sequence[OpenQuestion],
    most_bytes: float,
    bytes_per_s: float,
) -> list[OpenQuestion]:
    """As many of those, from the first on, as fit beside what was chosen before."""
    planned, taken = sorted(before, key=_deadline), []
    for one in dense:
        tried = planned.copy()
        insort(tried, one, key=_deadline)
        if _in_time(tried, most_bytes, bytes_per_s):
            planned = tried
            taken.append(one)
    return taken


def _in_time(some: Sequence[OpenQuestion], most_bytes: float, bytes_per_s: float) -> bool:
    sent = 0
    for one in sorted(some, key=_deadline):
        sent += one.bytes
        if sent > most_bytes or sent > bytes_per_s * one.remaining_s:
            return False
    return True


def _deadline(one: OpenQuestion) -> tuple[float, int]:
    return one.remaining_s, one.seq
