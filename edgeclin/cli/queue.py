"""`edgeclin queue`: what waits on a device, and how it is."""

from __future__ import annotations

import base64
import itertools
import json
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeclin.cli.device import config_option, keyring_at_hand, open_queue
from edgeclin.cli.output import FILE, Number, json_option, print_facts, print_json, print_table

if TYPE_CHECKING:
    from edgeclin.health import RunHealth, SyncHealth
    from edgeclin.offline_queue import Keyring, Row, Standing, Told
    from edgeclin.sync.audit import Entry


@click.group()
def queue() -> None:
    """What this device keeps for the cloud.

    Look at it, carry it away, mend it, give it up.
    """


@queue.command()
@config_option
@json_option
def status(config_path: Path, as_json: bool) -> None:
    """What waits for the cloud, and how `run` and `sync` are; changes nothing."""
    import dataclasses

    from edgeclin.config import load_config
    from edgeclin.health import RunHealth, SyncHealth
    from edgeclin.offline_queue import NO_KEYS, Notices, disk_alarm, look

    config = load_config(config_path)
    path = Path(config.queue.path)
    keyring = keyring_at_hand(config)
    standing, now = look(path, keyring or NO_KEYS), time.time()
    late = standing.urgent_alarm(config.queue.urgent_alarm_s, now)
    alarms = [late, standing.refusal_alarm(), *standing.damage, disk_alarm(path)]
    if keyring is not None:
        alarms.append(standing.absent_alarm())
    notices = Notices(path)
    run, sync = notices.told(RunHealth), notices.told(SyncHealth)
    if as_json:
        facts = {**dataclasses.asdict(standing), "run": run, "sync": sync}
        print_json(facts if keyring is not None else {**facts, "absent": None})
        return
    print_facts(
        {
            "epoch": standing.epoch,
            "last sequence number": standing.last_seq,
            "encrypted": _encrypted(standing, keyring),
        }
    )
    ages = standing.oldest_s(now)
    rows = [
        (name, usage.count, usage.bytes, f"{ages[name]:.0f} s" if name in ages else "")
        for name, usage in standing.waiting.items()
    ]
    print_table(("waiting", "count", "bytes", "oldest"), rows)
    for alarm in filter(None, alarms):
        print_facts({"alarm": alarm})
    if run is not None:
        print_facts({"run": _age(run), **_facts_of_run(run.health)})
    if sync is not None:
        said = [_age(sync), f"{sync.health.delivered} delivered"]
        if sync.fresh:
            said.insert(1, _link(sync.health))
        print_facts({"sync": ", ".join(said)})
        if sync.fresh and sync.health.left is not None:
            print_facts({"left of the day's bytes": f"{sync.health.left / 1e6:.2f} MB"})
        if sync.fresh and sync.health.held:
            held = "; ".join(f"{what}: {why}" for what, why in sync.health.held.items())
            print_facts({"held": held})
    if said_written := _written(run, sync):
        print_facts({"written to the disk": said_written})


tier_option = click.option(
    "--tier",
    "tiers",
    multiple=True,
    type=click.Choice(["urgent", "routine", "bulk"]),
    help="Only rows of this tier; may be given several times.",
)


@queue.command("list")
@config_option
@tier_option
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many."
)
@json_option
def list_(config_path: Path, tiers: tuple[str, ...], limit: int, as_json: bool) -> None:
    """The oldest rows that wait for the cloud's receipt; changes nothing."""
    rows = list(itertools.islice(_waiting(config_path, tiers), limit))
    if as_json:
        print_json(rows)
        return
    print_table(
        ("number", "tier", "kind", "made", "what"),
        [(row["seq"], row["tier"], row["kind"], _moment(row), _what(row)) for row in rows],
    )


@queue.command()
@config_option
@tier_option
@click.option("-o", "--output", type=FILE, required=True, help="The file to write.")
def export(config_path: Path, tiers: tuple[str, ...], output: Path) -> None:
    """Write what waits as JSON lines; changes nothing in the queue."""
    from edgeclin.errors import BadFile
    from edgeclin.files import file_atomic, writing

    if output.exists():
        raise BadFile(output, "exists", "name another file with -o")
    count = 0
    rows = _waiting(config_path, tiers)
    with writing(output), file_atomic(output, 0o600) as file:
        for count, row in enumerate(rows, 1):  # noqa: B007
            file.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
    click.echo(f"{count} rows written to {output}")


