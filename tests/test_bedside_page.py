"""The bedside page in a real browser: what it shows, and that it never shows the past as now."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest
from broker import free_port
from chromium import Browser, Page, find_chromium, open_browser
from conftest import BUNDLE, ECG

from edgeclin.config import HTTPConfig
from edgeclin.health import RunHealth
from edgeclin.keys import KeyPair
from edgeclin.manifest import Manifest
from edgeclin.offline_queue import Stored, Usage
from edgeclin.records import Result, Review, State, Tier

uvicorn = pytest.importorskip("uvicorn", reason="the http extra is not installed")
pytest.importorskip("starlette", reason="the http extra is not installed")
pytest.importorskip("prometheus_client", reason="the http extra is not installed")

from edgeclin.endpoint.application import Rooms, application  # noqa: E402
from edgeclin.endpoint.connections import listen  # noqa: E402
from edgeclin.endpoint.events import Events  # noqa: E402
from edgeclin.endpoint.health import Health, Link, QueueHealth  # noqa: E402
from edgeclin.endpoint.history import History  # noqa: E402

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

LIVE, NOT_LIVE = "document.body?.dataset.live === 'yes'", "document.body?.dataset.live === 'no'"
HOSTILE = "<img src=x onerror=document.title='taken'><script>alert(1)</script>&amp;\"'"
LONG = "AVeryLongNameWithoutAnyRoomToBreak" * 8


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None
    with open_browser(CHROMIUM) as opened:
        yield opened


class Stage:
    """The endpoint's own routes, before results and a health that a test makes up."""

    def __init__(self, manifest: Manifest, make_result: Callable[..., Result]) -> None:
        self.manifest = manifest
        self.health = Health(
            status="ok",
            serving=True,
            site="ward-3",
            device="bed-7",
            model="fake-ecg 1.0.0",
            signed=True,
            last_s=0.0,
            stream="lead-II",
            dropped={},
            run=RunHealth(made_at=0.0, up_s=60.0, bundle=BUNDLE, engine="fake"),
            queue=QueueHealth({"urgent": Usage(1, 500), "routine": Usage(2, 900),
                               "bulk": Usage(0, 0), "questions": Usage(3, 9000)}, 10_400, 1 << 20),
            link=Link("connected", 2.0),
            alarms=(),
        )  # fmt: skip
        self.ahead = 0.0
        self.history = History(lambda: time.monotonic() + self.ahead)
        self._make_result = make_result
        self._seqs = itertools.count(1)
        self._reviews: dict[int, Review] = {}
        self._events = Events(self.history, lambda: self.health)
        unused = cast(Any, SimpleNamespace(answer=None, health=None, text=None))
        rooms = Rooms(self.history, unused, unused, unused, self._events)
        app = application(rooms, unused, HTTPConfig(port=0))
        self._server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="critical"))
        self._socket = listen("127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}/"
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._thread.start()

    def add(self, sample: Any = None, manifest: Manifest | None = None, **changes: Any) -> int:
        """One more result, and its number."""
        seq = next(self._seqs)
        result = self._make_result(seq, **{"source": "lead-II", **changes})
        self.history.add(Stored(seq, f"id-{seq}"), result, sample, manifest or self.manifest)
        return seq

    def review(self, seq: int, state: State, label: str | None) -> None:
        review = Review(f"id-{seq}", state, label, "asked the cloud", 0.0, model="cloud 2")
        self._reviews[seq] = review
        self.history.review(self._reviews)

    def change(self, **changes: Any) -> None:
        self.health = msgspec.structs.replace(self.health, **changes)

    def run(self, **changes: Any) -> None:
        self.change(run=msgspec.structs.replace(self.health.run, **changes))

    def close(self) -> None:
        self._events.stopping = True
        self._server.should_exit = True
        self._thread.join(30)
        self._socket.close()


@pytest.fixture
def stage(
    manifest_and_files: tuple[Manifest, dict[str, bytes]], make_result: Callable[..., Result]
) -> Iterator[Stage]:
    made = Stage(manifest_and_files[0], make_result)
    yield made
    made.close()


@pytest.fixture
def page(browser: Browser, stage: Stage) -> Iterator[Page]:
    opened = browser.open(stage.address)
    opened.wait(LIVE)
    yield opened
    opened.close()


def newest_is(page: Page, seq: int) -> None:
    page.wait(f"document.querySelector('#answer').innerText.includes('Result {seq} of')")


def show_everything(stage: Stage) -> None:
    """A page with one of each thing that it can show."""
    for state in (State.FINAL, State.PROVISIONAL):
        stage.add(state=state)
    for state in (State.CONFIRMED, State.UNREVIEWED):
        stage.review(stage.add(state=State.PROVISIONAL), state, "normal")
    stage.add(rejected=True, label=None, confidence=0.0, state=State.UNREVIEWED, reason="lead off")
    amended = stage.add(state=State.PROVISIONAL, label="normal", confidence=0.61)
    stage.review(amended, State.AMENDED, "PVC")
    stage.add(tier=Tier.URGENT, label="R-on-T PVC", unsigned_bundle=True)
    stage.add(degraded="the NPU is gone, so the CPU's engine answers", sample=np.sin(np.arange(90)))


def test_a_result_appears_with_its_state_confidence_threshold_and_reason(
    page: Page, stage: Stage
) -> None:
    seq = stage.add(label="PVC", confidence=0.613, state=State.PROVISIONAL, reason="is in doubt")
    newest_is(page, seq)
    shown = page.text("#answer")
    for part in ("PVC", "Provisional", "61.3 %", "threshold 90.0 %, not reached", "is in doubt"):
        assert part in shown
    bar = "document.querySelector('#answer .value').getAttribute('width')"
    mark = "document.querySelector('#answer .mark').getAttribute('d')"
    assert page.run(bar) == "613"
    assert page.run(mark).startswith("M900 ")
    assert page.text("header").startswith(
        "bed-7, ward-3 Stream lead-II Model fake-ecg 1.0.0 Bundle Signed "
        "Link to the cloud Connected as of "
    )
    assert page.text("#queue") == "1 urgent, 2 routine, 0 bulk"
    assert "3 questions" in page.text("#room")


def test_a_confidence_just_below_one_is_not_rounded_up_to_it(page: Page, stage: Stage) -> None:
    newest_is(page, stage.add(confidence=0.99996))
    assert "over 99.9 %" in page.text("#answer")
    newest_is(page, stage.add(confidence=0.89996, state=State.PROVISIONAL))
    assert "90.0 % confidence threshold 90.0 %, not reached" in page.text("#answer")
    newest_is(page, stage.add(confidence=0.89996))
    assert "threshold 90.0 %, reached" in page.text("#answer"), "by what it was before rounding"


def test_every_state_has_a_word_and_a_shape_of_its_own(page: Page, stage: Stage) -> None:
    seen = {}
    for state in State:
        first = State.FINAL if state is State.FINAL else State.PROVISIONAL
        seq = stage.add(state=first)
        if state is not first:
            stage.review(seq, state, "PVC" if state is State.AMENDED else "normal")
        newest_is(page, seq)
        page.wait(f"document.querySelector('#answer .state').dataset.state === '{state.value}'")
        seen[page.text("#answer .state span").split()[0]] = shape(page, "#answer .state use")
    newest_is(page, stage.add(rejected=True, label=None, state=State.UNREVIEWED))
    seen[page.text("#answer .state").split(",")[0]] = shape(page, "#answer .state use")
    newest_is(page, stage.add(tier=Tier.URGENT))
    seen[page.text("#answer .urgency")] = shape(page, "#answer .urgency use")
    newest_is(page, stage.add(degraded="on the CPU"))
    seen[page.text("#answer .degraded").split(":")[0]] = shape(page, "#answer .degraded use")
    assert set(seen) == {
        "Final", "Provisional", "Confirmed", "Amended", "Unreviewed", "Rejected", "URGENT",
        "Degraded",
    }  # fmt: skip
    assert len(set(seen.values())) == len(seen)


def shape(page: Page, use: str) -> str:
    """What an icon draws."""
    drawn = page.run(f"document.querySelector(document.querySelector('{use}').href.baseVal)"
                     ".innerHTML")  # fmt: skip
    assert drawn
    return str(drawn)


def test_an_amended_result_shows_the_old_and_the_new_answer_and_stays_in_sight(
    page: Page, stage: Stage
) -> None:
    seq = stage.add(label="normal", confidence=0.61, state=State.PROVISIONAL)
    newest_is(page, seq)
    stage.review(seq, State.AMENDED, "PVC")
    page.wait("document.querySelector('#answer .was') !== null")
    assert page.text("#answer .label") == "PVC"
    assert page.text("#answer .was") == "Was: normal, 61.0 % by this device"
    assert page.text("#answer .was s") == "normal"
    page.wait("document.querySelector('#called').textContent.includes('was normal, now PVC')")
    for _ in range(8):
        last = stage.add()
    newest_is(page, last)
    assert "Last amended result PVC" in page.text("#pinned")
    assert "Was: normal" in page.text("#pinned")


def test_an_amendment_to_an_urgent_label_is_urgent_and_one_from_it_is_not(
    page: Page, stage: Stage
) -> None:
    seq = stage.add(label="normal", state=State.PROVISIONAL)
    newest_is(page, seq)
    assert page.run("document.querySelector('#answer .urgency')") is None
    stage.review(seq, State.AMENDED, "R-on-T PVC")
    page.wait("document.querySelector('#answer .urgency') !== null")
    said = f"Urgent: result {seq} is amended: was normal, now R-on-T PVC."
    page.wait(f"document.querySelector('#called').textContent === '{said}'")
    newest_is(page, stage.add())
    assert "Last urgent result R-on-T PVC" in page.text("#pinned")
    seq = stage.add(label="R-on-T PVC", tier=Tier.URGENT, state=State.PROVISIONAL)
    newest_is(page, seq)
    assert page.text("#answer .urgency") == "URGENT"
    stage.review(seq, State.AMENDED, "normal")
    page.wait("document.querySelector('#answer .urgency') === null")
    assert page.text("#answer .label") == "normal"


def test_a_rejected_result_says_what_to_do_and_gives_no_answer(page: Page, stage: Stage) -> None:
    seq = stage.add(rejected=True, label=None, state=State.UNREVIEWED, reason="lead II is flat")
    newest_is(page, seq)
    shown = page.text("#answer")
    for part in (
        "No answer",
        "Rejected",
        "lead II is flat",
        "What to do:",
        "take the sample again",
    ):
        assert part in shown
    assert page.run("document.querySelector('#answer .bars')") is None


def test_an_urgent_result_is_called_once_and_stays_in_sight(page: Page, stage: Stage) -> None:
    newest_is(page, stage.add(tier=Tier.URGENT, label="R-on-T PVC"))
    assert page.text("#answer .urgency") == "URGENT"
    page.wait("document.title.startsWith('URGENT')")
    assert page.text("#called") == "Urgent: R-on-T PVC, stream lead-II."
    calls(page)
    for tier in (Tier.URGENT, Tier.ROUTINE, Tier.URGENT, Tier.ROUTINE):
        newest_is(page, stage.add(tier=tier, label="R-on-T PVC"))
    assert page.run("window.calls") == 0
    stage.add(tier=Tier.URGENT, label="PVC")
    newest_is(page, stage.add())
    assert page.text("#called") == "Urgent: PVC, stream lead-II."
    stage.add(tier=Tier.URGENT, label="R-on-T PVC")
    newest_is(page, stage.add())
    assert "Last urgent result R-on-T PVC" in page.text("#pinned")


def test_whose_an_urgent_result_is_stays_in_sight_and_is_called(page: Page, stage: Stage) -> None:
    newest_is(page, stage.add(tier=Tier.URGENT, label="PVC", source="bed-1"))
    newest_is(page, stage.add(source="bed-1"))
    assert "stream bed-1" in page.text("#pinned").lower()
    newest_is(page, stage.add(source="bed-2"))
    assert "stream bed-1" in page.text("#pinned").lower()
    calls(page)
    for bed in ("bed-2", "bed-1", "bed-3"):
        newest_is(page, stage.add(tier=Tier.URGENT, label="PVC", source=bed))
        said = bed if bed != "bed-1" else "bed-2"
        assert page.text("#called") == f"Urgent: PVC, stream {said}."
    assert page.run("window.calls") == 2


def calls(page: Page) -> None:
    """Count from now on how often a reader is interrupted or told."""
    page.run(
        "window.calls = 0; for (const id of ['called', 'said']) new MutationObserver(() => "
        "window.calls++).observe(document.getElementById(id), {childList: true, subtree: true, "
        "characterData: true})"
    )


def test_what_comes_up_together_is_read_out_together_and_urgent_results_first(
    page: Page, stage: Stage
) -> None:
    first, second = (stage.add(state=State.PROVISIONAL, label=label) for label in ("normal", "PVC"))
    newest_is(page, second)
    page.run(
        "window.heard = []; new MutationObserver(() => window.heard.push(by('called').textContent))"
        ".observe(by('called'), {childList: true})"
    )
    page.run(
        f"for (const [seq, label] of [[{first}, 'PVC'], [{second}, 'R-on-T PVC']]) {{"
        "  const shown = known.results.find((one) => one.shown.seq === seq).shown;"
        "  const review = {...shown.review, label}, urgent = label === 'R-on-T PVC';"
        "  takeResults({results: [{...shown, state: 'amended', urgent, review}], missed: 0},"
        "    known.lastId);"
        "}"
        "takeHealth({...known.health, alarms: ['the primary engine is out']}); render()"
    )
    assert page.run("window.heard") == [
        f"Urgent: result {second} is amended: was PVC, now R-on-T PVC. "
        f"Result {first} is amended: was normal, now PVC. Alarm: the primary engine is out"
    ]


def test_an_alarm_that_names_another_device_is_called_anew(page: Page, stage: Stage) -> None:
    for number in (0, 1):
        alarm = f"a source has failed: camera:{number} is gone"
        stage.change(status="alarm", alarms=(alarm,))
        page.wait(f"document.querySelector('#called').textContent === 'Alarm: {alarm}'")


def test_routine_results_are_not_read_out(page: Page, stage: Stage) -> None:
    newest_is(page, stage.add())
    calls(page)
    for _ in range(5):
        newest_is(page, stage.add())
    assert page.run("window.calls") == 0
    live = "[...document.querySelectorAll('[aria-live], [role=alert], [role=status]')]"
    assert page.run(f"{live}.map(one => one.id).join()") == "said,called"


def test_what_the_device_sends_is_text(page: Page, stage: Stage) -> None:
    stage.run(degraded=HOSTILE)
    stage.change(model=HOSTILE, device=HOSTILE, site=HOSTILE, alarms=(HOSTILE,),
                 dropped={HOSTILE: 3})  # fmt: skip
    labels = (HOSTILE, *stage.manifest.output.labels[1:])
    output = msgspec.structs.replace(stage.manifest.output, labels=labels)
    manifest = msgspec.structs.replace(stage.manifest, output=output)
    first = stage.add(state=State.PROVISIONAL, label=HOSTILE, reason=HOSTILE, source=HOSTILE,
                      degraded=HOSTILE, manifest=manifest)  # fmt: skip
    stage.review(first, State.AMENDED, HOSTILE)
    newest_is(page, first)
    newest_is(page, stage.add())
    page.wait("document.querySelector('#alarms').innerText.includes('<script>')")
    for where in ("#place", "#model", "#alarms", "#degraded-device", "#losses", "#earlier .reason",
                  "#earlier .degraded", "#earlier .label", "#pinned"):  # fmt: skip
        assert HOSTILE in page.text(where), where
    assert page.run("document.querySelectorAll('img, script:not([src])').length") == 0
    assert page.run("document.title") != "taken"


@pytest.mark.parametrize(
    ("state", "age_s", "word"),
    [
        ("connected", 2.0, "Connected"),
        ("disconnected", 30.0, "Disconnected"),
        ("silent", 90.0, "Silent"),
        ("unanswered", 42.0, "No receipts"),
        ("unknown", None, "Unknown"),
    ],
)
def test_the_link_has_a_word_a_shape_and_an_age(
    page: Page, stage: Stage, state: Any, age_s: float | None, word: str
) -> None:
    stage.change(link=Link(state, age_s))
    page.wait(f"document.querySelector('#link').textContent === '{word}'")
    assert page.run("document.querySelector('#link use').getAttribute('href')") == f"#{state}"
    shape(page, "#link use")
    assert page.text("#link-age") == "never heard" or page.text("#link-age").endswith(" ago")


def test_alarms_show_and_are_called_once_though_their_seconds_tick(
    page: Page, stage: Stage
) -> None:
    stage.change(status="alarm", alarms=("a source has been silent for 4 s",))
    page.wait("document.querySelector('#alarms').innerText.includes('for 4 s')")
    assert page.text("#alarms") == "ALARM a source has been silent for 4 s"
    shape(page, "#alarms use")
    assert page.text("#called") == "Alarm: a source has been silent for 4 s"
    assert page.run("document.title") == "ALARM: bed-7"
    calls(page)
    stage.change(alarms=("a source has been silent for 5 s",))
    page.wait("document.querySelector('#alarms').innerText.includes('for 5 s')")
    assert page.run("window.calls") == 0
    stage.change(status="ok", alarms=())
    page.wait("document.querySelector('#alarms').hidden")
    page.wait("document.title === 'Live: bed-7'")


@pytest.mark.parametrize("what", ["full", "hangs", "old"])
def test_a_device_that_does_not_answer_now_is_not_live(page: Page, stage: Stage, what: str) -> None:
    newest_is(page, stage.add())
    if what == "full":
        stage.change(serving=False, status="alarm", alarms=("the queue is full",))
    elif what == "hangs":
        stage.run(busy_s=6.0)
    else:
        stage.ahead = 31.0
        page.ask("Page.reload")
    page.wait(NOT_LIVE)
    page.wait(
        {
            "full": "document.querySelector('.bar')?.innerText.includes('does not answer now')",
            "hangs": "document.querySelector('.bar')?.innerText.includes('been at one sample')",
            "old": "document.querySelector('.bar')?.innerText.includes('No new result')",
        }[what]
    )
    assert page.text(".bar").startswith("NOT LIVE")
    assert page.run("document.title").startswith("NOT LIVE")
    assert page.text("#newest-title") == "Last known result, not live"
    assert shape(page, ".bar use") != shape_of(page, "#live")


def shape_of(page: Page, symbol: str) -> str:
    return str(page.run(f"document.querySelector('{symbol}').innerHTML"))


def test_the_page_is_not_live_until_it_has_heard_the_device(browser: Browser, stage: Stage) -> None:
    page = browser.open(stage.address)
    source = page.run("fetch('/').then(answer => answer.text())")
    assert 'data-live="no"' in source
    assert "<title>NOT LIVE" in source
    assert '<html lang="en">' in source
    page.close()


def test_a_script_that_has_stopped_shows_as_not_live(page: Page) -> None:
    veil = "getComputedStyle(document.querySelector('.frozen')).opacity"
    assert page.run(veil) == "0"
    page.run("for (let i = 0; i < 10000; i++) clearInterval(i); known.stop(); render = () => {}")
    page.wait(f"{veil} === '1'", 20)
    assert page.text(".frozen").startswith("NOT LIVE")


@pytest.mark.parametrize("gone", ["renderResults", "renderSample"])
def test_a_part_of_the_script_that_did_not_load_shows_as_not_live(page: Page, gone: str) -> None:
    page.run(f"{gone} = undefined")
    page.wait("getComputedStyle(document.querySelector('.frozen')).opacity === '1'", 20)


def test_what_cannot_be_read_is_not_live(page: Page) -> None:
    page.run("try { take('event: results\\nid: a-1-1\\ndata: {') } catch (e) { window.was = e }")
    assert page.run("window.was.message") == "The device sent what this page cannot read."


def test_a_page_open_for_days_keeps_fifty_results(page: Page, stage: Stage) -> None:
    for _ in range(4):
        for _ in range(40):
            last = stage.add()
        newest_is(page, last)
    assert page.run("document.querySelectorAll('#earlier li').length") == 49
    assert page.run("[known.results.length, items.size]") == [50, 49]


def test_the_last_urgent_and_a_late_amendment_are_shown_however_many_follow(
    page: Page, stage: Stage, browser: Browser
) -> None:
    doubted = stage.add(state=State.PROVISIONAL, label="normal", source="bed-6")
    newest_is(page, stage.add(tier=Tier.URGENT, label="R-on-T PVC", source="bed-7"))
    for _ in range(2):
        for _ in range(30):
            last = stage.add()
        newest_is(page, last)
    assert "Last urgent result R-on-T PVC" in page.text("#pinned")
    assert page.run("document.querySelectorAll('#earlier li').length") == 49
    stage.review(doubted, State.AMENDED, "PVC")
    said = f"Result {doubted} is amended: was normal, now PVC."
    page.wait(f"document.querySelector('#called').textContent === '{said}'")
    assert "Last amended result PVC" in page.text("#pinned")
    another = browser.open(stage.address)
    newest_is(another, last)
    for part in ("Last urgent result R-on-T PVC", "Last amended result PVC"):
        assert part in another.text("#pinned")
    another.close()
    newest_is(page, stage.add(tier=Tier.URGENT, label="PVC"))
    newest_is(page, stage.add())
    assert "Last urgent result PVC" in page.text("#pinned")
    assert "bed-7" not in page.text("#pinned")


def test_results_that_come_too_fast_to_be_shown_are_told(page: Page, stage: Stage) -> None:
    newest_is(page, stage.add())
    for _ in range(90):
        last = stage.add()
    newest_is(page, last)
    page.wait("!document.querySelector('#news').hidden")
    assert "can no longer be shown here" in page.text("#news-text")
    page.run("document.querySelector('#news-seen').focus()")
    assert page.run("document.activeElement.id") == "news-seen"
    for kind in ("keyDown", "keyUp"):
        page.ask("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r",
                 windowsVirtualKeyCode=13)  # fmt: skip
    page.wait("document.querySelector('#news').hidden")


def test_a_page_that_comes_back_goes_on_where_it_was(page: Page, stage: Stage) -> None:
    for _ in range(60):
        last = stage.add()
    newest_is(page, last)
    page.wait("known.lastId !== ''")
    page.run("document.querySelector('#news-seen').click()")
    page.run("known.stop()")
    newest_is(page, stage.add())
    page.wait(LIVE)
    page.wait("document.querySelector('#news-text').innerText.startsWith('1 result came while')")
    assert "no longer" not in page.text("#news-text")
    assert page.text("#answer").startswith("normal")
    asked = [event["request"] for event in page.events("Network.requestWillBeSent")]
    told = [one["headers"].get("Last-Event-ID") for one in asked if one["url"].endswith("/events")]
    assert told[0] is None
    assert told[-1]


def test_a_signal_is_drawn_with_its_units_and_seconds(page: Page, stage: Stage) -> None:
    spec = msgspec.structs.replace(
        stage.manifest.inputs[0], units="mV", sampling_hz=100.0, leads=("II",)
    )
    manifest = msgspec.structs.replace(stage.manifest, inputs=(spec,))
    newest_is(page, stage.add(np.sin(np.arange(140) / 9), manifest))
    page.wait("document.querySelector('#drawing .curve') !== null")
    assert page.text(".lead p") == "II: \N{MINUS SIGN}1 to 1 mV"
    assert page.text(".axis").split() == ["0", "0.5", "1", "s"]
    page.wait("document.querySelector('#caption').innerText.includes('of this result')")


def test_a_picture_is_drawn(page: Page, stage: Stage) -> None:
    pytest.importorskip("cv2", reason="the vision extra is not installed")
    from bedsides import PICTURE

    manifest = msgspec.structs.replace(stage.manifest, inputs=(PICTURE,))
    newest_is(page, stage.add(np.full((40, 60, 3), 200, np.uint8), manifest))
    page.wait("document.querySelector('canvas') !== null")
    pixel = "[...document.querySelector('canvas').getContext('2d').getImageData(5, 5, 1, 1).data]"
    assert page.run(pixel) == [200, 200, 200, 255]


CONTRAST = """(() => {
  const parse = (text) => [...text.matchAll(/rgba?\\(([^)]*)\\)/g)].map((m) =>
    m[1].split(/[ ,/]+/).map(Number)).filter((c) => c.length < 4 || c[3] > 0);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) =>
    v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const style = getComputedStyle(one);
      const found = [...parse(style.backgroundColor), ...parse(style.backgroundImage)];
      if (found.length) return found;
    }
    return [[255, 255, 255]];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const bad = [];
  let count = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest('.heard, .frozen, noscript')) continue;
    if (!element.getClientRects().length) continue;
    count += 1;
    const ink = light(parse(getComputedStyle(element).color)[0]);
    for (const ground of behind(element).map(light)) {
      const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
      if (ratio < 4.5) bad.push([walker.currentNode.data, ratio]);
    }
  }
  return { count, bad };
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(page: Page, stage: Stage, scheme: str) -> None:
    page.prefer(prefers_color_scheme=scheme)
    show_everything(stage)
    stage.run(degraded="on the CPU")
    stage.change(status="alarm", alarms=("a source has failed",), signed=False)
    page.wait("document.querySelectorAll('#earlier li').length === 7")
    page.wait("document.querySelector('#drawing .curve') !== null")
    for serving in (True, False):
        stage.change(serving=serving)
        page.wait(LIVE if serving else NOT_LIVE)
        found = page.run(CONTRAST)
        assert found["count"] > 60
        assert found["bad"] == []


@pytest.mark.parametrize(("width", "zoom"), [(320, 1), (375, 1), (1280, 2), (1920, 1)])
def test_nothing_is_cut_off_at_any_width(page: Page, stage: Stage, width: int, zoom: int) -> None:
    page.size(width // zoom, 800, zoom)
    show_everything(stage)
    stage.change(device=LONG, model=LONG, alarms=(LONG,), dropped={LONG: 1})
    newest_is(page, stage.add(source=LONG, reason=LONG, degraded=LONG, label="normal"))
    page.wait(f"document.querySelector('#model').textContent === '{LONG}'")
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.run(wide) == 0
    outside = ("[...document.querySelectorAll('body *')].filter(one => one.getClientRects().length "
               "&& !one.closest('.heard, .symbols') && one.getBoundingClientRect().right > "
               "innerWidth + 1).length")  # fmt: skip
    assert page.run(outside) == 0


def test_forced_colours_and_reduced_motion_keep_the_bar_and_the_veil(
    page: Page, stage: Stage
) -> None:
    newest_is(page, stage.add())
    page.prefer(forced_colors="active", prefers_reduced_motion="reduce")
    assert page.run("getComputedStyle(document.querySelector('#answer .mark')).stroke") != "none"
    running = "document.getAnimations().map(one => one.animationName).join()"
    assert page.run(running) == "come"


class Device:
    """`edgeclin run` with its page, as a process."""

    def __init__(self, folder: Path, bundle: Path, keys: Path, queue: str = "") -> None:
        with np.load(ECG / "data" / "test.npz") as arrays:
            np.savez(folder / "beats.npz", X=arrays["X"])
        self._config = folder / "device.toml"
        self._config.write_text(
            f'schema = 1\nsite = "ward-3"\ndevice = "bed-7"\nbundle = "{bundle}"\n'
            f'source = "{folder / "beats.npz"}"\n'
            f'[queue]\npath = "{folder / "queue.sqlite"}"\n{queue}'
        )
        self._log = folder / "run.log"
        self._environment = {**os.environ, "EDGECLIN_KEYS": str(keys)}
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}/"

    def start(self, rate: float) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edgeclin", "run", "--config", str(self._config),
                 "--rate", str(rate), "--http", str(self.port)],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment,
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while f"serving {self.address}" not in self._log.read_text().rpartition("---")[2]:
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.1)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        with self._log.open("a") as log:
            log.write("---")


def test_a_device_that_is_stopped_killed_and_started_again_is_never_shown_as_live_meanwhile(
    browser: Browser, tmp_path: Path, bundle_path: Path, key_pair: KeyPair
) -> None:
    device = Device(tmp_path, bundle_path, key_pair.public.parent)
    device.start(rate=3)
    page = browser.open(device.address)
    try:
        page.wait(LIVE)
        page.wait("document.querySelectorAll('#earlier li').length > 2")
        assert page.text("#answer .state").split()[0] in ("Final", "Provisional")
        page.wait("document.querySelector('#drawing .curve') !== null")

        device.signal(signal.SIGSTOP)
        page.wait(NOT_LIVE, 10)
        page.wait("document.querySelector('.bar')?.innerText.includes('The device is silent')")
        device.signal(signal.SIGCONT)
        page.wait(LIVE)

        device.kill()
        page.wait(NOT_LIVE, 5)
        page.wait("document.querySelector('.bar')?.innerText.includes('connection')")
        first = page.run("document.querySelector('#earlier .age').textContent")
        page.wait(f"document.querySelector('#earlier .age').textContent !== {json.dumps(first)}")
        assert page.text("#newest-title") == "Last known result, not live"

        device.start(rate=3)
        page.wait(LIVE)
        page.wait("document.querySelector('#news-text').innerText.includes('has restarted')")
        assert "came while this page was not live" in page.text("#news-text")
        seqs = page.run("known.results.map(one => one.shown.seq)")
        assert seqs == sorted(set(seqs), reverse=True)

        asked = page.events("Network.requestWillBeSent")
        hosts = {urlsplit(event["request"]["url"]).netloc for event in asked}
        assert hosts == {f"127.0.0.1:{device.port}"}
        assert page.events("Runtime.exceptionThrown") == []
    finally:
        device.signal(signal.SIGCONT)
        device.kill()
        page.close()


def test_a_full_queue_is_an_alarm_and_not_live(
    browser: Browser, tmp_path: Path, bundle_path: Path, key_pair: KeyPair
) -> None:
    device = Device(tmp_path, bundle_path, key_pair.public.parent, "max_mb = 1\n")
    device.start(rate=100_000)
    page = browser.open(device.address)
    try:
        page.wait("document.querySelector('#alarms').innerText.includes('ALARM')", 60)
        page.wait(NOT_LIVE)
        assert "full" in page.text("#alarms")
        assert page.run("document.title") == "NOT LIVE, ALARM: bed-7"
    finally:
        device.kill()
        page.close()
