"""A file is named once, when it has come to rest, whatever becomes of its folder."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest
from unprivileged import closed

from edgeclin.sources.landing import MISSING_S, REST_S, Landed, Landing

SUFFIXES = {".png", ".hea"}


class Folder:
    """A folder with a landing whose clock the test moves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 0.0
        self.ended: set[str] = set()
        self.landing = self.opened()

    def opened(self) -> Landing:
        return Landing(
            self.path,
            SUFFIXES.__contains__,
            lambda path: (path.with_suffix(".dat"),) if path.suffix == ".hea" else (),
            self.ended.__contains__,
            clock=lambda: self.now,
        )

    def after(self, seconds: float) -> list[Landed]:
        self.now += seconds
        return self.landing.scan()

    def names(self, seconds: float) -> list[str]:
        return [file.path.name for file in self.after(seconds)]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    path = tmp_path / "in"
    path.mkdir()
    return Folder(path)


def test_a_file_is_named_once_and_only_at_rest(folder: Folder) -> None:
    (folder.path / "a.png").write_bytes(b"1")
    assert folder.names(0) == []
    assert folder.names(REST_S - 0.01) == []
    assert folder.names(0.01) == ["a.png"]
    assert folder.names(REST_S) == []


def test_a_file_that_grows_waits_until_it_no_longer_does(folder: Folder) -> None:
    for size in range(1, 6):
        (folder.path / "a.png").write_bytes(b"x" * size)
        assert folder.names(REST_S - 0.5) == []
    assert folder.names(REST_S) == ["a.png"]


def test_a_file_written_in_place_is_not_at_rest_though_its_size_stays(folder: Folder) -> None:
    path = folder.path / "a.png"
    path.write_bytes(b"\0" * 100)
    for second in range(5):
        os.utime(path, (second, second))
        assert folder.names(REST_S) == []
    assert folder.names(REST_S) == ["a.png"]


