"""Runs onnx2tf on one model. Executed by the toolchain's own Python, where edgeclin is not there.

Usage: run_onnx2tf.py MODEL.onnx FOLDER INPUT PARENT: writes FOLDER/STEM_float32.tflite and
FOLDER/tools.json. MODEL.onnx is overwritten, as onnx2tf always does.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def main(model: str, folder: str, entry: str, parent: int) -> None:
    """Convert; the input named `entry` keeps its shape and layout."""
    # Ended with the converter that started it, SIGKILL included.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        sys.exit(1)
    import onnx2tf

    onnx2tf.convert(
        input_onnx_file_path=model,
        output_folder_path=folder,
        keep_shape_absolutely_input_names=[entry],
        non_verbose=True,
    )
    tools = {"onnx2tf": version("onnx2tf")}
    (Path(folder) / "tools.json").write_text(json.dumps(tools))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
