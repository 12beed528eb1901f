"""What one device is told about itself: `device.toml`, shared by `run` and `sync`."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from edgeclin.errors import BadFile, EdgeclinError
from edgeclin.records import Record, load_toml

SCHEMA = 1
_TOPIC_LEVEL = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DAY_S = 86_400

FileName: TypeAlias = Annotated[str, Meta(pattern=r"\A[^\0]+\Z")]
Host: TypeAlias = Annotated[str, Meta(pattern=r"\A[^\s\0]+\Z")]
Hours: TypeAlias = Annotated[
    str, Meta(pattern=r"\A([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d\Z")
]
"""Such as `22:00-06:00`, by local time."""
UInt16: TypeAlias = Annotated[int, Meta(ge=1, le=65_535)]
"""What MQTT 5 keeps in two bytes: the keep alive (3.1.2.10), the receive maximum (3.1.2.11.3)."""

MOST_ROWS = 10_000
MOST_ROW_BYTES = 32 << 20
"""Of one batch, as rows of JSON: the cloud reads no more, for few bytes can stand for many."""
DEADLINE_MOST_MS = 4000.0
"""The primary engine and its CPU twin may both miss it before the watchdog takes `run` as stuck."""


class QueueConfig(Record, frozen=True):
    """Where results wait, and how much room they may take."""

    path: FileName
    key: FileName | None = None
    """A file of keys that seal what waits, or `credential:NAME`; without it all is plain."""
    max_mb: Annotated[int, Meta(ge=1, le=1 << 24)] = 512
    urgent_alarm_s: Annotated[float, Meta(ge=0)] = 600.0
    """An urgent result that has waited so long for the cloud is an alarm; 0: it never is."""
    routine_sync_ms: Annotated[int, Meta(ge=0, le=60_000)] = 200
    """The most that a power cut may take of routine results, in milliseconds."""


class BrokerConfig(Record, frozen=True):
    """How to reach an MQTT 5 broker. With `ca` the link is TLS, else plain TCP, on this machine or
    where `plaintext` asks for it."""

    host: Host = "127.0.0.1"
    port: UInt16 = 1883
    ca: FileName | None = None
    certificate: FileName | None = None
    key: FileName | None = None
    plaintext: bool = False
    keepalive_s: UInt16 = 20
    reconnect_most_s: Annotated[float, Meta(ge=0.1, le=_DAY_S)] = 30.0
    """Upper bound of the exponential backoff between attempts to connect."""


class OpinionConfig(Record, frozen=True):
    """What the cloud is asked, and when a provisional answer is left to a person."""

    deadline_s: Annotated[float, Meta(gt=0, le=(1 << 32) - 1)] = 60.0
    """A question expires with it, and MQTT 5 counts that in four bytes (3.3.2.3.3)."""
    spare_mb: Annotated[float, Meta(ge=0, le=1 << 20)] = 0.0
    """Megabytes of samples whose answers are confident, the most doubtful of them, that are kept to
    ask about while the link is free; 0 for none."""


class BudgetConfig(Record, frozen=True):
    """What the link may carry: urgent results whatever it says, the others within it."""

    day_mb: Annotated[float, Meta(gt=0, le=1 << 20)] | None = None
    """Megabytes a day; without it as much as there is."""
    bulk_hours: Hours | None = None
    """When bulk may go; without it at any hour."""
    metered: Literal["auto", "yes", "no"] = "auto"
    """Whether the link costs by the byte, so that bulk waits; `auto`: as NetworkManager says."""


class SyncConfig(Record, frozen=True):
    """How the agent sends."""

    batch_results: Annotated[int, Meta(ge=1, le=MOST_ROWS)] = 256
    batch_bytes: Annotated[int, Meta(ge=1, le=MOST_ROW_BYTES)] = 120 * 1024
    window_batches: UInt16 = 16
    receipt_timeout_s: Annotated[float, Meta(ge=0.1, le=_DAY_S)] = 10.0
    receipt_most_s: Annotated[float, Meta(ge=0.1, le=_DAY_S)] = 60.0
    """Upper bound of that timeout, which doubles while the cloud says nothing at all."""
    command_keys: tuple[FileName, ...] = ()
    """Public keys of those whose commands this device takes; without one it takes none."""
    budget: BudgetConfig = BudgetConfig()


class IsolationConfig(Record, frozen=True):
    """An engine in a process of its own, which is ended when it misses a deadline."""

    deadline_ms: Annotated[float, Meta(gt=0, le=DEADLINE_MOST_MS)] | None = None
    restart_most_s: Annotated[float, Meta(ge=0.1, le=_DAY_S)] = 60.0
    """Upper bound of the exponential backoff between attempts to start an engine again."""

    def deadline_s(self, budget_ms: float) -> float:
        """The longest an inference may take, in seconds.

        Unless the file says: ten times the profile's latency budget, and at least 1 s, since a
        machine that swaps or is busy should not cost a restart.
        """
        default = min(max(10 * budget_ms, 1000.0), DEADLINE_MOST_MS)
        return (default if self.deadline_ms is None else self.deadline_ms) / 1000


class HTTPConfig(Record, frozen=True):
    """The endpoint of `edgeclin run`, which knows no users: whoever reaches it may ask it all."""

    port: Annotated[int, Meta(ge=0, le=65_535)] = 8080
    """0 for any that is free."""
    host: Host = "127.0.0.1"
    beyond_loopback: bool = False
    """Whether other machines may reach it, too."""
    max_body_mb: Annotated[int, Meta(ge=1, le=1024)] = 8
    answer_s: Annotated[float, Meta(gt=0, le=_DAY_S)] = 10.0
    """How long a request waits for its answer; it is stored all the same."""

    @property
    def on_loopback(self) -> bool:
        return is_loopback(self.host)


class DeviceConfig(Record, frozen=True):
    """One device."""

    schema: int
    site: str
    device: str
    queue: QueueConfig
    bundle: FileName | None = None
    shadow: FileName | None = None
    """A second bundle, to compare with."""
    trusted_keys: tuple[FileName, ...] = ()
    source: FileName | tuple[FileName, ...] | None = None
    """One or several, as `--source` takes them."""
    broker: BrokerConfig = BrokerConfig()
    opinions: OpinionConfig = OpinionConfig()
    sync: SyncConfig = SyncConfig()
    isolation: IsolationConfig | None = None
    """Without it the engine runs in the process of `run`."""
    http: HTTPConfig | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """What `source` names."""
        return (self.source,) if isinstance(self.source, str) else self.source or ()


def load_config(path: Path) -> DeviceConfig:
    """Read and check a `device.toml`.

    Raises:
        BadFile: unknown key, wrong type, a value out of bounds, or a name that cannot stand in a
            topic.
    """
    config = load_toml(path, DeviceConfig)
    if config.schema != SCHEMA:
        raise BadFile(path, f"schema {config.schema} is unknown", f"this version reads {SCHEMA}")
    try:
        check_topic_level("site", config.site)
        check_topic_level("device", config.device)
    except EdgeclinError as exc:
        raise BadFile(path, str(exc)) from exc
    broker = config.broker
    if broker.ca is None and (broker.certificate is not None or broker.key is not None):
        raise BadFile(
            path,
            "broker.certificate or broker.key without broker.ca, so the link would not be TLS",
            "name the CA",
        )
    if broker.certificate is None and broker.key is not None:
        raise BadFile(path, "broker.key without broker.certificate", "name the certificate")
    try:
        require_private(broker)
    except EdgeclinError as exc:
        raise BadFile(path, str(exc)) from exc
    if config.http is not None and not (config.http.on_loopback or config.http.beyond_loopback):
        raise BadFile(
            path,
            f"http.host {config.http.host} can be reached from other machines, and there are no "
            "passwords",
            "set http.beyond_loopback = true if that is meant",
        )
    return config


def require_private(broker: BrokerConfig) -> None:
    """Refuse a link to another machine that anybody on the way could read and change.

    Raises:
        EdgeclinError: it would be plain TCP, and nobody asked for that.
    """
    if broker.ca is None and not broker.plaintext and not is_loopback(broker.host):
        raise EdgeclinError(
            f"the broker {broker.host} is another machine and the link would not be TLS; name the "
            "CA with ca, or set plaintext if that is meant"
        )


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own, whatever a name server says."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_topic_level(what: str, name: str) -> None:
    """Refuse a name that MQTT or a file system could read as more than one level.

    Raises:
        EdgeclinError: empty, too long, or with characters other than A-Z a-z 0-9 . _ -
    """
    if not _TOPIC_LEVEL.fullmatch(name) or set(name) == {"."}:
        raise EdgeclinError(f"{what} {name!r} must be 1 to 64 of the characters A-Z a-z 0-9 . _ -")
