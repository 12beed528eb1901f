"""What one device is told about itself: `device.toml`, shared by `run` and `sync`."""

from __future__ import annotations

import re
from math import inf
from pathlib import Path

from edgeclin.errors import BadFile, EdgeclinError
from edgeclin.records import Record, load_toml

SCHEMA = 1
_TOPIC_LEVEL = re.compile(r"[A-Za-z0-9._-]{1,64}")


class QueueConfig(Record, frozen=True):
    """Where results wait, and how much room they may take."""

    path: str
    max_mb: int = 512
    routine_sync_ms: int = 200
    """The most that a power cut may take of routine results, in milliseconds."""


class BrokerConfig(Record, frozen=True):
    """How to reach an MQTT 5 broker. With `ca` the link is TLS, else plain TCP."""

    host: str = "127.0.0.1"
    port: int = 1883
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    keepalive_s: int = 20
    reconnect_most_s: float = 30.0
    """Upper bound of the exponential backoff between attempts to connect."""


class OpinionConfig(Record, frozen=True):
    """How long a provisional answer waits for the cloud before a person must look."""

    deadline_s: float = 60.0


class SyncConfig(Record, frozen=True):
    """The send window of the agent."""

    batch_results: int = 64
    batch_bytes: int = 120 * 1024
    window_batches: int = 8
    receipt_timeout_s: float = 10.0


class DeviceConfig(Record, frozen=True):
    """One device."""

    schema: int
    site: str
    device: str
    queue: QueueConfig
    bundle: str | None = None
    trusted_keys: tuple[str, ...] = ()
    source: str | None = None
    broker: BrokerConfig = BrokerConfig()
    opinions: OpinionConfig = OpinionConfig()
    sync: SyncConfig = SyncConfig()


def load_config(path: Path) -> DeviceConfig:
    """Read and check a `device.toml`.

    Raises:
        BadFile: unknown key, wrong type, or a name that cannot stand in a topic.
    """
    config = load_toml(path, DeviceConfig)
    if config.schema != SCHEMA:
        raise BadFile(path, f"schema {config.schema} is unknown", f"this version reads {SCHEMA}")
    try:
        check_topic_level("site", config.site)
        check_topic_level("device", config.device)
    except EdgeclinError as exc:
        raise BadFile(path, str(exc)) from exc
    _check_numbers(config, path)
    broker = config.broker
    if broker.ca is None and (broker.certificate is not None or broker.key is not None):
        raise BadFile(
            path,
            "broker.certificate or broker.key without broker.ca, so the link would not be TLS",
            "name the CA",
        )
    if broker.certificate is None and broker.key is not None:
        raise BadFile(path, "broker.key without broker.certificate", "name the certificate")
    return config


def _check_numbers(config: DeviceConfig, path: Path) -> None:
    broker, sync = config.broker, config.sync
    for what, value, least, most in (
        ("queue.max_mb", config.queue.max_mb, 1, inf),
        ("queue.routine_sync_ms", config.queue.routine_sync_ms, 0, inf),
        ("broker.port", broker.port, 1, 65535),
        ("broker.keepalive_s", broker.keepalive_s, 1, 65535),
        ("broker.reconnect_most_s", broker.reconnect_most_s, 0.1, inf),
        ("opinions.deadline_s", config.opinions.deadline_s, 0, inf),
        ("sync.batch_results", sync.batch_results, 1, inf),
        ("sync.batch_bytes", sync.batch_bytes, 1, inf),
        ("sync.window_batches", sync.window_batches, 1, inf),
        ("sync.receipt_timeout_s", sync.receipt_timeout_s, 0, inf),
    ):
        if not least <= value <= most or value == inf:
            raise BadFile(
                path,
                f"{what} is {value}",
                f"it must be a number of at least {least}"
                + (f" and at most {most}" if most < inf else ""),
            )


def check_topic_level(what: str, name: str) -> None:
    """Refuse a name that MQTT or a file system could read as more than one level.

    Raises:
        EdgeclinError: empty, too long, or with characters other than A-Z a-z 0-9 . _ -
    """
    if not _TOPIC_LEVEL.fullmatch(name) or set(name) == {"."}:
        raise EdgeclinError(f"{what} {name!r} must be 1 to 64 of the characters A-Z a-z 0-9 . _ -")
