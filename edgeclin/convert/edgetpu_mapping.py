"""What becomes of a Coral's engine: predicted always, compiled where the compiler is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from edgeclin.convert.edgetpu import Preflight, preflight
from edgeclin.convert.edgetpu_compiler import Compilation, compile_engine, find_compiler
from edgeclin.errors import ConversionFailed
from edgeclin.profiles import Profile


class EdgeTPUMapping(Preflight, frozen=True):
    """`edgetpu.json`: the prediction, and what the compiler said or why it made nothing."""

    compilation: Compilation | None = None
    problem: str = ""

    @property
    def warnings(self) -> list[str]:
        """What the user must read."""
        if self.compilation is not None:
            return [
                self.compilation.sentence,
                *(
                    f"the prediction and the Edge TPU compiler disagree: {one}"
                    for one in self.compilation.disagreements
                ),
            ]
        end = self.end
        because = (
            "" if end is None else f"; {end.operator} ({end.output}): {end.reason}; {end.remedy}"
        )
        predicted = f"{self.sentence}{because}"
        if not self.problem:
            return [predicted]
        return [f"{self.problem}: the engine stays `not compiled`", predicted]


def map_engine(
    profile: Profile, engine: Path, folder: Path, progress: Callable[[str], None]
) -> tuple[EdgeTPUMapping, bytes | None]:
    """Predict and, where the compiler is found, compile.

    A compiler that fails is no reason to withhold the bundle, whose CPU twin works: it is told.

    Args:
        folder: the conversion's temporary one.

    Returns:
        the mapping, and the compiled engine if there is one.

    Raises:
        BadFile: `EDGETPU_COMPILER` names no program.
    """
    found = preflight(engine.read_bytes(), profile.limits.on_chip_mb or 0.0)
    mapping = EdgeTPUMapping(**{name: getattr(found, name) for name in found.__struct_fields__})
    compiler = find_compiler()
    if compiler is None:
        return mapping, None
    progress("compiling with the Edge TPU compiler")
    place = folder / "edgetpu"
    place.mkdir()
    try:
        made = compile_engine(compiler, engine, found, place)
    except ConversionFailed as exc:
        return msgspec.structs.replace(mapping, problem=str(exc)), None
    return msgspec.structs.replace(mapping, compilation=made.compilation), made.engine