@queue.command()
@config_option
@tier_option
@click.option(
    "--older-than",
    "days",
    type=Number(min=0),
    required=True,
    help="Days since it was stored, by this device's clock then and now.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(config_path: Path, tiers: tuple[str, ...], days: float, yes: bool) -> None:
    """Give up what has waited too long for the cloud, for good.

    Without --tier routine and bulk rows go, no urgent ones. The cloud gets a record of what went.
    """
    from edgeclin.config import load_config
    from edgeclin.offline_queue import look
    from edgeclin.records import Tier

    config = load_config(config_path)
    chosen = [Tier(tier) for tier in tiers] or [Tier.ROUTINE, Tier.BULK]
    waits = look(Path(config.queue.path)).waiting
    counts = ", ".join(f"{waits[tier.value].count} {tier.value}" for tier in chosen)
    if not yes:
        click.confirm(
            f"{counts} rows wait, of which those older than {days:g} days are deleted on this "
            "device without the cloud having them. Go on?",
            abort=True,
        )
    with open_queue(config) as opened:
        gone = opened.purge(time.time() - days * 86_400, chosen)
    print_facts({f"{tier.value} rows deleted": count for tier, count in gone.items()})


@queue.command()
@config_option
def salvage(config_path: Path) -> None:
    """Take over once more what damaged queues still hold.

    That happens by itself when one is found damaged; here again, such as after a disk was full.
    What the cloud has already it tells apart by its id.
    """
    from edgeclin.config import load_config
    from edgeclin.errors import BadFile
    from edgeclin.offline_queue import damaged_queues

    config = load_config(config_path)
    path = Path(config.queue.path)
    if not path.exists() and not damaged_queues(path):
        raise BadFile(path, "no queue there, nor a damaged one beside it")
    with open_queue(config) as opened:
        found = opened.salvage()
    print_facts({folder.name: what for folder, what in found.items()})
    if not found:
        click.echo("no damaged queue was set aside here")


@queue.command()
@config_option
@json_option
def rekey(config_path: Path, as_json: bool) -> None:
    """Seal all that waits with the first key of queue.key: what is plain, and after a new key.

    `run` and `sync` may go on meanwhile; killed, it goes on where it was when called again.
    """
    import dataclasses

    from edgeclin.cli.progress import Parts
    from edgeclin.config import load_config
    from edgeclin.errors import BadFile

    config = load_config(config_path)
    if config.queue.key is None:
        raise BadFile(config_path, "names no queue.key", "name a file of keys there")
    with open_queue(config) as opened:
        parts = Parts(quiet=as_json)
        found = opened.rekey(parts.begin("sealing"))
        parts.end()
        standing = opened.standing()
    if as_json:
        print_json({**dataclasses.asdict(found), "sealed": standing.sealed})
        return
    names = ("rows", "questions", "payloads", "reviews")
    print_facts({f"{name} sealed anew": getattr(found, name) for name in names})
    print_facts({f"rows under key {key}": count for key, count in standing.sealed.items()})
    if found.absent or found.damaged:
        print_facts({"left as they are": f"{found.absent} lack their key, {found.damaged} damaged"})
    if not found.rebuilt:
        click.echo(
            "what was deleted before may still stand in the file: end `run`, `sync` and whatever "
            "else uses it, and do it once more"
        )


def _encrypted(standing: Standing, keyring: Keyring | None) -> str:
    from edgeclin.records import Tier

    sealed = sum(standing.sealed.values())
    rows = sum(standing.waiting[tier.value].count for tier in Tier)
    with_ = ", ".join(f"{count} rows with {key}" for key, count in standing.sealed.items())
    found = f"{with_ or 'no rows sealed'}, {rows - sealed} plain"
    if keyring is None:
        return f"yes, with keys that only the services have ({found})"
    return f"yes, with key {keyring.first} ({found})" if keyring.first else f"no ({found})"


@queue.command()
@config_option
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many."
)
@json_option
def audit(config_path: Path, limit: int, as_json: bool) -> None:
    """The newest commands from the cloud, and whether their log is whole; changes nothing.

    Exits with 1 where a line was changed, is missing or is cut short.
    """
    from edgeclin.config import load_config
    from edgeclin.errors import BadFile
    from edgeclin.offline_queue.schema import real_path
    from edgeclin.sync.audit import audit_path, examine

    path = real_path(load_config(config_path).queue.path)
    found = examine(path, limit)
    first = found.lines - len(found.newest) + 1
    lines = [
        {"line": number, "sha256": head, "entry": entry}
        for number, (head, entry) in enumerate(found.newest, first)
    ]
    if as_json:
        facts = {"lines": found.lines, "head": found.head, "problems": found.problems}
        print_json({**facts, "newest": lines})
    else:
        print_table(
            ("line", "time", "what", "number", "command", "outcome"),
            [_told(first + at, entry) for at, (_, entry) in enumerate(found.newest)],
        )
        print_facts({"lines": found.lines, "SHA-256 of the last": found.head})
    if found.problems:
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        raise BadFile(audit_path(path), f"the log is not whole: {found.problems[0]}{more}")


