"""`edgeclin cloud`: ingest, offload, report and command."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeclin.cli.output import FILE, Number, json_option, print_facts, print_json, trust_options

if TYPE_CHECKING:
    from edgeclin.transport.mqtt import MQTTTransport

Command = TypeVar("Command", bound=Callable[..., Any])

_POLL_S = 0.2


def _broker_options(command: Command) -> Command:
    for option in (
        click.option("--key", type=FILE, help="This client's private key (PEM)."),
        click.option("--certificate", type=FILE, help="This client's certificate (PEM)."),
        click.option("--ca", type=FILE, help="CA certificate (PEM); makes the link TLS."),
        click.option(
            "--plaintext", is_flag=True, help="Reach another machine's broker without TLS."
        ),
        click.option(
            "--broker", default="127.0.0.1:1883", show_default=True, help="HOST:PORT of the broker."
        ),
    ):
        command = option(command)
    return command


@click.group()
def cloud() -> None:
    """The cloud's side: store, second opinions, report, commands."""


@cloud.command()
@click.option("--store", type=FILE, required=True, help="The store's folder; made if absent.")
@click.option(
    "--compact-every",
    type=Number(min=0.1, max=86_400),
    default=60.0,
    show_default=True,
    help="Seconds between moves from the index into Parquet.",
)
@_broker_options
@json_option
def ingest(
    store: Path,
    compact_every: float,
    broker: str,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    plaintext: bool,
    as_json: bool,
) -> None:
    """Store what devices send, each id once, and send receipts."""
    from edgeclin.cli.log import Log
    from edgeclin.cli.signals import stop_event
    from edgeclin.cloud.ingest import Ingest
    from edgeclin.cloud.store import Store

    transport = _transport("ingest", broker, ca, certificate, key, plaintext)
    opened = Store(store)
    worker = Ingest(opened, transport)
    stop = stop_event()
    with Log():
        worker.open()
        due = time.monotonic() + compact_every
        while not stop.wait(_POLL_S):
            if time.monotonic() >= due:
                worker.compact()
                due = time.monotonic() + compact_every
        worker.close()
        worker.compact()
        opened.close()
    counts = ("stored", "duplicates", "refused", "failed")
    _print({name: getattr(worker, name) for name in counts}, as_json)


@cloud.command()
@click.argument("bundle", type=FILE)
@click.option(
    "--store", type=FILE, help="The folder of ingest's store, for inputs that come in parts."
)
@_broker_options
@trust_options
@json_option
def offload(
    bundle: Path,
    store: Path | None,
    broker: str,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    plaintext: bool,
    trust: tuple[Path, ...],
    allow_unsigned: bool,
    as_json: bool,
) -> None:
    """Give second opinions with the larger model of BUNDLE."""
    from edgeclin.cli.bundles import open_bundle
    from edgeclin.cli.log import Log
    from edgeclin.cli.signals import stop_event
    from edgeclin.cloud.inputs import Inputs
    from edgeclin.cloud.offload import Offload
    from edgeclin.runtime import Runtime

    runtime = Runtime(open_bundle(bundle, trust, allow_unsigned))
    transport = _transport("offload", broker, ca, certificate, key, plaintext)
    inputs = None if store is None else Inputs(store)
    worker = Offload(runtime, transport, inputs)
    stop = stop_event()
    with Log():
        worker.open()
        stop.wait()
        worker.close()
    if inputs is not None:
        inputs.close()
    _print({"answered": worker.answered, "refused": worker.refused}, as_json)


@cloud.command()
@click.option("--store", type=FILE, required=True, help="The store's folder.")
@click.option("-o", "--output", type=FILE, default=Path("report.html"), show_default=True)
@json_option
def report(store: Path, output: Path, as_json: bool) -> None:
    """Write one self-contained HTML page about everything in the store."""
    from edgeclin.cloud.analysis import Analysis
    from edgeclin.cloud.report import write_report
    from edgeclin.cloud.store import Store
    from edgeclin.errors import BadFile

    if not (store / "index.sqlite").exists():
        raise BadFile(store, "no store there", "`edgeclin cloud ingest` makes it")
    opened = Store(store)
    analysis = Analysis(opened.tables())
    summary = analysis.summary()
    write_report(analysis, opened.statuses(), output)
    opened.close()
    _print({**summary, "report": str(output)}, as_json)


