"""`edgeclin queue`: what waits on a device, and how it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeclin.cli.device import config_option
from edgeclin.cli.output import json_option, print_facts, print_json, print_table

if TYPE_CHECKING:
    from edgeclin.health import RunHealth, SyncHealth
    from edgeclin.offline_queue import Told


@click.group()
def queue() -> None:
    """Look into this device's queue."""


@queue.command()
@config_option
@json_option
def status(config_path: Path, as_json: bool) -> None:
    """What waits for the cloud, and how `run` and `sync` are; changes nothing."""
    import dataclasses

    from edgeclin.config import load_config
    from edgeclin.health import RunHealth, SyncHealth
    from edgeclin.offline_queue import Notices, look

    path = Path(load_config(config_path).queue.path)
    standing = look(path)
    notices = Notices(path)
    run, sync = notices.told(RunHealth), notices.told(SyncHealth)
    if as_json:
        print_json({**dataclasses.asdict(standing), "run": run, "sync": sync})
        return
    print_facts({"epoch": standing.epoch, "last sequence number": standing.last_seq})
    rows = [(name, usage.count, usage.bytes) for name, usage in standing.waiting.items()]
    print_table(("waiting", "count", "bytes"), rows)
    if run is not None:
        print_facts({"run": _age(run), **_facts_of_run(run.health)})
    if sync is not None:
        said = [_age(sync), f"{sync.health.delivered} delivered"]
        if sync.fresh:
            said.insert(1, "connected" if sync.health.connected else "no link")
        print_facts({"sync": ", ".join(said)})


def _age(told: Told[RunHealth] | Told[SyncHealth]) -> str:
    if told.age_s is None:
        return "was alive before the last boot"
    if told.ended:
        return f"ended {told.age_s:.0f} s ago"
    return f"alive {told.age_s:.0f} s ago" if told.fresh else f"SILENT for {told.age_s:.0f} s"


def _facts_of_run(health: RunHealth) -> dict[str, str]:
    states = ", ".join(f"{count} {state}" for state, count in sorted(health.states.items()))
    facts = {
        "answered": states or "nothing yet",
        "in trouble": f"{health.rejected} rejected, {health.late} late, {health.dropped} dropped",
    }
    if health.restarts:
        facts["engine restarts"] = str(health.restarts)
    if health.shadow is not None:
        facts["shadow"] = str(health.shadow)
    if health.drift is not None:
        facts["drift"] = str(health.drift)
    if health.degraded:
        facts["degraded"] = health.degraded
    return facts | {f"alarm {number}": text for number, text in enumerate(health.alarms, 1)}
