"""The analyst's figures are those one would count by hand, on a page that needs nothing else."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

from edgeclin import batches, wire
from edgeclin.errors import BadFile
from edgeclin.health import RunHealth
from edgeclin.records import Drop, Latency, Record, Result, Review, State, Tier

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
        batches.Item(seq, identity, kind, msgspec.Raw(msgspec.json.encode(record)))  # type: ignore[arg-type]
        for seq, (identity, kind, record) in enumerate(records, 1)
    )
    store.add(wire.Topics("ward", "bed"), batches.Batch(epoch="e", items=items[:30]))
    store.compact()
    store.add(wire.Topics("ward", "bed"), batches.Batch(epoch="e", items=items[30:]))
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


def test_a_shadows_answers_are_compared_and_counted_nowhere_else(
    filled: Store, tmp_path: Path, make_result: Callable[..., Result]
) -> None:
    before = Analysis(filled.tables())
    shadows = {  # position 2 is final, 4 was provisional; both were answered `normal`
        2: make_result(2, label="normal", state=State.FINAL),
        3: make_result(3, label="PVC", state=State.FINAL),
        4: make_result(4, label="normal", state=State.PROVISIONAL),
        5: make_result(5, label=None, state=State.UNREVIEWED, rejected=True),
    }
    items = tuple(
        batches.Item(
            1000 + position,
            f"s{position}",
            "result",
            msgspec.Raw(
                msgspec.json.encode(
                    msgspec.structs.replace(
                        shadow, shadow_of=f"r{position}", bundle="2" * 64, tier=Tier.BULK
                    )
                )
            ),
        )
        for position, shadow in shadows.items()
    )
    filled.add(wire.Topics("ward", "bed"), batches.Batch(epoch="e", items=items))
    filled.add_status(
        wire.Topics("ward", HOSTILE),
        "st/health",
        wire.Status("online", 1.0, run=RunHealth(1.0, 1.0, "b", "e", alarms=("a lead is off",))),
    )
    after = Analysis(filled.tables())
    assert after.summary() == before.summary()
    assert after.outcome_rows() == before.outcome_rows()
    assert before.agreement() == []
    (row,) = after.agreement()
    assert row.pop("bundle") == make_result().bundle
    assert row == {
        "shadow": "2" * 64,
        "compared": 3,
        "agreed": 2,
        "sure": 2,
        "sure_agreed": 1,
        "unanswered": 1,
    }
    write_report(after, filled.statuses(), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "66.7 % [20.8, 93.9]" in page
    assert "ALARM: a lead is off" in page


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


# -- any store ----------------------------------------------------------------------------------

LABELS = ["normal", "PVC", "$\\frac{", "a_b^$", "<img src=x onerror=alert(1)>", "--><script>", None]
"""Among them what matplotlib would take for a formula, and what would end an SVG comment."""
VOID = {"meta", "br", "img", "hr", "input", "link"}
OPTIONAL = {"li"}
"""Elements that HTML lets end by themselves."""


def add(store: Store, site: str, device: str, *records: tuple[str, Record]) -> None:
    kinds: dict[type, Any] = {Result: "result", Review: "review", Drop: "drop"}
    items = tuple(
        batches.Item(seq, identity, kinds[type(record)], msgspec.Raw(msgspec.json.encode(record)))
        for seq, (identity, record) in enumerate(records, 1)
    )
    store.add(wire.Topics(site, device), batches.Batch(epoch=f"{site}/{device}", items=items))


class Counted:
    """A random store, and its figures by plain counting."""

    def __init__(self, folder: Path, make: Callable[..., Result], seed: int) -> None:
        chance = random.Random(seed)
        self.store = Store(folder)
        self.final: dict[str, tuple[State, str | None]] = {}
        self.first: dict[str, str | None] = {}
        self.opinions: Counter[tuple[str | None, str | None]] = Counter()
        self.totals: list[float] = []
        self.waits: list[float] = []
        self.offloaded = self.dropped = self.unsigned = 0
        self.devices = {(chance.choice("ab"), f"d{number}") for number in range(3)}
        for site, device in sorted(self.devices):
            records: list[tuple[str, Record]] = []
            for position in range(30):
                records += self._answer(chance, make, f"{site}/{device}/{position}", position)
            count = chance.randrange(50)
            records.append((f"drop {site}/{device}", Drop(Tier.BULK, 1, 90, count, 1.0)))
            self.dropped += count
            add(self.store, site, device, *records)
            if chance.random() < 0.5:
                self.store.compact()

    def _answer(
        self, chance: random.Random, make: Callable[..., Result], identity: str, position: int
    ) -> list[tuple[str, Record]]:
        label = chance.choice(LABELS)
        state = chance.choice([State.FINAL, State.PROVISIONAL])
        if label is None:
            state = State.UNREVIEWED
        timed = chance.random() < 0.8
        latency = Latency(*(round(chance.uniform(0.1, 9), 4) for _ in range(3))) if timed else None
        unsigned = chance.random() < 0.1
        result = make(
            position, state=state, label=label, latency_ms=latency, unsigned_bundle=unsigned
        )
        if latency is not None:
            self.totals.append(latency.total)
        self.unsigned += unsigned
        self.first[identity], self.final[identity] = label, (state, label)
        records: list[tuple[str, Record]] = [(identity, result)]
        if state is not State.PROVISIONAL:
            return records
        course = chance.choice(["none", "late", "in time", "undecided", "expired"])
        if course in ("late", "expired"):
            wait = round(chance.uniform(60, 70), 3)
            review = Review(identity, State.UNREVIEWED, label, "r", 1.0, label, waited_s=wait)
            records.append((f"{identity} expired", review))
            self.final[identity] = (State.UNREVIEWED, label)
            if course == "expired":
                self.waits.append(wait)
        if course in ("late", "in time", "undecided"):
            self.offloaded += 1
            wait = round(chance.uniform(0, 60), 3)
            said = chance.choice([name for name in LABELS if name is not None])
            to = State.CONFIRMED if said == label else State.AMENDED
            if course == "undecided":
                said, to = label, State.UNREVIEWED
            else:
                self.opinions[label, said] += 1
            review = Review(identity, to, said, "r", 1.0, label, "m", 0.9, wait)
            records.append((f"{identity} judged", review))
            self.final[identity] = (to, said)
            self.waits.append(wait)
        return records


@pytest.mark.parametrize("seed", range(4))
def test_any_store_has_the_figures_of_plain_counting(
    tmp_path: Path, make_result: Callable[..., Result], seed: int
) -> None:
    counted = Counted(tmp_path, make_result, seed)
    analysis = Analysis(counted.store.tables())
    summary = analysis.summary()
    states = Counter(state.value for state, _ in counted.final.values())
    assert {state.value: summary[state.value] for state in State} == {
        state.value: states[state.value] for state in State
    }
    assert (summary["results"], summary["duplicates"]) == (len(counted.final), 0)
    assert (summary["devices"], summary["dropped"]) == (len(counted.devices), counted.dropped)
    assert (summary["unsigned"], summary["offloaded"]) == (counted.unsigned, counted.offloaded)
    assert summary["latency_n"] == len(counted.totals)
    for figure, values in (("latency_{}_ms", counted.totals), ("waited_{}_s", counted.waits)):
        for name, share in (("p50", 50), ("p95", 95)):
            wanted = np.percentile(values, share)
            assert summary[figure.format(name)] == pytest.approx(wanted, rel=1e-9)
    names = {None: "(rejected)"}
    first = Counter(names.get(label, label) for label in counted.first.values())
    final = Counter(names.get(label, label) for _, label in counted.final.values())
    assert {row["label"]: (row["first"], row["final"]) for row in analysis.labels()} == {
        label: (first[label], final[label]) for label in first | final
    }
    assert len(analysis.labels()) == len(first | final), "no label stands twice"
    agreement = {(row["edge"], row["cloud"]): row["count"] for row in analysis.opinions()}
    assert agreement == counted.opinions
    counted.store.close()


class _Balance(HTMLParser):
    """Whether every element ends where it should, and what would run on an event."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.events: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.events += [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Neither opens nor ends anything."""

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open[-1] != tag and self.open[-1] in OPTIONAL:
            self.open.pop()
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_hostile_names_stay_text_in_a_page_that_is_well_formed(
    tmp_path: Path, make_result: Callable[..., Result]
) -> None:
    counted = Counted(tmp_path / "store", make_result, seed=1)
    for name in LABELS:
        status = wire.Status("lost", 1.0, version="<b>v</b>", pending={"<i>": 3})
        counted.store.add_status(wire.Topics("ward", str(name)), "st/state", status)
    path = tmp_path / "report.html"
    analysis = Analysis(counted.store.tables())
    write_report(analysis, counted.store.statuses(), path)
    counted.store.close()
    text = path.read_text()
    balance, page = _Balance(), _Page()
    balance.feed(text)
    page.feed(text)
    assert (balance.open, balance.wrong, balance.events) == ([], [], [])
    assert page.tags["script"] == page.tags["img"] == page.tags["b"] - text.count("<li") == 0
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 5
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    summary = analysis.summary()
    for figure, what in (
        (summary["results"], "results stored"),
        (summary["dropped"], "dropped by full queues"),
        (summary["amended"], "amended"),
        (f"{summary['latency_p95_ms']:.3f} ms", "latency p95"),
    ):
        assert re.search(rf"<b>{re.escape(str(figure))}</b>{what}", text)


@pytest.mark.parametrize("made_at", [0.0, -1e15, 4e9, 1e15, 1.7e308])
def test_a_device_with_any_clock_has_a_report(
    tmp_path: Path, make_result: Callable[..., Result], made_at: float
) -> None:
    store = Store(tmp_path / "store")
    clock = [made_at, made_at + 1, -made_at]
    add(
        store, "ward", "bed", *((f"r{n}", make_result(n, made_at=at)) for n, at in enumerate(clock))
    )
    write_report(Analysis(store.tables()), store.statuses(), tmp_path / "report.html")
    store.close()
    assert "<b>3</b>results stored" in (tmp_path / "report.html").read_text()
