from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.ward import Ward


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Callable[..., Ward]]:
    """Makes a ward; see `Ward`."""
    pytest.importorskip("pyarrow", reason="the cloud extra is not installed")
    made: list[Ward] = []

    def make(*arguments: Any, **named: Any) -> Ward:
        made.append(Ward(tmp_path, *arguments, **named))
        return made[0]

    yield make
    for one in made:
        one.close()
