"""What `--source` may say, and that several sources are judged side by side."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bedsides import PICTURE, bundle_of
from conftest import ECG
from polling import wait_until

from edgeclin.bundle import Bundle
from edgeclin.errors import BadFile, EdgeclinError
from edgeclin.manifest import Manifest
from edgeclin.runtime import Runtime
from edgeclin.sources import (
    Camera,
    FolderWatch,
    JsonLinesSource,
    ReplaySource,
    VideoFile,
    open_source,
    open_sources,
)

BEATS = ECG / "data" / "test.npz"


@pytest.fixture
def signals(bundle: Bundle) -> Runtime:
    return Runtime(bundle)


@pytest.fixture
def pictures(tmp_path: Path, manifest_and_files: tuple[Manifest, dict[str, bytes]]) -> Runtime:
    sample = np.full((9, 9, 3), 99, np.uint8)
    return Runtime(bundle_of(tmp_path, manifest_and_files[0], PICTURE, sample))


def test_a_kind_of_source_for_each_kind_of_address(
    signals: Runtime, pictures: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "lines").open("w+") as lines:
        monkeypatch.setattr(sys, "stdin", lines)
        assert isinstance(open_source("-", signals), JsonLinesSource)
    assert isinstance(open_source(str(BEATS), signals), ReplaySource)
    assert isinstance(open_source(f"watch:{tmp_path}", signals), FolderWatch)
    pytest.importorskip("cv2", reason="the vision extra is not installed")
    (tmp_path / "a.avi").touch()
    assert isinstance(open_source(f"video:{tmp_path / 'a.avi'}", pictures), VideoFile)
    for address in ("camera:0", "camera:/dev/video1", "rtsp://ward/1", "http://ward/1"):
        assert isinstance(open_source(address, pictures), Camera)


@pytest.mark.parametrize("address", ["watch:", "camera:", "video:"])
def test_an_address_without_a_name_is_refused(signals: Runtime, address: str) -> None:
    with pytest.raises(EdgeclinError, match="names nothing after the colon"):
        open_source(address, signals)


def test_an_empty_address_is_refused(signals: Runtime) -> None:
    """As of a variable that nobody has set; it would be the folder where the command is started."""
    with pytest.raises(EdgeclinError, match="empty name"):
        open_source("", signals)


@pytest.mark.parametrize("address", ["wach:/tmp", "mqtt://ward/1"])
def test_a_kind_that_there_is_not_is_refused_with_those_there_are(
    signals: Runtime, address: str
) -> None:
    with pytest.raises(EdgeclinError, match=r"^'.*' is no file, and no source .*: watch:, camera:"):
        open_source(address, signals)


def test_a_file_cannot_be_watched_and_a_missing_folder_is_waited_for(
    signals: Runtime, tmp_path: Path
) -> None:
    with pytest.raises(BadFile, match="not a folder; watch the folder that it is in"):
        open_source(f"watch:{BEATS}", signals)
    assert isinstance(open_source(f"watch:{tmp_path / 'unmounted'}", signals), FolderWatch)


def test_the_same_source_twice_is_refused(signals: Runtime, tmp_path: Path) -> None:
    for address in (str(BEATS), f"watch:{tmp_path}"):
        with pytest.raises(EdgeclinError, match=r"is given twice as a source; name it once"):
            open_sources([address, address], signals)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(EdgeclinError, match=r"is given twice as a source; name it once"):
        open_sources([f"watch:{tmp_path}", f"watch:{tmp_path / 'link'}"], signals)


def test_without_opencv_the_line_that_installs_it_is_named(
    pictures: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(EdgeclinError, match=re.escape("pip install 'edgeclin[vision]'")):
        open_source("camera:0", pictures)


@pytest.fixture
def config(tmp_path: Path, bundle_path: Path) -> Callable[[str], Path]:
    def written(source: str) -> Path:
        path = tmp_path / "device.toml"
        path.write_text(
            f'schema = 1\nsite = "w"\ndevice = "b"\nbundle = "{bundle_path}"\n{source}'
            f'[queue]\npath = "{tmp_path / "q.sqlite"}"\n'
        )
        return path

    return written


@pytest.mark.parametrize("where", ["options", "configuration"])
def test_run_takes_several_sources_at_once(
    tmp_path: Path, config: Callable[[str], Path], trust_key: str, where: str, beats: np.ndarray
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    addresses = [f"watch:{folder}", "-", str(ECG / "data" / "validation.npz")]
    command = [sys.executable, "-m", "edgeclin", "run", "--json", "--trust", trust_key]
    if where == "options":
        command += ["--config", str(config(""))]
        command += [word for address in addresses for word in ("--source", address)]
    else:
        command += ["--config", str(config(f"source = {json.dumps(addresses)}\n"))]
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out)
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(beats[0].tolist()).encode() + b"\n")
            process.stdin.close()
            (folder / "a.csv").write_text("\n".join(map(str, beats[1].tolist())))
            wait_until(lambda: judged(tmp_path / "out") == {"in", "stdin", "validation"}, "all", 60)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def judged(path: Path) -> set[str]:
    """Which sources have results."""
    lines = path.read_text().splitlines()
    whole = [line for line in lines if line.endswith("}")]
    return {re.split(r"[/.#]", json.loads(line)["result"]["source"])[0] for line in whole}


@pytest.fixture
def trust_key(key_pair: object) -> str:
    return os.fspath(key_pair.public)  # type: ignore[attr-defined]
