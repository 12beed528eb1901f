"""`edgeclin confidence`."""

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
from edgeclin.cli.signing import signer_of, signing_options

if TYPE_CHECKING:
    from edgeclin.answered import Share
    from edgeclin.description import Output, Thresholds
    from edgeclin.risk import Risk

SHARE = Number(0, 1, min_open=True, max_open=True)


@click.command()
@click.argument("bundle", type=FILE)
@click.option(
    "--validation",
    type=FILE,
    required=True,
    help="Labelled samples that calibration has not seen, in any form of data set.",
)
@click.option(
    "--max-error",
    type=SHARE,
    help="Share of wrong answers allowed among the confident ones, such as 0.02.",
)
@click.option(
    "--per-class",
    is_flag=True,
    help="A threshold for each label that is answered, the errors kept within its answers.",
)
@click.option(
    "--dual",
    is_flag=True,
    help="Of two labels: an upper threshold of the positive one's score and a lower one.",
)
@click.option("--max-error-positive", type=SHARE, help="With --dual: among positive answers.")
@click.option("--max-error-negative", type=SHARE, help="With --dual: among negative answers.")
@click.option("-o", "--output", type=FILE, help="Write the bundle with the new thresholds here.")
@signing_options
@trust_options
@json_option
def confidence(
    bundle: Path,
    validation: Path,
    max_error: float | None,
    per_class: bool,
    dual: bool,
    max_error_positive: float | None,
    max_error_negative: float | None,
    output: Path | None,
    key: Path | None,
    unsigned: bool,
    trust: tuple[Path, ...],
    allow_unsigned: bool,
    as_json: bool,
) -> None:
    """Choose a BUNDLE's thresholds for a stated risk.

    Fits temperature and thresholds on labelled samples, and shows what they do. With -o a bundle
    that holds them is written and signed anew; the old one stays as it is.
    """
    from edgeclin.bundle import require_place_for_bundle, write_bundle
    from edgeclin.datasets import open_dataset
    from edgeclin.description import Doubt
    from edgeclin.errors import BadFile
    from edgeclin.risk import NoThreshold, measure_risk, rewritten
    from edgeclin.runtime import Runtime

    if per_class and dual:
        raise click.UsageError("--per-class and --dual exclude each other")
    both = max_error_positive is not None and max_error_negative is not None
    if max_error is None and not both:
        raise click.UsageError(
            "give --max-error, or --dual with --max-error-positive and --max-error-negative"
        )
    signer = None
    if output is not None:
        signer = signer_of(key, unsigned)
        if output.exists():
            raise BadFile(output, "exists", "name another file with -o")
        require_place_for_bundle(output)
    thresholds: Thresholds = "dual" if dual else "per-class" if per_class else "one"
    opened = open_bundle(bundle, trust, allow_unsigned)
    doubt = Doubt(
        max_error=0.0 if max_error is None else max_error,
        audit_share=opened.manifest.confidence.audit_share,
        thresholds=thresholds,
        max_error_positive=max_error_positive,
        max_error_negative=max_error_negative,
    )
    risk = measure_risk(Runtime(opened), open_dataset(validation), doubt)
    if as_json:
        print_json(risk)
    else:
        _print(risk, opened.manifest.output)
        if risk.unlike:
            click.echo(f"{risk.unlike} of {risk.samples} samples are unlike calibration: in doubt")
        if risk.empty:
            click.echo(f"{risk.empty} of {risk.samples} samples: nothing is found, in doubt")
        for warning in risk.warnings:
            click.echo(f"warning: {warning}")
    if not risk.confidence.coverage:
        raise NoThreshold(risk)
    if output is not None:
        write_bundle(output, *rewritten(opened, risk), signer)
        if not as_json:
            click.echo(f"{output} written{', NOT SIGNED' if unsigned else ''}")


def _print(risk: Risk, output: Output) -> None:
    last = {f"{point.threshold:.4f}": point for point in risk.curve}
    rows = [
        (threshold, f"{point.coverage:.1%}", f"{point.error:.2%}", f"{point.error_bound:.2%}")
        for threshold, point in last.items()
    ]
    click.echo(f"measured with {risk.engine}")
    print_table(("threshold", "coverage", "error", "bound (95 %, alone)"), rows)
    head = ("samples", "confident", "wrong of these", "findings found", "confidently missed")
    print_table(
        head,
        [
            (part.name, _said(part.coverage), _said(part.error), _said(part.sensitivity),
             _said(part.missed))
            for part in (risk.overall, *risk.groups)
        ],
    )  # fmt: skip
    if risk.left_out is not None:
        left = risk.left_out
        click.echo(
            f"each judged by a threshold chosen without them: {_said(left.coverage)} confident, "
            f"{_said(left.error)} wrong of these; worst {left.worst}: {_said(left.worst_error)}"
        )
    found = risk.confidence
    if found.by_label:
        _print_labels(risk, output)
    elif found.coverage:
        click.echo(
            f"threshold {found.threshold:.4f} at temperature {found.temperature:.3f}: of the "
            f"confident answers about samples like these at most {found.error_bound:.2%} are wrong "
            f"(95 %, allowed {found.max_error:.2%})"
        )


def _print_labels(risk: Risk, output: Output) -> None:
    found = risk.confidence
    rows = [
        (own.label, f"{own.threshold:.4f}" if own.coverage else "none", _said(answers.coverage),
         _said(answers.error), f"{own.error_bound:.2%}", f"{own.max_error:.2%}")
        for own, answers in zip(found.by_label, risk.answered, strict=True)
    ]  # fmt: skip
    head = ("answer", "threshold", "confident", "wrong of these", "bound (95 %, all)", "allowed")
    print_table(head, rows)
    click.echo(f"at temperature {found.temperature:.3f}; {found.said(output)}")


def _said(share: Share | None) -> str:
    if share is None or not share.n:
        return "none"
    return f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}] of {share.n}"
