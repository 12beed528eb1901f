"""Coverage-guided fuzzing, by atheris, of whatever reads bytes from the network or a disk.

Run as `python tests/fuzz.py SECONDS [TARGET …]`; `make soak` does so for every target. What breaks
one, takes too long or too much memory is kept in `build/fuzz/crashes`: give the path of such a file
instead of SECONDS, and its target, to see it break again.
"""

from __future__ import annotations

import json
import logging
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import atheris

FOLDER = Path("build") / "fuzz"
MOST_S, MOST_MB = 20, 2048
"""What one input may take."""
_TELL_S = 15.0
_BEFORE = 0.3
"""How often JSON is changed as any bytes are."""
_ODD: tuple[Any, ...] = (
    None, True, 0, -1, 0.5, -0.0, 1e308, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30,
    "", "x", "\ud800", "a" * 70, [], [[]], {}, {"": 0}, {"one": 1}, {"these": [1]},
    {"of": ["x"], "at": [0]}, {"numbers": [1], "scale": 2, "steps": True},
)  # fmt: skip
_PROGRESS = re.compile(r"#(\d+)\s.*cov: (\d+)")


def fuzz(seconds: str, name: str, folder: str) -> None:
    """Fuzz one target in this process, which ends with it; or give it the input of a file."""
    with atheris.instrument_imports(include=["edgeclin"]):
        from fuzz_targets import TARGETS
    logging.disable(logging.CRITICAL)
    target = TARGETS[name](Path(folder))
    corpus, crashes = FOLDER / "corpus" / name, FOLDER / "crashes"
    for place in (corpus, crashes):
        place.mkdir(parents=True, exist_ok=True)
    for at, seed in enumerate(target.seeds):
        (corpus / f"seed-{at}").write_bytes(seed)

    def take(data: bytes) -> None:
        with suppress(*target.errors):
            target.take(data)

    aim = [seconds]
    if not Path(seconds).is_file():
        aim = [str(corpus), f"-max_total_time={seconds}", f"-timeout={MOST_S}"]
        aim += [f"-rss_limit_mb={MOST_MB}", f"-artifact_prefix={crashes}/{name}-"]
    changing = {"custom_mutator": _change} if target.json else {}
    atheris.Setup([sys.argv[0], *aim], take, **changing)
    atheris.Fuzz()


def fuzz_beside(seconds: str, name: str) -> bool:
    """Fuzz one target in another process, and tell how it goes; returns whether it holds."""
    runs, coverage, begun, due = 0, 0, 0, time.monotonic() + _TELL_S
    last: deque[str] = deque(maxlen=30)
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        subprocess.Popen(
            [sys.executable, __file__, "--alone", seconds, name, folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if (found := _PROGRESS.match(line)) is None:
                last.append(line)
                continue
            runs, coverage = map(int, found.groups())
            begun = begun or coverage
            if time.monotonic() > due:
                due = time.monotonic() + _TELL_S
                print(f"{name}: {runs} runs, {coverage - begun} new places covered", flush=True)
    holds = process.returncode == 0
    print(
        f"{name} {'holds' if holds else 'BREAKS'}: {runs} runs, {coverage - begun} new places "
        f"covered, {coverage} in all",
        flush=True,
    )
    if not holds:
        print("".join(last), flush=True)
    return holds


def _change(data: bytes, most: int, seed: int) -> bytes:
    """Change one value, or its name, in the JSON behind the first byte."""
    chance = random.Random(seed)
    try:
        if chance.random() < _BEFORE:
            raise ValueError("as any bytes")
        value = [json.loads(data[1:])]
        places = list(_places(value))
        where, key = chance.choice(places)
        other = chance.choice(places)
        what = chance.choice(("odd", "near", "other", "gone", "twice", "named"))
        if what == "gone" and where is not value:
            del where[key]
        elif what == "twice" and isinstance(where, list) and where is not value:
            where.insert(key, where[key])
        elif what == "named" and isinstance(where, dict):
            where[chance.choice((f"{key}/x", f"{key}#0", str(other[1])))] = where.pop(key)
        elif what == "near" and type(where[key]) in (int, float):
            where[key] += chance.choice((-1, 1, 0.5, 2**31))
        else:
            odd = chance.choice(_ODD)
            where[key] = other[0][other[1]] if what == "other" else odd
        changed = json.dumps(value[0], separators=(",", ":")).encode()
    except (ValueError, RecursionError, OverflowError):
        return atheris.Mutate(data, len(data) + 64 if len(data) + 64 < most else most)
    return (data[:1] + changed)[:most]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every value within, as what holds it and its key there."""
    for key in range(len(value)) if isinstance(value, list) else list(value):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def main() -> None:
    """Fuzz all targets, or those that are named, one after the other."""
    from fuzz_targets import TARGETS

    seconds, *names = sys.argv[1:]
    broken = [name for name in names or TARGETS if not fuzz_beside(seconds, name)]
    sys.exit(f"broken: {', '.join(broken)}; see {FOLDER / 'crashes'}" if broken else 0)


if __name__ == "__main__":
    if sys.argv[1] == "--alone":
        fuzz(*sys.argv[2:])
    else:
        main()