@pytest.mark.parametrize("name", [".a.png", "a.png.part", "a.png.tmp", "a.PNG.Part", "a.png~"])
def test_a_temporary_name_is_left_out_until_it_is_renamed(
    folder: Folder, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (folder.path / name).write_bytes(b"1")
    for _ in range(3):
        assert folder.names(REST_S) == []
    (folder.path / name).rename(folder.path / "a.png")
    assert folder.names(REST_S) == []
    assert folder.names(REST_S) == ["a.png"]
    assert not caplog.messages


def test_a_changed_file_is_another_stream_and_an_untouched_one_never(folder: Folder) -> None:
    (folder.path / "a.png").write_bytes(b"1")
    folder.after(0)
    (first,) = folder.after(REST_S)
    (folder.path / "a.png").write_bytes(b"22")
    folder.after(REST_S)
    (second,) = folder.after(REST_S)
    assert first.stream != second.stream
    assert first.stream.startswith("in/a.png#")
    folder.landing = folder.opened()
    folder.after(0)
    assert [file.stream for file in folder.after(REST_S)] == [second.stream]


def test_equal_files_in_two_folders_are_two_streams(tmp_path: Path) -> None:
    streams = set()
    for ward in ("a", "b"):
        path = tmp_path / ward / "in"
        path.mkdir(parents=True)
        (path / "x.png").write_bytes(b"1")
        os.utime(path / "x.png", (5, 5))
        folder = Folder(path)
        folder.after(0)
        streams |= {file.stream for file in folder.after(REST_S)}
    assert len(streams) == 2


def test_what_was_there_at_the_start_is_told_from_what_came(folder: Folder) -> None:
    (folder.path / "old.png").write_bytes(b"1")
    folder.after(0)
    (folder.path / "new.png").write_bytes(b"1")
    folder.after(1)
    assert {file.path.name: file.backlog for file in folder.after(REST_S)} == {
        "old.png": True,
        "new.png": False,
    }


def test_a_record_waits_for_the_files_that_its_samples_are_in(folder: Folder) -> None:
    (folder.path / "r.hea").write_text("header")
    for _ in range(4):
        assert folder.names(REST_S) == []
    (folder.path / "r.dat").write_bytes(b"1")
    assert folder.names(REST_S) == []
    (folder.path / "r.dat").write_bytes(b"22")
    assert folder.names(REST_S) == []
    assert folder.names(REST_S) == ["r.hea"]


def test_a_record_whose_samples_never_come_is_named_in_the_end_and_again_when_they_do(
    folder: Folder,
) -> None:
    (folder.path / "r.hea").write_text("header")
    folder.after(0)
    assert folder.names(MISSING_S - 1) == []
    (first,) = folder.after(1)
    (folder.path / "r.dat").write_bytes(b"1")
    folder.after(1)
    (second,) = folder.after(REST_S)
    assert first.stream != second.stream


@pytest.mark.parametrize("what", ["empty", "loop", "dangling"])
def test_a_file_that_cannot_be_judged_yet_has_longer_to_mend(folder: Folder, what: str) -> None:
    path = folder.path / "a.png"
    if what == "empty":
        path.touch()
    else:
        path.symlink_to("a.png" if what == "loop" else "nowhere")
    folder.after(0)
    assert folder.names(MISSING_S - 1) == []
    assert folder.names(1) == ["a.png"]
    assert folder.names(MISSING_S) == []
    path.unlink()
    path.write_bytes(b"1")
    folder.after(1)
    assert folder.names(REST_S) == ["a.png"]


def test_a_file_without_permission_is_named_late_and_again_once_it_can_be_read(
    folder: Folder,
) -> None:
    path = folder.path / "a.png"
    path.write_bytes(b"1")
    with closed(path):
        folder.after(0)
        assert folder.names(REST_S) == []
        (first,) = folder.after(MISSING_S)
        assert not folder.landing.changed(first)
        assert folder.names(MISSING_S) == []
    folder.after(1)
    (second,) = folder.after(REST_S)
    assert first.stream != second.stream
    path.chmod(0o600)
    assert folder.names(REST_S) == []
    assert folder.names(REST_S) == []


def test_a_file_that_was_named_is_not_named_again_as_its_permission_goes(folder: Folder) -> None:
    path = folder.path / "a.png"
    path.write_bytes(b"1")
    folder.after(0)
    assert folder.names(REST_S) == ["a.png"]
    with closed(path):
        assert folder.names(1) == []
        assert folder.names(MISSING_S) == []


def test_a_folder_that_goes_is_told_once_and_nothing_in_it_is_named_twice(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for name in ("a.png", "b.png"):
        (folder.path / name).write_bytes(b"1")
    folder.after(0)
    folder.ended |= {file.stream for file in folder.after(REST_S)}
    away = folder.path.with_name("away")
    folder.path.rename(away)
    for _ in range(3):
        assert folder.names(MISSING_S) == []
    assert len(caplog.messages) == 1
    assert "waited for" in caplog.messages[0]
    away.rename(folder.path)
    assert folder.names(1) == []
    assert "is there again" in caplog.messages[1]
    assert folder.names(REST_S) == []


def test_what_is_not_read_is_told_once(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.xyz", "b.xyz", "c.doc", "noend"):
        (folder.path / name).write_bytes(b"1")
    (folder.path / "d.xyz").symlink_to("d.xyz")
    (folder.path / "sub.png").mkdir()
    (folder.path / "sub").mkdir()
    for _ in range(3):
        assert folder.names(MISSING_S) == []
    assert len(caplog.messages) == 4
    assert sum("'.xyz'" in message for message in caplog.messages) == 1


def test_names_that_end_in_numbers_are_one_kind(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    """As files of DICOM are often named."""
    for number in range(200):
        (folder.path / f"1.2.840.{number}").write_bytes(b"1")
        (folder.path / f"x.a{number}").write_bytes(b"1")
    assert folder.names(MISSING_S) == []
    assert sum("without a usual suffix" in message for message in caplog.messages) == 1
    assert 100 <= len(caplog.messages) <= 102


def test_a_file_that_never_rests_is_told_once(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    for size in range(1, 300):
        (folder.path / "a.png").write_bytes(b"x" * size)
        folder.after(1)
    (message,) = caplog.messages
    assert "has been changing for 60 s" in message


def test_what_is_gone_is_forgotten_once_it_is_judged_to_its_end(folder: Folder) -> None:
    (folder.path / "a.png").write_bytes(b"1")
    folder.after(0)
    (file,) = folder.after(REST_S)
    kept = folder.path.with_name("kept")
    shutil.move(folder.path / "a.png", kept)
    assert folder.names(1) == []
    assert len(folder.landing._files) == 1  # its samples still wait
    shutil.move(kept, folder.path / "a.png")
    assert folder.names(REST_S) == folder.names(REST_S) == []
    folder.ended.add(file.stream)
    (folder.path / "a.png").unlink()
    assert folder.names(1) == []
    assert not folder.landing._files


def test_a_name_that_is_no_text_becomes_one(folder: Folder) -> None:
    Path(os.fsdecode(os.fsencode(folder.path) + b"/\xff.png")).write_bytes(b"1")
    folder.after(0)
    (file,) = folder.after(REST_S)
    file.stream.encode()
    assert file.path.read_bytes() == b"1"
