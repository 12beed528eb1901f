"""The durable queue between the process that judges and the process that delivers."""

from edgeclin.offline_queue.expiring import Expiring
from edgeclin.offline_queue.keyring import NO_KEYS, Keyring, handed_by_systemd, load_keyring
from edgeclin.offline_queue.notices import Notices, Telling, Told
from edgeclin.offline_queue.quarantine import damaged_queues
from edgeclin.offline_queue.questions import OpenQuestion, Question
from edgeclin.offline_queue.queue import ENDED, OfflineQueue, Stored
from edgeclin.offline_queue.rows import Row
from edgeclin.offline_queue.standing import (
    Standing,
    Usage,
    WaitingRow,
    disk_alarm,
    look,
    remembered,
    waiting,
)

__all__ = [
    "ENDED",
    "NO_KEYS",
    "Expiring",
    "Keyring",
    "Notices",
    "OfflineQueue",
    "OpenQuestion",
    "Question",
    "Row",
    "Standing",
    "Stored",
    "Telling",
    "Told",
    "Usage",
    "WaitingRow",
    "damaged_queues",
    "disk_alarm",
    "handed_by_systemd",
    "load_keyring",
    "look",
    "remembered",
    "waiting",
]
