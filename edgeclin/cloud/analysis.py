"""Questions to the store, written once as Ibis expressions; here DuckDB answers them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from edgeclin.cloud.tables import Table
from edgeclin.errors import MissingExtra
from edgeclin.records import State

try:
    import ibis
except ImportError as exc:
    raise MissingExtra("Ibis, which analyses the store,", "cloud") from exc

Expression: TypeAlias = Any
"""An Ibis table expression."""

SETTLED = (State.CONFIRMED.value, State.AMENDED.value)
REJECTED = "(rejected)"
"""Stands for the label of a sample that could not be judged."""
_FAR_S = 1e15
"""Far beyond all dates; the difference of two clocks at the ends of float64 is none."""


class Analysis:
    """The tables of a store (`Store.tables`) as expressions.

    Attributes:
        results: one row a stored result, as the device first gave it; those of shadows apart.
        shadows: one row an answer of a shadow, beside the result that it was compared with.
        reviews: one row a stored review.
        outcomes: one row a result with what became of it: `final_state` and `final_label`.
    """

    def __init__(self, tables: Mapping[str, Table]) -> None:
        connection = ibis.duckdb.connect()
        named = {
            kind: connection.create_table(kind, ibis.memtable(table))
            for kind, table in tables.items()
        }
        of = named["result"].shadow_of.fill_null("")
        self.results: Expression = named["result"].filter(of == "")
        self.shadows: Expression = named["result"].filter(of != "")
        self.reviews: Expression = named["review"]
        self.drops: Expression = named["drop"]
        self.outcomes: Expression = _outcomes(self.results, self.reviews)

    def summary(self) -> dict[str, Any]:
        """The figures of the whole store; latencies in milliseconds, None where there are none."""
        results, outcomes = self.results, self.outcomes
        total = results.preprocess_ms + results.engine_ms + results.postprocess_ms
        row = _rows(
            results.aggregate(
                results=results.count(),
                distinct=results.id.nunique(),
                devices=(results.site + "/" + results.device).nunique(),
                latency_p50_ms=total.quantile(0.5),
                latency_p95_ms=total.quantile(0.95),
                latency_n=total.count(),
                first_made_at=results.made_at.min(),
                last_received_at=results.received_at.max(),
                unsigned=results.unsigned_bundle.sum(),
            )
        )[0]
        counted = _rows(outcomes.group_by("final_state").aggregate(count=outcomes.count()))
        states = {entry["final_state"]: entry["count"] for entry in counted}
        opinions = _rows(
            outcomes.aggregate(
                offloaded=outcomes.model.count(),
                waited_p50_s=outcomes.waited_s.quantile(0.5),
                waited_p95_s=outcomes.waited_s.quantile(0.95),
            )
        )[0]
        dropped = _rows(self.drops.aggregate(dropped=self.drops["count"].sum()))[0]["dropped"]
        duplicates = row["results"] - row.pop("distinct")
        return {
            **row,
            "unsigned": row["unsigned"] or 0,
            "duplicates": duplicates,
            "dropped": dropped or 0,
            **{state.value: states.get(state.value, 0) for state in State},
            **opinions,
        }

    def outcome_rows(self) -> list[dict[str, Any]]:
        """Every outcome, in the order of source and position."""
        return _rows(self.outcomes.order_by("site", "device", "source", "position"))

    def times(self) -> dict[str, list[float]]:
        """When each result was made and stored, in seconds since 1970, each list sorted; what a
        device's clock says beyond `_FAR_S` counts as that."""
        rows = self.results.select("made_at", "received_at").to_pyarrow()
        return {
            name: sorted(min(max(at, -_FAR_S), _FAR_S) for at in rows[name].to_pylist())
            for name in ("made_at", "received_at")
        }

    def labels(self) -> list[dict[str, Any]]:
        """How many results each label has, at first and finally."""
        outcomes = self.outcomes.mutate(
            label=self.outcomes.label.fill_null(REJECTED),
            final_label=self.outcomes.final_label.fill_null(REJECTED),
        )
        first = outcomes.group_by("label").aggregate(first=outcomes.count())
        final = outcomes.group_by("final_label").aggregate(final=outcomes.count())
        joined = first.outer_join(final, first.label == final.final_label)
        named = joined.select(
            label=ibis.coalesce(joined.label, joined.final_label),
            first=joined.first.fill_null(0),
            final=joined.final.fill_null(0),
        )
        return _rows(named.order_by("label"))

    def opinions(self) -> list[dict[str, Any]]:
        """How often the edge said one label and the cloud another: rows edge, cloud, count."""
        judged = self.outcomes.filter(self.outcomes.final_state.isin(SETTLED))
        return _rows(
            judged.group_by(edge=judged.label, cloud=judged.final_label)
            .aggregate(count=judged.count())
            .order_by("edge", "cloud")
        )

    def agreement(self) -> list[dict[str, Any]]:
        """How often each shadow gave the label that the bundle beside it gave: rows `bundle`,
        `shadow`, `compared` (both answered), `agreed`, `sure` (both were), `sure_agreed` and
        `unanswered` (by the shadow)."""
        first = self.results.select(of="id", beside="bundle", shown="label", was="state")
        both = self.shadows.inner_join(first, self.shadows.shadow_of == first.of)
        agreed = (both.label == both.shown).fill_null(False)
        sure = (both.state == State.FINAL.value) & (both.was == State.FINAL.value)
        return _rows(
            both.group_by(bundle=both.beside, shadow=both.bundle)
            .aggregate(
                compared=(~both.rejected).sum(),
                agreed=agreed.sum(),
                sure=sure.sum(),
                sure_agreed=(sure & agreed).sum(),
                unanswered=both.rejected.sum(),
            )
            .order_by("bundle", "shadow")
        )


def _outcomes(results: Expression, reviews: Expression) -> Expression:
    """Join each result with its last review; a settled one wins over an unreviewed one."""
    settled = reviews.state.isin(SETTLED)
    ranked = reviews.mutate(
        turn=ibis.row_number().over(
            group_by=reviews.result, order_by=[settled.desc(), reviews.seq.desc()]
        )
    )
    last = ranked.filter(ranked.turn == 0).select(
        result="result",
        review_state="state",
        review_label="label",
        model="model",
        review_confidence="confidence",
        waited_s="waited_s",
        reviewed_at="made_at",
    )
    joined = results.left_join(last, results.id == last.result)
    return joined.mutate(
        final_state=ibis.coalesce(joined.review_state, joined.state),
        final_label=ibis.coalesce(joined.review_label, joined.label),
    )


def _rows(expression: Expression) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = expression.to_pyarrow().to_pylist()
    return rows
