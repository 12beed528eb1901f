"""What `edgeclin run`, `sync` and `queue` share: the device's configuration and its queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgeclin.cli.output import FILE

if TYPE_CHECKING:
    from edgeclin.config import DeviceConfig
    from edgeclin.offline_queue import OfflineQueue

STUCK_S = 10.0
"""A service whose loop has not moved for so long does not feed the watchdog."""

config_option = click.option(
    "--config", "config_path", type=FILE, required=True, help="The device's device.toml."
)


def open_queue(config: DeviceConfig) -> OfflineQueue:
    """The device's queue, with its bounds."""
    from edgeclin.offline_queue import OfflineQueue

    return OfflineQueue(
        config.queue.path,
        max_bytes=config.queue.max_mb << 20,
        routine_sync_s=config.queue.routine_sync_ms / 1000,
    )
