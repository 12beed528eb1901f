"""Encoded images: the sample is the file's bytes, which the step `decode` decodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeclin.datasets.reader import Content, Piece
from edgeclin.files import open_file, reading, require_file


class Images:
    """PNG, JPEG and the like: uint8 [bytes], one sample a file."""

    kind = "images"
    suffixes = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
    encoded = True
    series = False
    scattered = False

    def look(self, path: Path) -> Content:
        require_file(path)
        return Content()

    def read(self, piece: Piece) -> np.ndarray:
        with open_file(piece.path) as file, reading(piece.path):
            return np.frombuffer(file.read(), dtype=np.uint8)
