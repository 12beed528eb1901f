"""What a converter is asked for and what it answers: files in a folder, facts in JSON.

A converter is a function found by the entry-point group `edgeclin.converters` under the name
`<target>_from_<source>`. It runs in a process of its own, so that its crash is an error message:

    def convert(request: Request, report: Callable[[str], None]) -> Outcome

It reads `request.model` (a copy), writes below `request.folder`, calls `report` with a few words
as each stage begins, and raises ConversionFailed for what a user can understand.
"""

from __future__ import annotations

from typing import Literal

from edgeclin.profiles import Profile
from edgeclin.records import Record

REQUEST = "request.json"
OUTCOME = "outcome.json"
LOG = "converter.log"


class Request(Record, frozen=True):
    """One conversion. Arrays are prepared samples, float32 [n, …], as `.npy` files."""

    model: str
    folder: str
    profile: Profile
    calibration: str
    validation: str


class Outcome(Record, frozen=True):
    """What a converter made; paths are below the request's folder.

    `source_outputs` holds the source model's own answers for the validation samples, float32
    [n, outputs]. `calibrated` and `calibrated_sha256` count and hash the samples that the
    quantiser really consumed, in order, each once however often it was read.
    """

    float_engine: str
    engine: str
    precision: Literal["int8", "float32"]
    source_outputs: str
    method: str
    tools: dict[str, str]
    calibrated: int = 0
    calibrated_sha256: str = ""
