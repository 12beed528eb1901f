"""Whether data are of the kind that a description was written for."""

from __future__ import annotations

from math import isclose

from edgeclin.datasets.dataset import Dataset
from edgeclin.description import Input
from edgeclin.errors import BadFile
from edgeclin.steps import Decode, Leads, Resample

_LONGEST_NAME = 16


def listed(leads: tuple[str, ...] | None) -> str:
    """Names of leads for a message; what is longer than a name may be a line about a patient."""
    if leads is None:
        return "without names"
    short = all(len(lead) <= _LONGEST_NAME for lead in leads)
    return ", ".join(leads) if short else f"{len(leads)} with no names of leads"


def same_rate(one: float | None, other: float | None, error: float) -> bool:
    """Whether two rates in Hz are the same as far as one can tell, to a share of them."""
    return one is None or other is None or isclose(one, other, rel_tol=error)


def require_described(dataset: Dataset, described: Input) -> None:
    """Refuse recordings at another rate, or with other leads, than the model is described for, and
    images that no step decodes: their bytes would pass for a signal.

    What neither the files nor the description say is not compared.

    Raises:
        BadFile: says what was found and what was expected.
    """
    if dataset.encoded and not any(isinstance(step, Decode) for step in described.preprocessing):
        raise BadFile(
            dataset.path,
            f"holds images, and no step of the input {described.name!r} decodes them",
            "begin its preprocessing in model.toml with the step `decode`",
        )
    expected = described.sampling_hz
    for step in reversed(described.preprocessing):
        if isinstance(step, Resample):
            expected = float(step.from_hz)
    if not same_rate(expected, dataset.sampling_hz, dataset.sampling_error):
        raise BadFile(
            dataset.path,
            f"recorded at {dataset.sampling_hz:g} Hz, the model is described for {expected:g} Hz",
            "let the step `resample` in model.toml begin at the recorder's rate",
        )
    if dataset.leads is None or not described.leads:
        return
    leads = dataset.leads
    for step in described.preprocessing:
        if isinstance(step, Leads):
            leads = tuple(leads[at] if at < len(leads) else "none" for at in step.take)
    if leads != described.leads:
        raise BadFile(
            dataset.path,
            f"its leads give {listed(leads)}, the model is described for {listed(described.leads)}",
            "take them by the step `leads`, or mend inputs.leads in model.toml",
        )
