"""The search for layers that must stay in float: small, bounded, not misled by a ranking."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeclin.convert.fewest import Search

NAMES = [f"layer {number}" for number in range(40)]


@given(needed=st.sets(st.sampled_from(NAMES), min_size=1, max_size=6), data=st.data())
def test_it_finds_exactly_the_layers_that_must_stay(needed: set[str], data: st.DataObject) -> None:
    ranked = data.draw(st.permutations(NAMES))
    search = Search(lambda kept: needed <= set(kept), most_trials=1000)
    found = search.run(ranked, most=len(NAMES))
    assert found is not None
    assert set(found) == needed


@given(needed=st.sets(st.sampled_from(NAMES), max_size=20), most_trials=st.integers(0, 40))
def test_it_never_makes_more_engines_than_it_may_and_what_it_finds_holds(
    needed: set[str], most_trials: int
) -> None:
    asked = []

    def holds(kept: tuple[str, ...]) -> bool:
        asked.append(frozenset(kept))
        return needed <= set(kept)

    search = Search(holds, most_trials)
    found = search.run(NAMES, most=20)
    assert len(asked) == len(set(asked)) == search.trials <= most_trials
    assert found is None or (needed <= set(found) and len(found) <= 20)


def test_a_good_ranking_costs_few_engines() -> None:
    needed = set(NAMES[:3])
    search = Search(lambda kept: needed <= set(kept), most_trials=100)
    assert set(search.run(NAMES, most=20) or ()) == needed
    assert search.trials <= 8


def test_more_layers_than_may_stay_are_no_answer() -> None:
    search = Search(lambda kept: set(NAMES[:11]) <= set(kept), most_trials=500)
    assert search.run(NAMES, most=10) is None


def test_without_layers_nothing_is_made() -> None:
    search = Search(lambda _: True, most_trials=5)
    assert search.run([], most=3) is None
    assert search.trials <= 1
