"""Arrays of samples as `.npy` files that are written row by row: memory does not grow with them."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np


def begin_rows(file: BinaryIO, rows: int, shape: tuple[int, ...]) -> None:
    """Write the head of a float32 array [rows, …]; the bytes of so many rows are to follow.

    Raises:
        OSError: no room.
    """
    # Written and not mapped: on a full disk a mapped file is a SIGBUS, a written one an OSError.
    np.lib.format.write_array_header_1_0(
        file,
        {
            "descr": np.dtype(np.float32).str,
            "fortran_order": False,
            "shape": (rows, *shape),
        },
    )
