"""`edgeclin inspect`, `verify`, `predict` and `keys`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeclin.cli.output import (
    FILE,
    json_option,
    print_facts,
    print_json,
    print_table,
    trust_options,
)

if TYPE_CHECKING:
    from edgeclin.bundle import Bundle
    from edgeclin.datasets import Dataset
    from edgeclin.records import Result
    from edgeclin.runtime import Runtime


def open_bundle(path: Path, trust: tuple[Path, ...], allow_unsigned: bool) -> Bundle:
    """Open a bundle as the command line was told to trust."""
    from edgeclin.bundle import Bundle
    from edgeclin.keys import trusted_keys

    return Bundle.open(path, trusted_keys(trust), allow_unsigned=allow_unsigned)


@click.command()
@click.argument("bundle", type=FILE)
@trust_options
@json_option
def inspect(bundle: Path, trust: tuple[Path, ...], allow_unsigned: bool, as_json: bool) -> None:
    """Check every byte of a BUNDLE and show what it is."""
    from edgeclin.executable import built, state_here

    opened = open_bundle(bundle, trust, allow_unsigned)
    manifest = opened.manifest
    if as_json:
        found, _ = built(opened)
        facts = {"digest": opened.digest, "signed_by": opened.signed_by, "manifest": manifest}
        print_json(facts | {"built": None if found is None else found[0]})
        return
    confidence, (entry, *_) = manifest.confidence, manifest.inputs
    print_facts(
        {
            "name": f"{manifest.name} {manifest.version}"
            + ("" if manifest.described else " (NOT DESCRIBED: labels and units are guesses)"),
            "digest": opened.digest,
            "signed by": opened.signed_by or "NOBODY TRUSTED",
            "created": manifest.created,
            "intended use": manifest.intended_use,
            "task": manifest.task.value,
            "profile": manifest.profile.name,
            "engines": ", ".join(
                f"{one.file} ({one.backend}, {one.precision}, {one.role}, "
                f"{state_here(opened, one)})"
                for one in manifest.engines
            ),
            "input": f"{entry.name} {list(entry.shape)} {entry.units}".rstrip(),
            "preprocessing": ", ".join(type(step).__name__.lower() for step in entry.preprocessing)
            or "none",
            "labels": ", ".join(manifest.output.labels),
            "urgent": ", ".join(manifest.output.urgent) or "none",
            "confidence": f"{confidence.said(manifest.output)}, temperature "
            f"{confidence.temperature:.3f}, coverage {confidence.coverage:.1%} of "
            f"{confidence.samples}, error bound {confidence.error_bound:.2%}"
            if confidence.fitted
            else "not fitted: every answer is in doubt",
            "guard": "none"
            if manifest.guard is None
            else f"{', '.join(limit.measure for limit in manifest.guard.limits)} as in "
            f"{manifest.guard.samples} samples; {manifest.guard.share:.1%} of the validation "
            "samples were beyond calibration's",
            "self-test": f"{manifest.golden.samples} samples, which may be off by up to "
            f"{manifest.golden.tolerance}",
            "gates missed": "; ".join(manifest.gates_missed) or "none",
            "tools": ", ".join(f"{tool} {version}" for tool, version in manifest.tools.items()),
        }
    )
    rows = [(name, file.size, file.sha256) for name, file in manifest.files.items()]
    print_table(("file", "bytes", "sha256"), rows)


@click.command()
@click.argument("bundle", type=FILE)
@click.option(
    "--validation", type=FILE, help="Labelled samples to measure on, in any form of data set."
)
@trust_options
@json_option
def verify(
    bundle: Path,
    validation: Path | None,
    trust: tuple[Path, ...],
    allow_unsigned: bool,
    as_json: bool,
) -> None:
    """Prove a BUNDLE on this machine.

    Checks every byte, runs the self-test, and measures on labelled data if there is some.
    """
    from edgeclin.datasets import open_dataset
    from edgeclin.errors import PromiseBroken
    from edgeclin.runtime import Runtime
    from edgeclin.verify import measure

    opened = open_bundle(bundle, trust, allow_unsigned)
    dataset = None if validation is None else open_dataset(validation)
    runtime = Runtime(opened)
    measured = None if dataset is None else measure(runtime, dataset)
    if as_json:
        facts = {"digest": opened.digest, "signed_by": opened.signed_by, "self_test": "passed"}
        print_json(
            facts | {"engine": runtime.engine, "degraded": runtime.degraded, "measured": measured}
        )
    else:
        proof = "signed" if opened.signed_by else "listed, NOT SIGNED by a trusted key"
        instead = f", instead of the primary engine ({runtime.degraded})" * bool(runtime.degraded)
        click.echo(
            f"{bundle}: every byte as {proof}; self-test passed with {runtime.engine}{instead}"
        )
        if measured is not None:
            shown = [name for name in measured.__struct_fields__ if name != "broken"]
            print_facts({name: getattr(measured, name) for name in shown})
    if measured is not None and measured.broken:
        raise PromiseBroken("; ".join(measured.broken))


@click.command()
@click.argument("bundle", type=FILE)
@click.argument("data", type=FILE)
@click.option("--position", type=int, help="Only this sample of a data set.")
@trust_options
@json_option
def predict(
    bundle: Path,
    data: Path,
    position: int | None,
    trust: tuple[Path, ...],
    allow_unsigned: bool,
    as_json: bool,
) -> None:
    """Answer about DATA with a BUNDLE, without a queue.

    DATA is one sample (.npy, an image, a DICOM file, a WFDB header, a CSV signal) or a data set.
    A recording is answered window by window.
    """
    from edgeclin.datasets import windowed
    from edgeclin.errors import BadFile, EdgeclinError
    from edgeclin.runtime import Runtime

    given = _dataset(data)
    runtime = Runtime(open_bundle(bundle, trust, allow_unsigned))
    runtime.require_fit(given)
    dataset = windowed(given, runtime.preprocess)
    if position is not None and not 0 <= position < len(dataset):
        raise BadFile(data, f"has no sample {position}", f"it has {len(dataset)}, from 0")
    positions = range(len(dataset)) if position is None else [position]
    results = [_judge(runtime, dataset, position) for position in positions]
    files = [dataset.files[position] for position in positions] if dataset.files else []
    if as_json:
        print_json(_with_files(results, files) if files else results)
    else:
        _print_results(results, files)
    rejected = sum(result.label is None for result in results)
    if rejected:
        raise EdgeclinError(f"{rejected} of {len(results)} samples could not be judged")


def _dataset(data: Path) -> Dataset:
    """A data set, or one sample as a data set of one."""
    from edgeclin.datasets import SAMPLE_SUFFIXES, Dataset, open_dataset, read_sample

    if data.suffix.lower() in SAMPLE_SUFFIXES:
        return Dataset(data, read_sample(data)[None], encoded=data.suffix.lower() != ".npy")
    return open_dataset(data)


def _judge(runtime: Runtime, dataset: Dataset, position: int) -> Result:
    from edgeclin.errors import BadFile, BadInput, EngineFailed

    try:
        return runtime.predict(dataset[position], dataset.name, position)
    except (BadInput, BadFile, EngineFailed) as problem:
        return runtime.reject(problem, dataset.name, position)


def _with_files(results: list[Result], files: list[str]) -> list[dict[str, object]]:
    import msgspec

    return [
        msgspec.to_builtins(result) | {"file": file}
        for result, file in zip(results, files, strict=True)
    ]


def _print_results(results: list[Result], files: list[str]) -> None:
    """One a line, with its file where there are several."""
    rows = [
        (
            result.position,
            *files[at : at + 1],
            result.label or "-",
            f"{result.confidence:.3f}",
            result.state.value,
            result.tier.value,
            result.reason,
        )
        for at, result in enumerate(results)
    ]
    file = ("file",) if files else ()
    print_table(("sample", *file, "label", "confidence", "state", "tier", "reason"), rows)
    if results and results[0].unsigned_bundle:
        click.echo("warning: the bundle is not signed by a trusted key")


@click.group()
def keys() -> None:
    """Make and list the keys that sign bundles."""


@keys.command()
@click.option("--name", default="default", show_default=True, help="File name of the pair.")
@click.option("--folder", type=FILE, help="Where (default: your key folder).")
@json_option
def new(name: str, folder: Path | None, as_json: bool) -> None:
    """Make an Ed25519 key pair: NAME.key stays secret, NAME.pub goes onto devices."""
    from edgeclin.keys import default_folder, new_key_pair

    pair = new_key_pair(folder or default_folder(), name)
    facts = {"private": str(pair.private), "public": str(pair.public), "id": pair.key_id}
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)


@keys.command(name="list")
@click.option("--folder", type=FILE, help="Where (default: your key folder).")
@json_option
def list_keys(folder: Path | None, as_json: bool) -> None:
    """List the public keys that this machine trusts by default."""
    from edgeclin.keys import default_folder, load_public_key, public_keys

    where = folder or default_folder()
    found = [
        {"public": str(path), "id": load_public_key(path).keyid} for path in public_keys(where)
    ]
    if as_json:
        print_json(found)
    elif found:
        print_table(("public key", "id"), [(entry["public"], entry["id"]) for entry in found])
    else:
        click.echo(f"no keys in {where}; make a pair with `edgeclin keys new`")
