"""The temporary folder that a conversion works in."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeclin.errors import ConversionFailed


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder that is gone when the block ends, however it ends.

    Raises:
        ConversionFailed: it cannot be made, or the block raised an OSError: the disk is full.
    """
    # Python itself would take another folder without a word when this one cannot be used.
    place = os.environ.get("TMPDIR") or tempfile.gettempdir()
    try:
        with tempfile.TemporaryDirectory(prefix="edgeclin-", dir=place) as name:
            yield Path(name)
    except OSError as exc:
        raise unusable(place, exc) from exc


def unusable(place: Path | str, why: OSError) -> ConversionFailed:
    """What went wrong in the temporary folder at `place`, in one sentence with its remedy."""
    reason = why.strerror or str(why)
    return ConversionFailed(
        f"cannot work in the temporary folder {place} ({reason}); free space there, or set TMPDIR "
        "to a folder that has it"
    )
