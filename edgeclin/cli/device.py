"""What `edgeclin run`, `sync` and `queue` share: the device's configuration and its queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgeclin.cli.output import FILE

if TYPE_CHECKING:
    from edgeclin.config import DeviceConfig
    from edgeclin.offline_queue import Keyring, OfflineQueue

STUCK_S = 10.0
"""A service whose loop has not moved for so long does not feed the watchdog."""

config_option = click.option(
    "--config", "config_path", type=FILE, required=True, help="The device's device.toml."
)


def open_queue(config: DeviceConfig) -> OfflineQueue:
    """The device's queue, with its bounds and its keys."""
    from edgeclin.offline_queue import OfflineQueue

    return OfflineQueue(
        config.queue.path,
        max_bytes=config.queue.max_mb << 20,
        spare_bytes=int(config.opinions.spare_mb * 1e6),
        routine_sync_s=config.queue.routine_sync_ms / 1000,
        keyring=open_keyring(config),
    )


def open_keyring(config: DeviceConfig) -> Keyring:
    """The keys that the device's queue is sealed with; none where it is plain."""
    from edgeclin.offline_queue import NO_KEYS, load_keyring

    return NO_KEYS if config.queue.key is None else load_keyring(config.queue.key)


def keyring_at_hand(config: DeviceConfig) -> Keyring | None:
    """The same for who only looks; None where systemd hands the keys to the services alone."""
    from edgeclin.offline_queue import handed_by_systemd

    if config.queue.key is not None and handed_by_systemd(config.queue.key):
        return None
    return open_keyring(config)
