"""An input too large for one message, a real broker and real workers: it arrives, and holds up
nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from polling import wait_until

from edgeclin import wire
from edgeclin.bundle import Bundle
from edgeclin.records import Result, State, Tier
from faults.network import PROFILES
from faults.ward import Ward, needs_mosquitto

Make = Callable[..., Result]


def sent_of_it(here: Ward) -> int:
    """Bytes of inputs that the store has."""
    (found,) = here.store.inputs._database.all("SELECT SUM(LENGTH(data)) FROM parts")[0]
    return found or 0


def put(here: Ward, make_result: Make, values: int) -> None:
    sample = np.random.default_rng(1).integers(0, 256, values, np.uint8)
    here.queue.put(make_result(0, state=State.PROVISIONAL), sample, deadline_s=300.0)


@needs_mosquitto
@pytest.mark.parametrize("profile", ["loopback", "3g"])
def test_an_input_of_some_megabytes_is_judged(
    ward: Callable[..., Ward], make_result: Make, bundle: Bundle, profile: str
) -> None:
    here = ward(PROFILES[profile])
    here.join_offload(bundle)
    values = 150_000 if profile == "3g" else 5_000_000
    put(here, make_result, values)
    wait_until(lambda: here.agent.opinions == 1, "the opinion came", 90)
    reviews = here.queue.reviews(0)
    assert f"shape [{values}]" in next(iter(reviews.values())).reason, "the model had all of it"
    wait_until(lambda: here.agent.idle, "nothing is left")


@needs_mosquitto
def test_an_urgent_result_does_not_wait_behind_a_large_input(
    ward: Callable[..., Ward], make_result: Make
) -> None:
    """1.5 MB: nearly a minute of this link."""
    here = ward(PROFILES["slow"])
    put(here, make_result, 1_500_000)
    wait_until(lambda: sent_of_it(here) > 60_000, "the upload is running", 60)
    took = [here.receipt_s(make_result(at, tier=Tier.URGENT)) for at in range(1, 6)]
    assert sent_of_it(here) < 1_500_000, "the upload is still running"
    assert sorted(took)[2] < 1.5, "it waited for a part or two, and not for the input"


@needs_mosquitto
def test_what_is_stored_is_not_sent_again_whoever_is_started_anew(
    ward: Callable[..., Ward], make_result: Make
) -> None:
    here = ward(PROFILES["slow"])
    put(here, make_result, 200_000)
    asked = next(iter(here.queue.questions())).ask
    for share in (0.2, 0.5):
        wait_until(lambda least=share: sent_of_it(here) > least * len(asked), "a share", 60)
        here.restart_ingest()
        before = here.sessions
        here.network.strand()
        wait_until(lambda least=before: here.sessions > least, "that is seen", 15)
    wait_until(lambda: sent_of_it(here) == len(asked), "all of it", 90)
    parts = here.store.inputs._database.all("SELECT COUNT(*) FROM parts")
    sent = here.agent.health().sent
    assert sent < 1.8 * len(asked), f"in {parts[0][0]} parts"
    digest = here.store.inputs._database.all("SELECT sha256 FROM wholes")[0][0]
    assert here.store.inputs.read(wire.Topics("ward", "bed"), digest) == asked
