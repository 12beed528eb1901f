"""A fresh process that opens a bundle, answers, and prints how long that took."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main(
    bundle: str, sample: str, threads: str, started: str, runs: str, unsigned: str, *trust: str
) -> None:
    """Print times since `started` (CLOCK_MONOTONIC, ns) in ms, and memory in MB, as JSON.

    Args:
        sample: a raw sample in a `.npy` file.
        runs: answers after the first one, before memory is looked at.
        unsigned: `1` to open a bundle without a trusted signature.
        trust: public keys.
    """

    def since() -> float:
        return (time.monotonic_ns() - int(started)) / 1e6

    interpreter = since()
    import numpy as np

    from edgeclin.bundle import Bundle
    from edgeclin.keys import trusted_keys
    from edgeclin.runtime import Runtime

    imported = since()
    keys = trusted_keys([Path(key) for key in trust])
    opened = Bundle.open(Path(bundle), keys, allow_unsigned=unsigned == "1")
    checked = since()
    runtime = Runtime(opened, threads=int(threads))
    ready = since()
    raw = np.load(sample)
    runtime.predict(raw)
    first = since()
    for _ in range(int(runs)):
        runtime.predict(raw)
    from edgeclin.benchmark.bare_engine import memory_mb

    now, most = memory_mb()
    facts = {"interpreter": interpreter, "imported": imported, "checked": checked}
    facts |= {"ready": ready, "first": first, "rss_mb": now, "peak_mb": most}
    print(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
