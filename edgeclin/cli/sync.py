"""`edgeclin sync`: delivers what waits on a device."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import click

from edgeclin.cli.device import STUCK_S, config_option, open_queue
from edgeclin.cli.output import json_option, print_facts, print_json


@click.command()
@config_option
@click.option("--until-empty", is_flag=True, help="End when nothing waits any more.")
@json_option
def sync(config_path: Path, until_empty: bool, as_json: bool) -> None:
    """Deliver what waits in the queue.

    Takes in receipts, on which rows are deleted, and opinions, which settle provisional answers;
    commands only where sync.command_keys names who may give them.
    """
    from edgeclin import wire
    from edgeclin.cli.log import Log
    from edgeclin.cli.signals import stop_event
    from edgeclin.config import load_config
    from edgeclin.keys import load_public_key
    from edgeclin.offline_queue import Telling
    from edgeclin.sync import NetworkManager, SyncAgent
    from edgeclin.transport.mqtt import MQTTTransport
    from edgeclin.watchdog import Watchdog

    config = load_config(config_path)
    keys = [load_public_key(Path(key)) for key in config.sync.command_keys]
    transport = MQTTTransport(config.broker, client_id=f"{config.site}.{config.device}")
    stop = stop_event()
    with Log(), open_queue(config) as queue, queue.claim("sync"), ExitStack() as stack:
        metered = config.sync.budget.metered == "yes"
        known = None
        if config.sync.budget.metered == "auto":
            known = stack.enter_context(NetworkManager())
        agent = SyncAgent(
            queue,
            transport,
            wire.Topics(config.site, config.device),
            config.sync,
            metered=lambda: metered if known is None else known.metered,
            command_keys=keys,
        )
        agent.open()
        watchdog = Watchdog(lambda: time.monotonic() - agent.last_step < STUCK_S)
        with watchdog, Telling(queue.notices, agent.health):
            agent.run(stop, until_empty)
        agent.close()
    facts = {"delivered": agent.delivered, "reviews": agent.opinions}
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)
