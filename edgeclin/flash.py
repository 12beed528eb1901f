"""How much this process has a disk write: flash wears out."""

from __future__ import annotations

from pathlib import Path

_IO = Path("/proc/self/io")
_WRITTEN = "write_bytes: "


def written() -> int | None:
    """Bytes since its start that it had sent to a disk, whole pages of them, as Linux counts
    (`write_bytes`, proc_pid_io(5)); None where the kernel does not say."""
    try:
        lines = _IO.read_text().splitlines()
    except OSError:
        return None
    return next((int(one[len(_WRITTEN) :]) for one in lines if one.startswith(_WRITTEN)), None)