@cloud.command()
@click.argument("device", metavar="SITE/DEVICE")
@click.argument("words", metavar="COMMAND", nargs=-1, required=True)
@click.option(
    "--signing-key", type=FILE, help="Private key (default: default.key of your key folder)."
)
@click.option(
    "--timeout",
    type=Number(min=1, max=3600),
    default=30.0,
    show_default=True,
    help="Seconds to wait for the device, and for its reply.",
)
@_broker_options
@json_option
def command(
    device: str,
    words: tuple[str, ...],
    signing_key: Path | None,
    timeout: float,
    broker: str,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    plaintext: bool,
    as_json: bool,
) -> None:
    """Have a device do something, and say what became of it.

    COMMAND is `status`, `drain` (try at once all that waits), `send result N` (row N goes first) or
    `set budget N` (at most N megabytes a day; `none`: what device.toml says).
    """
    from edgeclin import wire
    from edgeclin.cli.signing import found_signer
    from edgeclin.cloud.commanding import Commanding
    from edgeclin.config import check_topic_level
    from edgeclin.errors import CommandFailed

    name, arguments = _command(words)
    site, slash, unit = device.partition("/")
    if not slash:
        raise click.BadParameter(f"{device!r} is not SITE/DEVICE", param_hint="SITE/DEVICE")
    check_topic_level("site", site)
    check_topic_level("device", unit)
    signer = found_signer(signing_key, "name it with --signing-key")
    transport = _transport("command", broker, ca, certificate, key, plaintext)
    reply = Commanding(transport, wire.Topics(site, unit), signer).command(name, arguments, timeout)
    if as_json:
        print_json(reply)
    else:
        log = {"audit log": f"{reply.lines} lines, the last {reply.head}"} if reply.head else {}
        print_facts({"outcome": reply.outcome, **_flat(reply.facts), **log})
    if reply.outcome != "done":
        what = "refused it" if reply.outcome == "refused" else "could not do it"
        raise CommandFailed(f"{device} {what}: {reply.reason}")


def _command(words: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    text = " ".join(words)
    if text in ("status", "drain"):
        return text, {}
    if found := re.fullmatch("send result ([0-9]{1,19})", text):
        return "send result", {"seq": int(found[1])}
    if found := re.fullmatch("set budget (none|[0-9]{1,7}([.][0-9]{1,6})?)", text):
        return "set budget", {"day_mb": None if found[1] == "none" else float(found[1])}
    raise click.BadParameter(
        f"{text!r} is none of: status, drain, send result N, set budget N", param_hint="COMMAND"
    )


def _flat(facts: dict[str, Any], name: str = "") -> dict[str, Any]:
    """Facts within facts, under names such as `waiting urgent count`."""
    found: dict[str, Any] = {}
    for key, fact in facts.items():
        here = f"{name} {key}".strip()
        found |= _flat(fact, here) if isinstance(fact, dict) else {here: fact}
    return found


def _print(facts: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)


def _transport(
    role: str,
    broker: str,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    plaintext: bool,
) -> MQTTTransport:
    import uuid

    from edgeclin.config import BrokerConfig
    from edgeclin.transport.mqtt import MQTTTransport

    host, colon, port = broker.rpartition(":")
    if not colon or not port.isdigit() or not 0 < int(port) < 65536:
        raise click.BadParameter(f"{broker!r} is not HOST:PORT", param_hint="--broker")
    settings = BrokerConfig(
        host=host,
        port=int(port),
        ca=None if ca is None else str(ca),
        certificate=None if certificate is None else str(certificate),
        key=None if key is None else str(key),
        plaintext=plaintext,
    )
    return MQTTTransport(settings, client_id=f"{role}.{uuid.uuid4()}")
