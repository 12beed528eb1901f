"""What a converter is asked for and what it answers: files in a folder, facts in JSON.

A converter is a function found by the entry-point group `edgeclin.converters` under the name
`<what it makes>_from_<what it takes>`. It runs in a process of its own, so that its crash is an
error message:

    def convert(request: Request, report: Callable[[str], None]) -> Outcome

It reads `request.model` (a copy), writes below `request.folder`, calls `report` with a few words
as each stage begins, and raises ConversionFailed for what a user can understand. There are four
kinds, by what they make:

- a float model of another format (`tflite_from_keras`): also asks the source model itself about
  `request.samples`;
- `ranges_from_…`: statistics of every tensor over `request.samples`;
- a quantised engine (`int8_tflite_from_tflite`): applies `request.ranges` by the profile's rules,
  and leaves in float what `request.kept` names;
- `layers_from_…`: compares `request.engine` with the float model over `request.samples`.
"""

from __future__ import annotations

from pathlib import Path

from edgeclin.errors import ConversionFailed
from edgeclin.profiles import Profile
from edgeclin.records import Record

REQUEST = "request.json"
OUTCOME = "outcome.json"
LOG = "converter.log"


class Request(Record, frozen=True):
    """One conversion. `samples` are prepared ones, float32 [n, …], as a `.npy` file."""

    model: str
    folder: str
    profile: Profile
    samples: str = ""
    input_shape: tuple[int, ...] = ()
    """What the model takes, without the batch axis: sizes for axes that its file leaves open."""
    ranges: str = ""
    """What `edgeclin.convert.ranges.write_ranges` wrote."""
    kept: tuple[str, ...] = ()
    """Tensors of the float model that operators go on computing in float."""
    engine: str = ""

    @property
    def method(self) -> str:
        """How the ranges were chosen, which their file is named after."""
        return Path(self.ranges).stem


class Outcome(Record, frozen=True):
    """What a converter made; paths are below the request's folder.

    `answers` holds the model's own outputs for the samples, float32 [n, outputs].
    `consumed` and `consumed_sha256` count and hash the samples that a calibration really took in,
    in order. `floats` names the operators that a quantiser left in float.
    """

    file: str
    tools: dict[str, str]
    answers: str = ""
    consumed: int = 0
    consumed_sha256: str = ""
    floats: tuple[str, ...] = ()


def refusal(what: str, error: Exception) -> ConversionFailed:
    """What a tool did not do, and the last line of its reason: the others are its own trace."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return ConversionFailed(f"{what}: {lines[-1]}")
