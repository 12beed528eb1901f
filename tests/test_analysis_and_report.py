"""The analyst's figures are those one would count by hand, on a page that needs nothing else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from edgeclin import wire
from edgeclin.errors import BadFile
from edgeclin.records import Latency, Record, Result, Review, State

pytest.importorskip("ibis", reason="the cloud extra is not installed")

from edgeclin.cloud.analysis import Analysis
from edgeclin.cloud.report import write_report
from edgeclin.cloud.store import Store

HOSTILE = "<script>alert(1)</script> $x$ & co"


@pytest.fixture
def filled(tmp_path: Path, make_result: Callable[..., Result]) -> Store:
    """40 results, every fourth in doubt and then settled in one of four ways."""
    store = Store(tmp_path / "store", clock=lambda: 2_000_000.0)
    records: list[tuple[str, str, Record]] = []
    for position in range(40):
        doubt = position % 4 == 0
        records.append(
            (
                f"r{position}",
                "result",
                make_result(
                    position,
                    state=State.PROVISIONAL if doubt else State.FINAL,
                    label=HOSTILE if position == 1 else "normal",
                    latency_ms=Latency(1.0, position / 10, 0.5),
                ),
            )
        )
    chains = (
        [State.CONFIRMED],
        [State.AMENDED],
        [State.UNREVIEWED],
        [State.UNREVIEWED, State.AMENDED],
    )
    for index, position in enumerate(range(0, 40, 4)):
        for turn, state in enumerate(chains[index % 4]):
            review = Review(
                result=f"r{position}",
                state=state,
                label="PVC" if state is State.AMENDED else "normal",
                reason="test",
                made_at=1.0,
                edge_label="normal",
                model=None if state is State.UNREVIEWED else "m",
                waited_s=float(index),
            )
            records.append((f"v{position}-{turn}", "review", review))
    items = tuple(
        wire.Item(seq, identity, kind, msgspec.Raw(msgspec.json.encode(record)))  # type: ignore[arg-type]
        for seq, (identity, kind, record) in enumerate(records, 1)
    )
    store.add(wire.Topics("ward", "bed"), wire.Batch(epoch="e", items=items[:30]))
    store.compact()
    store.add(wire.Topics("ward", "bed"), wire.Batch(epoch="e", items=items[30:]))
    store.add_status(wire.Topics("ward", HOSTILE), "st/state", wire.Status("lost", 1.0))
    return store


def test_the_summary_is_what_one_counts_by_hand(filled: Store) -> None:
    analysis = Analysis(filled.tables())
    summary = analysis.summary()
    assert (summary["results"], summary["duplicates"], summary["devices"]) == (40, 0, 1)
    assert summary["final"] == 30
    # Ten in doubt: chains 0 1 2 3 0 1 2 3 0 1.
    assert (summary["confirmed"], summary["amended"], summary["unreviewed"]) == (3, 5, 2)
    assert summary["provisional"] == 0
    assert summary["offloaded"] == 8
    assert summary["latency_n"] == 40
    assert summary["latency_p50_ms"] == pytest.approx(1.5 + 1.95)
    states = Counter(row["final_state"] for row in analysis.outcome_rows())
    assert sum(states.values()) == 40
    assert {row["label"]: (row["first"], row["final"]) for row in analysis.labels()} == {
        HOSTILE: (1, 1),
        "normal": (39, 34),
        "PVC": (0, 5),
    }
    agreement = {(row["edge"], row["cloud"]): row["count"] for row in analysis.opinions()}
    assert agreement == {("normal", "normal"): 3, ("normal", "PVC"): 5}


class _Page(HTMLParser):
    """What a browser would load and run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.loads += [
            value or ""
            for name, value in attrs
            if name in ("src", "href", "xlink:href")
            and not (value or "").startswith(("#", "data:"))
        ]


def test_the_page_is_whole_loads_nothing_and_runs_nothing(filled: Store, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(Analysis(filled.tables()), filled.statuses(), path)
    text = path.read_text()
    page = _Page()
    page.feed(text)
    assert page.tags["svg"] == 5
    assert page.tags["script"] == 0
    assert page.loads == []
    assert not re.search(r"@import|url\((?!#)", text)
    assert "&lt;script&gt;" in text
    assert "results stored" in text


def test_an_empty_store_has_a_page_too(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    analysis = Analysis(store.tables())
    assert analysis.summary()["results"] == 0
    write_report(analysis, store.statuses(), tmp_path / "report.html")
    assert "The store is empty" in (tmp_path / "report.html").read_text()


def test_a_report_that_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(BadFile, match="cannot be written"):
        write_report(Analysis(store.tables()), [], blocked / "report.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "store"]
