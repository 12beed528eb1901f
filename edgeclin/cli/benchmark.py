"""`edgeclin benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeclin.cli.bundles import open_bundle
from edgeclin.cli.output import (
    FILE,
    Number,
    json_option,
    print_json,
    print_table,
    trust_options,
)
from edgeclin.cli.progress import Parts

if TYPE_CHECKING:
    from edgeclin.benchmark.measuring import Name
    from edgeclin.benchmark.report import Report

SCENARIOS: tuple[Name, ...] = ("single-stream", "multi-stream", "offline")


@click.command()
@click.argument("bundle", type=FILE)
@click.option(
    "--data", type=FILE, help="Real samples, in any form of data set (default: the golden ones)."
)
@click.option(
    "--scenario",
    "scenarios",
    type=click.Choice(SCENARIOS),
    multiple=True,
    help="May be repeated (default: all three).",
)
@click.option(
    "--streams",
    type=click.IntRange(1, 1024),
    default=8,
    show_default=True,
    help="Of the scenario multi-stream.",
)
@click.option(
    "--rate",
    type=Number(min=0.001, max=1e6),
    default=10.0,
    show_default=True,
    help="Samples a second of each stream.",
)
@click.option(
    "--duration",
    type=Number(min=0.1, max=86_400),
    help="Seconds of each scenario and comparison (default: 10).",
)
@click.option("--samples", type=click.IntRange(1, 10_000_000), help="So many, instead.")
@click.option(
    "--deadline",
    type=Number(min=0.001, max=86_400_000),
    help="Milliseconds within which an answer must be stored (default: the profile's budget).",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Threads of the engine.",
)
@click.option(
    "--against",
    multiple=True,
    metavar="bare|URL",
    help="Also measure the bare engine, or second opinions over mqtt://HOST:PORT.",
)
@click.option("--queue", type=FILE, help="A folder on the disk to store answers on.")
@click.option("--usd-per-kwh", type=Number(min=0, max=100), default=0.2, show_default=True)
@click.option("--years", type=Number(min=0.01, max=100), default=5.0, show_default=True)
@click.option("--ca", type=FILE, help="The broker's CA certificate (PEM); makes the link TLS.")
@click.option("--certificate", type=FILE, help="This client's certificate (PEM).")
@click.option("--key", type=FILE, help="This client's private key (PEM).")
@click.option("--plaintext", is_flag=True, help="Reach another machine's broker without TLS.")
@click.option("-o", "--output", type=FILE, help="Write the report as an HTML page, drawn.")
@trust_options
@json_option
def benchmark(
    bundle: Path,
    data: Path | None,
    scenarios: tuple[str, ...],
    streams: int,
    rate: float,
    duration: float | None,
    samples: int | None,
    deadline: float | None,
    threads: int,
    against: tuple[str, ...],
    queue: Path | None,
    usd_per_kwh: float,
    years: float,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    plaintext: bool,
    output: Path | None,
    trust: tuple[Path, ...],
    allow_unsigned: bool,
    as_json: bool,
) -> None:
    """Measure how fast a BUNDLE is on this machine.

    Latencies one after another and of many streams, samples a second, the first answer, memory,
    energy and cost. A percentile for which there are too few samples is not given.

    Ctrl-C ends it and tells what was measured so far (exit 130).
    """
    from edgeclin.benchmark.measuring import Benchmark, Plan
    from edgeclin.cli.signals import stop_event
    from edgeclin.files import (
        require_place_for_page,
        require_writable,
        write_atomic,
        writing,
    )

    if duration is not None and samples is not None:
        raise click.UsageError("give --duration or --samples, not both")
    if output is not None:
        from edgeclin.benchmark.page import draw_page  # what draws may not be installed

        require_place_for_page(output)
    if queue is not None:
        require_writable(queue)
    plan = Plan(
        scenarios=[name for name in SCENARIOS if name in (scenarios or SCENARIOS)],
        streams=streams,
        rate_hz=rate,
        seconds=10.0 if duration is None else duration,
        samples=samples,
        threads=threads,
        deadline_ms=deadline,
        data=data,
        queue=queue,
        against=against,
        trust=trust,
        allow_unsigned=allow_unsigned,
        usd_per_kwh=usd_per_kwh,
        years=years,
        ca=None if ca is None else str(ca),
        certificate=None if certificate is None else str(certificate),
        key=None if key is None else str(key),
        plaintext=plaintext,
    )
    plan.brokers()
    opened = open_bundle(bundle, trust, allow_unsigned)
    parts = Parts(quiet=as_json)
    measured = Benchmark(opened, plan, stop_event(), parts.begin)
    try:
        report = measured.run()
    finally:
        parts.end()
    if as_json:
        print_json(report)
    else:
        _print(report)
    if output is not None:
        with writing(output):
            write_atomic(output, draw_page(report, measured.latencies))
        if not as_json:
            click.echo(f"{output} written")
    if report.stopped:
        click.echo("edgeclin: stopped before its time", err=True)
        raise SystemExit(130)


def _print(report: Report) -> None:
    machine = report.machine
    instead = f", instead of the primary engine ({report.degraded})" * bool(report.degraded)
    click.echo(f"{report.bundle} for {report.profile}: {report.engine}{instead}")
    click.echo(f"on {machine.cpu}, {machine.cores} cores, Linux {machine.kernel}")
    click.echo(
        f"samples: {report.inputs}; {report.warm_up} runs of warming up are not counted; answers "
        f"stored on {report.queue}\n"
    )
    rows = [
        (where, what, f"{latency.n:,}", *(one.said for one in latency.percentiles))
        for where, what, latency in report.latencies()
    ]
    if rows:
        names = [one.name for one in report.latencies()[0][2].percentiles]
        print_table(("scenario", "ms", "n", *names), rows)
        click.echo(f"in brackets the {report.level:.0%} interval\n")
    steps = [
        (scenario.name, step.name, f"{step.p50_ms:.4f}", f"{step.mean_ms:.4f}")
        for scenario in report.scenarios
        for step in scenario.steps
    ]
    if steps:
        print_table(("scenario", "step", "median ms", "mean ms"), steps)
        click.echo()
    for sentence in report.sentences():
        click.echo(sentence)
    if not isinstance(report.operators, str):
        operators = [
            (one.name, one.kind, f"{one.ms:.4f}", f"{one.share:.1%}")
            for one in report.operators.operators[:10]
        ]
        click.echo()
        ms = f"{report.operators.statistic} ms (n={report.operators.runs})"
        print_table(("slowest operators", "kind", ms, "share"), operators)
    for warning in report.warnings:
        click.echo(f"warning: {warning}")
    if report.unsigned:
        click.echo("warning: the bundle is not signed by a trusted key")
