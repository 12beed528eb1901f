"""What was stored in plain or with another key, sealed with the first key, a little at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from edgeclin.errors import BadSeal, KeyAbsent
from edgeclin.offline_queue.database import Database
from edgeclin.offline_queue.keyring import MARK, Keyring, Role
from edgeclin.offline_queue.payloads import PayloadFolder
from edgeclin.records import Tier

_ROWS_AT_ONCE = 64
_QUESTIONS_AT_ONCE = 8
"""Of at most 64 KiB each: a `put` of another process waits meanwhile."""
_PAUSE_S = 0.002
"""In which one that waits gets its turn."""


@dataclass(slots=True)
class Rekeyed:
    """What was sealed anew.

    Attributes:
        absent: values that stay sealed with a key that is not there.
        damaged: values that cannot be opened with the key that is theirs.
        rebuilt: whether the file was written anew, with nothing left in it of what was deleted.
    """

    rows: int = 0
    questions: int = 0
    payloads: int = 0
    reviews: int = 0
    absent: int = 0
    damaged: int = 0
    rebuilt: bool = False


class Rekeying:
    """Seals everything in one queue with the first key of its keyring.

    What is read between two transactions may be gone in the next one, but never other than it was.
    So a process that is killed has done a part, and nothing by halves.
    """

    def __init__(self, database: Database, payloads: PayloadFolder, keyring: Keyring) -> None:
        self._database = database
        self._payloads = payloads
        self._keyring = keyring
        self._found = Rekeyed()

    def run(self, tell: Callable[[float], None]) -> Rekeyed:
        """Do it, and make it safe from a power cut; `tell` gets the share of rows that is done."""
        self._rows(tell)
        self._questions()
        self._payload_files()
        self._reviews()
        self._database.flush()
        return self._found

    def _rows(self, tell: Callable[[float], None]) -> None:
        last, after = self._database.one("SELECT MAX(seq) FROM rows"), 0
        most = int(last[0] or 0) if last else 0
        while rows := self._database.all(
            """
            SELECT seq, id, kind, body FROM rows
            WHERE seq > ? AND seq <= ? AND substr(body, 1, ?) <> ? ORDER BY seq LIMIT ?
            """,
            (after, most, MARK, self._keyring.mark, _ROWS_AT_ONCE),
        ):
            after = rows[-1][0]
            changed = [
                (sealed, seq)
                for seq, identity, kind, body in rows
                if (sealed := self._anew(body, kind, identity)) is not None
            ]
            with self._database.transaction(Tier.BULK) as db:
                db.executemany("UPDATE rows SET body = ? WHERE seq = ?", changed)
            self._found.rows += len(changed)
            tell(after / most)
            time.sleep(_PAUSE_S)

    def _questions(self) -> None:
        after = 0
        while rows := self._database.all(
            """
            SELECT seq, result, label, ask FROM questions
            WHERE seq > ? AND (substr(label, 1, ?) <> ? OR substr(ask, 1, ?) <> ?)
            ORDER BY seq LIMIT ?
            """,
            (after, MARK, self._keyring.mark, MARK, self._keyring.mark, _QUESTIONS_AT_ONCE),
        ):
            after = rows[-1][0]
            with self._database.transaction(Tier.BULK) as db:
                for seq, result, label, ask in rows:
                    text = label.encode() if isinstance(label, str) else label
                    sealed = self._anew(text, "label", result), self._anew(ask, "ask", result)
                    if sealed == (None, None):
                        continue
                    self._found.questions += db.execute(
                        """
                        UPDATE questions SET
                            label = coalesce(?, label),
                            ask = CASE WHEN ask IS NULL THEN NULL ELSE coalesce(?, ask) END
                        WHERE seq = ?
                        """,
                        (*sealed, seq),
                    ).rowcount
            time.sleep(_PAUSE_S)

    def _payload_files(self) -> None:
        files = "SELECT file FROM questions WHERE file IS NOT NULL"
        for (file,) in self._database.all(files):
            # The lock of a write: who opens the queue meanwhile sweeps what has no row.
            with self._database.transaction(Tier.BULK) as db:
                asked = db.execute(f"{files} AND file = ?", (file,)).fetchone()
                sealed = self._anew(self._payloads.read(file), "ask", file) if asked else None
                if sealed is not None:
                    self._payloads.write(file, sealed)
                    self._found.payloads += 1
            time.sleep(_PAUSE_S)

    def _reviews(self) -> None:
        rows = self._database.all(
            "SELECT seq, body FROM reviews WHERE substr(body, 1, ?) <> ?",
            (MARK, self._keyring.mark),
        )
        with self._database.transaction(Tier.BULK) as db:
            for seq, body in rows:
                sealed = self._anew(body, "kept review", str(seq))
                if sealed is not None:
                    # Another review of the same result may have come meanwhile.
                    self._found.reviews += db.execute(
                        "UPDATE reviews SET body = ? WHERE seq = ? AND body = ?",
                        (sealed, seq, body),
                    ).rowcount

    def _anew(self, value: object, role: Role, identity: str) -> bytes | None:
        """The value under the first key; None where it is so, there is none, or it must stay."""
        if not isinstance(value, bytes) or value.startswith(self._keyring.mark):
            return None
        try:
            return self._keyring.seal(self._keyring.open(value, role, identity), role, identity)
        except KeyAbsent:
            self._found.absent += 1
        except BadSeal:
            self._found.damaged += 1
        return None