def _told(line: int, entry: Entry | None) -> tuple[object, ...]:
    """A row about one line of the audit log."""
    if entry is None:
        return line, "", "cut short or damaged", "", "", ""
    words = " ".join([entry.command, *map(str, entry.arguments.values())]).strip()
    said = ": ".join(filter(None, [entry.outcome, entry.reason]))
    untold = f" (and {entry.count} not written)" if entry.count else ""
    return line, _time(entry.at), entry.what, entry.number or "", words, said + untold


def _waiting(config_path: Path, tiers: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """What waits, as JSON has it."""
    from edgeclin.config import load_config
    from edgeclin.offline_queue import NO_KEYS, look, waiting
    from edgeclin.records import Tier

    config = load_config(config_path)
    path, keyring = Path(config.queue.path), keyring_at_hand(config) or NO_KEYS
    epoch = look(path).epoch
    for one in waiting(path, [Tier(tier) for tier in tiers] or list(Tier), keyring):
        row = one.row
        yield {
            "epoch": epoch, "seq": row.seq, "tier": one.tier.value, "id": row.id,
            "kind": row.kind, **_body(row),
            **({"set_aside": one.set_aside} if one.set_aside else {}),
        }  # fmt: skip


def _body(row: Row) -> dict[str, Any]:
    """The record as JSON, the id of the key that it lacks, or the bytes of what is none since the
    disk was damaged."""
    if row.absent_key:
        return {"body": None, "sealed": row.absent_key}
    try:
        record = row.record
        datetime.fromtimestamp(record.made_at, timezone.utc)
        return {"body": json.loads(row.body)}
    except (ValueError, OverflowError, OSError, RecursionError):
        raw = row.body if isinstance(row.body, bytes) else str(row.body).encode()
        return {"body": None, "damaged": base64.b64encode(raw).decode()}


def _moment(row: dict[str, Any]) -> str:
    if not row["body"]:
        return "unknown"
    return _time(row["body"]["made_at"])


def _time(at: float) -> str:
    try:
        moment = datetime.fromtimestamp(at, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return "unknown"
    return moment.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")


def _what(row: dict[str, Any]) -> str:
    if "set_aside" in row:
        return f"NOT SENT: {row['set_aside']}"
    if "sealed" in row:
        return f"sealed with the key {row['sealed']}, which is not here"
    body = row["body"]
    if not body:
        return "damaged"
    if row["kind"] == "drop":
        return f"{body['count']} {body['tier']} rows given up"
    about = f"{body['source']} {body['position']}" if row["kind"] == "result" else body["result"]
    return f"{body['state']}: {body.get('label') or body['reason']} ({about})"


def _age(told: Told[RunHealth] | Told[SyncHealth]) -> str:
    if told.age_s is None:
        return "was alive before the last boot"
    if told.ended:
        when = f"{told.age_s:.0f} s ago"
        return f"FAILED {when} ({told.failed})" if told.failed else f"ended {when}"
    return f"alive {told.age_s:.0f} s ago" if told.fresh else f"SILENT for {told.age_s:.0f} s"


def _written(run: Told[RunHealth] | None, sync: Told[SyncHealth] | None) -> str:
    found = []
    if run is not None and run.health.written is not None:
        found.append(f"{run.health.written / 1e6:.1f} MB by run")
    if sync is not None and sync.health.written is not None:
        found.append(f"{sync.health.written / 1e6:.1f} MB by sync")
    return ", ".join(found) + " since its start" if found else ""


def _link(health: SyncHealth) -> str:
    if not health.connected:
        return "no link"
    if health.refused:
        return f"connected, but the broker refuses what is sent ({'; '.join(health.refused)})"
    if health.silent_s:
        return f"connected, but no receipt for {health.silent_s:.0f} s"
    if not health.goodput:
        return "connected"
    kilobytes, milliseconds = health.goodput / 1000, 1000 * health.round_trip_s
    return f"connected, {kilobytes:.1f} kB/s and {milliseconds:.0f} ms there and back"


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
