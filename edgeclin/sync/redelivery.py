"""What becomes of what was sent and not taken: sent again, tried alone, stopped, or set aside."""

from __future__ import annotations

import logging

from edgeclin import wire
from edgeclin.sync.asking import Asking
from edgeclin.sync.delivery import Delivery
from edgeclin.sync.stops import Stops
from edgeclin.sync.trials import Suspects, Trials
from edgeclin.sync.window import Flight
from edgeclin.transport import Refusal

log = logging.getLogger(__name__)

_PASSED_OVER = 3
_ALONE_S = 5.0
"""A connection that stands for so long after a message did not end for it."""
_UNFIT = frozenset({0x95, 0x99})
"""Reason codes of MQTT 5 (2.4) that blame the message: packet too large, payload format invalid.
Others say that nothing is taken now, such as a quota or what the broker's rules do not allow."""


class Redelivery:
    """Sends again what got no receipt or was refused, and finds the row that is to blame.

    Args:
        most_s: how long the receipt of any cloud may take.
    """

    def __init__(
        self,
        topics: wire.Topics,
        delivery: Delivery,
        asking: Asking,
        stops: Stops,
        trials: Trials,
        most_s: float,
    ) -> None:
        self._topics, self._delivery, self._asking = topics, delivery, asking
        self._window = delivery.window
        self._stops, self._trials, self._most_s = stops, trials, most_s
        self._stopped: list[Flight] = []

    def begin(self, now: float) -> None:
        """Forget what went over a connection that is gone."""
        self._stopped.clear()
        self._trials.put_off(now)

    def give_up_connection(self, misses: int, now: float) -> None:
        """Forget what went over a connection on which nothing is heard. Where a new one did not
        help before, what was sent may be what the cloud cannot read.

        Args:
            misses: how often in a row that happened.
        """
        gone = self._window.clear()
        self._trials.put_off(now, apart=misses > 1)
        if misses > 1:
            self._trials.suspect(gone, (), ends=False)

    def send_overdue(self, now: float) -> bool:
        """Send again what got no receipt in time, and what was stopped and may go now; whether
        suspects of before are as all others again, so that all is to be sent from the oldest on."""
        freed = False
        for flight in self._window.overdue(now):
            if self._trials.current is not None and flight in self._trials.current.flights:
                self._end_trial(flight, now)
                continue
            log.warning("no receipt in time for %d rows: sending them again", len(flight.seqs))
            if self._too_long(flight, now) and self._window.receipted_at <= flight.first_sent_at:
                freed = self._trials.suspect([flight], (), ends=False) or freed
                continue
            if flight.passed_over < _PASSED_OVER or not self._too_long(flight, now):
                self._delivery.send_again(flight, now)
            else:
                why = f"no receipt {flight.passed_over} times, while others got theirs"
                self._delivery.divide(flight, why, now)
        stopped, self._stopped = self._stopped, []
        for flight in stopped:
            if self._stops.stopped(self._topics.up(flight.tier), now):
                self._stopped.append(flight)
            else:
                self._delivery.send_again(flight, now)
        return freed

    def try_suspects(self, now: float) -> None:
        """Send the next group of suspects; one that may end the connection when nothing else is on
        its way, and nothing goes beside it until it has had the time to."""
        trial = self._trials.current
        if trial is not None:
            arrived = not any(flight.seqs for flight in trial.flights)
            if trial.tier is None:
                arrived = trial.seqs[0] not in self._asking.outstanding
            survived = trial.ends and now - trial.sent_at >= _ALONE_S
            if arrived or (survived and trial.tier is None):
                self._trials.pass_(now)
            elif survived:
                trial.ends = False
            return
        group = self._trials.waiting(now)
        if group is None or (group.ends and (self._window.busy or self._asking.outstanding)):
            return
        trial = self._trials.begin(now)
        if trial.tier is None:
            self._asking.ask_about(trial.seqs[0], now)
            return
        rows = self._delivery.rows(trial.tier, trial.seqs)
        trial.flights = self._delivery.publish(trial.tier, rows, now)

    def connection_ended(self, why: str, now: float) -> bool:
        """Suspect all that was on its way as a connection ended for what was sent; what was alone
        is to blame. Returns whether anything was: else it was a status message."""
        gone, asked = self._window.clear(), self._asking.outstanding
        self._asking.clear()
        trial = self._trials.current
        if trial is not None and trial.ends:
            if blamed := self._trials.fail(now):
                self._give_up(blamed, why)
        elif gone or asked:
            if trial is not None:
                trial.ends = True
            self._trials.put_off(now)
            self._trials.suspect(gone, asked, ends=True)
        else:
            return False
        return True

    def refused(self, refusal: Refusal, token: int, now: float) -> None:
        """Stop, send in parts, or set aside the message with that token, as the broker's reason
        is."""
        why = refused_why(refusal)
        flight = self._window.refused(token)
        topic, asked = self._asking.refused(token)
        if flight is not None:
            topic = self._topics.up(flight.tier)
        trial = self._trials.current
        tried = trial is not None and flight in trial.flights
        if flight is None and not asked:
            log.warning("the broker refuses a status message: %s", refusal.reason)
        elif refusal.code not in _UNFIT:
            if not self._stops.stopped(topic, now):
                log.error("ALARM: the broker refuses what is sent on %s: %s", topic, refusal.reason)
            self._stops.stop(topic, refusal.reason, now)
            if tried:
                self._trials.put_off(now)
            elif flight is not None:
                self._stopped.append(flight)
        elif flight is not None:
            if tried:
                self._trials.pass_(now)
            self._delivery.divide(flight, why, now)
        for seq in asked if refusal.code in _UNFIT else ():
            self._asking.give_up(seq, why)

    def _end_trial(self, flight: Flight, now: float) -> None:
        """Where suspects got no receipt: blame them if others got theirs meanwhile."""
        trial = self._trials.current
        assert trial is not None
        if trial.ends or self._window.receipted_at <= flight.sent_at:
            trial.ends = False
            self._trials.put_off(now, apart=True)
        elif not self._too_long(flight, now):
            trial.flights = self._delivery.send_again(flight, now)
        elif blamed := self._trials.fail(now):
            self._give_up(blamed, f"no receipt {blamed.strikes} times, while others got theirs")

    def _too_long(self, flight: Flight, now: float) -> bool:
        """Whether a receipt has not come for longer than that of any cloud may take."""
        return now - flight.first_sent_at >= self._most_s

    def _give_up(self, blamed: Suspects, why: str) -> None:
        """Keep what is to blame from being sent."""
        if blamed.tier is None:
            self._asking.give_up(blamed.seqs[0], why)
            return
        for row in self._delivery.rows(blamed.tier, blamed.seqs):
            self._delivery.set_aside(row, why)


def refused_why(refusal: Refusal) -> str:
    """A broker's refusal, in a sentence."""
    return f"the broker refuses it: {refusal.reason}"
