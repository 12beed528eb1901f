"""datasets: every form is read the same, wrong ones are named, and images stay on the disk."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ECG
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from unprivileged import closed

from edgeclin.datasets import Dataset, open_dataset, read_sample, sample_hash
from edgeclin.errors import BadFile
from edgeclin.preprocess.image import decode
from edgeclin.steps import Decode

X = np.arange(24, dtype=np.float32).reshape(4, 6)


def npz(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def images(folder: Path, *names: str) -> list[bytes]:
    """Small pictures, each of another grey."""
    content = []
    for number, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.new("RGB", (4, 3), (number * 9,) * 3).save(buffer, "png")
        file.write_bytes(buffer.getvalue())
        content.append(buffer.getvalue())
    return content


def table(folder: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    (folder / "labels.csv").write_bytes(data)
    return folder


# Arrays


def test_arrays_are_read_with_their_labels_and_groups(tmp_path: Path) -> None:
    path = npz(tmp_path / "d.npz", X=X, y=np.array([0, 1, 1, 0]), group=np.array(list("aabb")))
    data = open_dataset(path)
    assert data.name == "d.npz"
    assert len(data) == 4
    np.testing.assert_array_equal(np.stack(list(data)), X)
    assert data[2].tolist() == X[2].tolist()
    assert data.labels == ("0", "1", "1", "0")
    assert data.groups == ("a", "a", "b", "b")


def test_labels_and_groups_may_be_absent_and_other_arrays_are_left_alone(tmp_path: Path) -> None:
    data = open_dataset(npz(tmp_path / "d.npz", X=X, notes=np.zeros(99), subject=X))
    assert data.unread == ("notes", "subject")
    assert data.labels is None
    assert data.groups is None
    assert data.truth(["a", "b"]) is None


def test_the_real_heartbeats_are_read(beats: np.ndarray) -> None:
    data = open_dataset(ECG / "data" / "test.npz")
    assert len(data) == 4500
    assert data[4499].tobytes() == beats[4499].tobytes()
    assert data.labels is not None
    assert len(set(data.labels)) == 5


@pytest.mark.parametrize("kind", ["S", "U", "O"])
def test_labels_may_be_text(tmp_path: Path, kind: str) -> None:
    labels = np.array(["normal", "PVC", "PVC", "normal"], dtype=kind)
    path = tmp_path / "d.npz"
    if kind == "O":
        np.savez(path, X=X, y=labels)
        with pytest.raises(BadFile, match="plain arrays"):  # a pickle could run code
            open_dataset(path)
        return
    assert open_dataset(npz(path, X=X, y=labels)).labels == ("normal", "PVC", "PVC", "normal")


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"x": X}, r"has no array X; store the samples as X \[n, …\]"),
        ({"X": X[0]}, r"X has the shape \(6,\); it must be \[n, …\]"),
        ({"X": np.float32(3)}, r"X has the shape \(\)"),
        ({"X": X[:0]}, r"X has the shape \(0, 6\).*n above 0"),
        ({"X": X, "y": np.zeros(3)}, r"y has the shape \(3,\), X has 4 samples"),
        ({"X": X, "y": np.zeros((4, 2))}, r"y has the shape \(4, 2\), X has 4 samples"),
        ({"X": X, "group": np.zeros(5)}, r"group has the shape \(5,\), X has 4 samples"),
        ({"X": np.array([[None]])}, "not an .npz file of plain arrays"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    tmp_path: Path, arrays: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, **arrays)
    with pytest.raises(BadFile, match=problem) as caught:
        open_dataset(path)
    assert str(path) in str(caught.value)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "broken-in"),)

    np.savez(tmp_path / "d.npz", X=np.array([[Evil()]], dtype=object))
    np.save(tmp_path / "s.npy", np.array([Evil()], dtype=object))
    with pytest.raises(BadFile):
        open_dataset(tmp_path / "d.npz")
    with pytest.raises(BadFile):
        read_sample(tmp_path / "s.npy")
    assert not (tmp_path / "broken-in").exists()


def saved(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def npy(value: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


HEADER = b"\x93NUMPY\x01\x00"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        b"PK\x03\x04",
        saved(X=X)[:100],
        npy(X),
        zipped("X.npy", b""),
        zipped("X.npy", npy(X)[:-5]),
        zipped("X.npy", HEADER + b"\x10\x00{'descr': '<f4',"),
        zipped("X.npy", HEADER + (60).to_bytes(2, "little") + b"(" * 60),
        zipped(
            "X.npy",
            HEADER
            + (76).to_bytes(2, "little")
            + b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 99999)}".ljust(76),
        ),
    ],
    ids=["empty", "text", "bare", "cut", "npy", "hollow", "short", "header", "brackets", "huge"],
)
def test_a_damaged_array_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "d.npz"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=r"d\.npz: not an \.npz file of plain arrays"):
        open_dataset(path)


SOUND = saved(X=X, y=np.array([0, 1, 1, 0]))
flips = st.lists(
    st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=4
)


@settings(deadline=None, max_examples=300)
@given(flips=flips)
def test_a_damaged_array_file_is_read_or_bad_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    damaged = bytearray(SOUND)
    for position, value in flips:
        damaged[position] = value
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(damaged)
    try:
        data = open_dataset(path)
    except BadFile as exc:
        assert str(path) in str(exc)
        return
    assert len(list(data)) == len(data)


@pytest.mark.parametrize("name", ["d.npy", "d", "d.png", "d.npz.gz"])
def test_a_file_of_another_form_is_refused_with_the_forms_there_are(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(SOUND)
    with pytest.raises(
        BadFile,
        match=r"not a data set; give an \.npz file, a folder of images, DICOM files, WFDB",
    ):
        open_dataset(tmp_path / name)


@pytest.mark.parametrize("name", ["rec1", "rec1.dat"])
def test_a_part_of_a_record_is_refused_with_the_name_of_its_header(
    tmp_path: Path, name: str
) -> None:
    for part in ("rec1.hea", "rec1.dat"):
        (tmp_path / part).write_bytes(b"1")
    with pytest.raises(BadFile, match=r"is a part of a WFDB record; give its header, rec1\.hea"):
        open_dataset(tmp_path / name)


def test_a_missing_data_set_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"absent\.npz: no such file"):
        open_dataset(tmp_path / "absent.npz")


# Folders


def test_one_folder_for_each_label(tmp_path: Path) -> None:
    content = images(tmp_path, "benign/b.png", "benign/a.PNG", "malign/c.jpg")
    (tmp_path / "benign" / "notes.txt").write_text("not an image")
    (tmp_path / "readme.md").write_text("not an image")
    data = open_dataset(tmp_path)
    assert data.name == tmp_path.name
    assert data.labels == ("benign", "benign", "malign")
    assert [sample.tobytes() for sample in data] == [content[1], content[0], content[2]]
    assert {sample.dtype for sample in data} == {np.dtype(np.uint8)}
    assert data.encoded
    assert data.groups is None


def test_images_without_labels(tmp_path: Path) -> None:
    content = images(tmp_path, "2.png", "1.png", "10.png")
    data = open_dataset(tmp_path)
    assert data.labels is None
    assert [sample.tobytes() for sample in data] == [content[1], content[2], content[0]]


def test_a_table_gives_labels_groups_and_the_order(tmp_path: Path) -> None:
    content = images(tmp_path, "x/1.png", "x/2.png", "3.png")
    table(tmp_path, "group,file,label,notes\np2,3.png,sick,\np1,x/1.png,well,hello\n")
    data = open_dataset(tmp_path)
    assert data.unread == ("notes",)
    assert data.labels == ("sick", "well")
    assert data.groups == ("p2", "p1")
    assert [sample.tobytes() for sample in data] == [content[2], content[0]]


@pytest.mark.parametrize(
    "text",
    [
        "file,label\r\n1.png,müde\r\n",
        "file,label\n1.png,müde",
        "\ufefffile,label\n1.png,müde\n",
        '"file","label"\n"1.png","müde"\n',
        "file,label\n1.png,müde\n\n",
    ],
    ids=["windows", "no newline", "excel", "quoted", "blank line"],
)
def test_a_table_is_read_as_other_programs_write_it(tmp_path: Path, text: str) -> None:
    images(tmp_path, "1.png")
    data = open_dataset(table(tmp_path, text))
    assert data.labels == ("müde",)
    assert data.groups is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "needs the columns file and label"),
        ("file;label\n1.png;a\n", "needs the columns file and label"),
        ("name,label\n1.png,a\n", "needs the columns file and label"),
        ("file,label\n", "has no rows"),
        ("file,label\n1.png,a\n2.png\n", "row 2 has fewer cells"),
        ("file,label,group\n1.png,a\n", "row 1 has fewer cells"),
        ("file,label\n9.png,a\n", r"9\.png: no such file, although labels\.csv names it"),
        ("file,label\n,a\n", "no such file, although"),
        (b"file,label\n1.png,m\xfcde\n", "cannot be read as CSV in UTF-8"),
        (b"file,label\n1.png,a\0b\n" + b'"' + b"x" * 200_000, "cannot be read as CSV"),
    ],
)
def test_a_wrong_table_is_refused_with_the_reason(
    tmp_path: Path, text: str | bytes, problem: str
) -> None:
    images(tmp_path, "1.png", "2.png")
    with pytest.raises(BadFile, match=problem) as caught:
        open_dataset(table(tmp_path, text))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("file,label\n../1.png,a\n", "row 1 leaves the folder; a data set is what its folder"),
        ("file,label\n1.png,a\nx/../../2.png,a\n", "row 2 leaves the folder"),
        ("file,label\n/etc/passwd,a\n", "row 1 leaves the folder"),
        ("file,label\n1.png,a\n2.png,a\n1.png,b\n", "row 3 names 1.png again with another label"),
        ("file,label\n1.png,a\n./1.png,a\n", "row 2 names ./1.png again$"),
        ("file,label\n1.png,a\nnotes.md,a\n", r"notes\.md: is of no kind that is read; label im"),
        ("file,label\n1.png,a\ns.csv,a\n", r"holds images \(1.png\) and CSV signals \(s.csv\)"),
        ("file,label,start\n1.png,a,0\n", "images have neither start nor end"),
        ("file,label,start,end\ns.csv,a,1,1\n", "row 1 starts at 1 and ends at 1"),
        ("file,label,end\ns.csv,a,0\n", "row 1 starts at 0 and ends at 0"),
        ("file,label,start\ns.csv,a,-1\n", "row 1: start is no whole number from 0"),
        ("file,label,end\ns.csv,a,1.5\n", "row 1: end is no whole number from 0"),
    ],
)
def test_a_row_that_names_no_sample_of_this_data_set_is_refused(
    tmp_path: Path, text: str, problem: str
) -> None:
    images(tmp_path, "1.png", "2.png", "x/3.png", "set/1.png", "set/2.png", "set/x/3.png")
    for name in ("notes.md", "s.csv"):
        (tmp_path / "set" / name).write_text("1\n2\n")
    with pytest.raises(BadFile, match=problem):
        open_dataset(table(tmp_path / "set", text))


def test_a_stretch_and_the_whole_may_both_be_named_but_none_twice(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("1\n2\n3\n")
    rows = "file,label,start,end\ns.csv,a,,\ns.csv,b,0,2\ns.csv,b,1,3\n"
    assert [len(sample) for sample in open_dataset(table(tmp_path, rows))] == [3, 2, 2]
    with pytest.raises(BadFile, match=r"row 4 names s\.csv again with another label"):
        open_dataset(table(tmp_path, f"{rows}s.csv,c,1,3\n"))


def test_a_folder_of_several_kinds_is_refused_unless_the_text_beside_is_a_note(
    tmp_path: Path,
) -> None:
    images(tmp_path, "1.png")
    (tmp_path / "list.csv").write_text("a,b\n1,2\n")
    assert len(open_dataset(tmp_path)) == 1
    (tmp_path / "100.hea").write_text("")
    with pytest.raises(BadFile, match=r"holds (images|WFDB).* and .*; keep to one kind"):
        open_dataset(tmp_path)
    (tmp_path / "1.png").unlink()
    (tmp_path / "100.hea").unlink()
    assert open_dataset(tmp_path).leads == ("a", "b")


def test_a_table_in_a_subfolder_is_not_taken_for_a_signal(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    table(tmp_path / "part", "file,label\n1.txt,a\n")
    (tmp_path / "part" / "1.txt").write_text("1\n")
    with pytest.raises(BadFile, match=r"labels\.csv: is in a subfolder; name that folder, or"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path / "part")) == 1


def test_links_that_lead_nowhere_or_to_themselves_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    images(folder, "1.png")
    (folder / "up").symlink_to("..")
    (folder / "round").symlink_to("round")
    assert len(open_dataset(folder)) == 1
    (folder / "2.png").symlink_to("2.png")
    with pytest.raises(BadFile, match=r"2\.png: cannot be read \(Too many levels"):
        open_dataset(folder)
    (folder / "2.png").unlink()
    (folder / "labels.csv").symlink_to("gone.csv")
    with pytest.raises(BadFile, match=r"labels\.csv: no such file"):
        open_dataset(folder)


@settings(deadline=None)
@given(data=st.binary() | st.text('",;\n\rfilelabel1.png').map(str.encode))
def test_any_table_is_read_or_bad_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "tables"
    images(folder, "1.png")
    try:
        found = open_dataset(table(folder, b"file,label\n" + data))
    except BadFile:
        return
    assert found.labels is not None
    assert all(isinstance(label, str) for label in found.labels)


@pytest.mark.parametrize("inner", ["", "benign"])
def test_a_folder_that_may_not_be_read_is_named_rather_than_left_out(
    tmp_path: Path, inner: str
) -> None:
    folder = tmp_path / "cells"
    images(folder, "benign/1.png", "malign/2.png")
    assert len(open_dataset(folder)) == 2
    with (
        closed(folder / inner),
        pytest.raises(BadFile, match=r"cannot be read \(Permission denied\); mend") as caught,
    ):
        open_dataset(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_table_that_is_no_file_is_not_taken_for_no_table(tmp_path: Path, kind: str) -> None:
    images(tmp_path, "1.png")
    (os.mkfifo if kind == "pipe" else os.mkdir)(tmp_path / "labels.csv")
    with pytest.raises(BadFile, match=r"labels\.csv: (not a regular file|a folder)"):
        open_dataset(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    images(tmp_path, "deep/er/1.png")
    with pytest.raises(
        BadFile, match="no images, DICOM files, WFDB records or CSV signals in it, nor in"
    ):
        open_dataset(tmp_path)


def test_images_are_read_when_they_are_asked_for_and_not_before(tmp_path: Path) -> None:
    """Three sparse files of 1 GiB each: opening them must not read one."""
    images(tmp_path, "1.png", "2.png", "3.png")
    for name in ("1.png", "2.png", "3.png"):
        os.truncate(tmp_path / name, 1 << 30)
    tracemalloc.start()
    data = open_dataset(tmp_path)
    assert len(data) == 3
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    (content,) = images(tmp_path, "2.png")
    assert data[1].tobytes() == content


def test_walking_through_images_keeps_one_at_a_time(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}.png").write_bytes(bytes(1 << 20))
    data = open_dataset(tmp_path)
    tracemalloc.start()
    assert len([sample.size for sample in data]) == 20
    assert len(data.hashes()) == 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 << 20


def test_an_image_that_vanished_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    images(tmp_path, "1.png", "2.png")
    data = open_dataset(tmp_path)
    (tmp_path / "2.png").unlink()
    assert data[0].size
    with pytest.raises(BadFile, match=r"2\.png: no such file"):
        data[1]


def test_real_cells_are_read_lazily_and_decoded(shared_data: Path, tmp_path: Path) -> None:
    """The set's own table names its columns otherwise, which is said; a table of ours is read."""
    cells = shared_data / "malaria"
    data = open_dataset(cells / "test_dev")
    assert len(data) == 313
    assert data.labels is None
    assert decode(data[312], Decode()).shape[2] == 3
    rows = (cells / "labels.csv").read_text().splitlines()[1:]
    cut = [row.split(",")[:3] for row in rows if row.startswith("test_dev/")]
    for name, _, _ in cut:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(cells / name)
    lines = ["file,label,group", *(",".join(row) for row in cut)]
    ours = open_dataset(table(tmp_path, "\n".join(lines)))
    assert len(ours) == 313
    assert set(ours.labels or ()) == {"parasitized", "uninfected"}
    assert len(set(ours.groups or ())) == 20
    assert sorted(ours.hashes()) == sorted(data.hashes())


# What a data set can do


def made(labels: tuple[str, ...] | None, groups: tuple[str, ...] | None = None) -> Dataset:
    return Dataset(Path("d.npz"), list(X), labels, groups)


def test_names_come_before_indices() -> None:
    truth = made(("PVC", "0", "1", "normal")).truth(["normal", "PVC"])
    assert truth is not None
    assert truth.tolist() == [1, 0, 1, 0]
    assert truth.dtype == np.int64
    swapped = made(("1", "0", "1", "0")).truth(["1", "0"])
    assert swapped is not None
    assert swapped.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("label", ["flu", "2", "-1", "0.0", "", "Normal"])
def test_a_label_that_the_model_does_not_know_is_named(label: str) -> None:
    data = made(("normal", label, "PVC", "normal"))
    with pytest.raises(BadFile, match="is not one of normal, PVC") as caught:
        data.truth(["normal", "PVC"])
    assert repr(label) in str(caught.value)


def test_a_subset_keeps_order_labels_and_groups_together() -> None:
    part = made(tuple("abcd"), tuple("wxyz")).subset([3, 1])
    assert part.labels == ("d", "b")
    assert part.groups == ("z", "x")
    np.testing.assert_array_equal(np.stack(list(part)), X[[3, 1]])
    assert made(None).subset([0]).labels is None


def test_a_subset_of_files_reads_none_before_it_is_asked_for(tmp_path: Path) -> None:
    content = images(tmp_path, "1.png", "2.png", "3.png")
    part = open_dataset(tmp_path).subset([2, 0, 1]).subset([0, 1])
    (tmp_path / "3.png").unlink()
    assert len(part) == 2
    assert part[1].tobytes() == content[0]
    with pytest.raises(BadFile, match=r"3\.png: no such file"):
        part[0]


def test_a_hash_tells_samples_apart_by_type_shape_and_bytes() -> None:
    sample = np.arange(6, dtype=np.float32)
    others = [
        sample.reshape(2, 3),
        sample.astype(np.float64),
        sample.view(np.int32),
        sample + 1,
        sample[::-1],
        sample[:5],
    ]
    hashes = {sample_hash(value) for value in (sample, *others)}
    assert len(hashes) == 7
    assert sample_hash(sample.copy()) == sample_hash(sample)
    assert sample_hash(np.asfortranarray(others[0])) == sample_hash(others[0])
    expected = hashlib.sha256(b"<f4(6,)" + sample.tobytes()).hexdigest()
    assert sample_hash(sample) == expected


def test_one_sample_is_an_array_an_image_or_a_recording(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("I,II\n1,2\n3,4\n")
    assert read_sample(tmp_path / "s.csv").tolist() == [[1, 2], [3, 4]]
    np.save(tmp_path / "s.npy", X)
    np.testing.assert_array_equal(read_sample(tmp_path / "s.npy"), X)
    (content,) = images(tmp_path, "s.PNG")
    assert read_sample(tmp_path / "s.PNG").tobytes() == content


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("s.bin", b"1 2 3", r"not a sample; give a \.npy file, or one of images, DICOM files"),
        ("s.npy", b"", "not a .npy file of numbers"),
        ("s.npy", b"text", "not a .npy file of numbers"),
        ("s.npy", npy(X)[:50], "not a .npy file of numbers"),
        ("s.npy", npy(X)[:-1], "not a .npy file of numbers"),
        ("s.npy", saved(X=X), "not a .npy file of numbers"),
    ],
)
def test_what_is_no_sample_is_said(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadFile, match=problem) as caught:
        read_sample(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_a_missing_sample_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"s\.npy: no such file"):
        read_sample(tmp_path / "s.npy")


# -- label maps ---------------------------------------------------------------------------------


def maps_file(tmp_path: Path, maps: np.ndarray) -> Path:
    path = tmp_path / "maps.npz"
    np.savez(path, X=np.zeros((4, 3, 5, 1)), y=maps)
    return path


def test_label_maps_are_read_and_follow_their_samples(tmp_path: Path) -> None:
    maps = np.arange(60).reshape(4, 3, 5) % 2
    dataset = open_dataset(maps_file(tmp_path, maps))
    assert dataset.labels is None
    truth = dataset.subset([2, 0]).truth(("tissue", "vessel"))
    assert truth is not None
    assert truth.dtype == np.int64
    assert (truth == maps[[2, 0]]).all()


@pytest.mark.parametrize(
    ("maps", "problem"),
    [
        (np.zeros((3, 3, 5), int), "y has the shape (3, 3, 5)"),
        (np.zeros((4, 3, 5)), "y is float64"),
    ],
)
def test_maps_that_do_not_fit_are_refused(tmp_path: Path, maps: np.ndarray, problem: str) -> None:
    with pytest.raises(BadFile, match=re.escape(problem)):
        open_dataset(maps_file(tmp_path, maps))


def test_a_map_with_an_index_that_is_no_label_is_refused(tmp_path: Path) -> None:
    dataset = open_dataset(maps_file(tmp_path, np.full((4, 3, 5), 2)))
    with pytest.raises(BadFile, match="indices from 2 to 2, there are 2 labels"):
        dataset.truth(("tissue", "vessel"))


def test_samples_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", X=np.array([["a", "b"]]))
    with pytest.raises(BadFile, match=r"X is of type <U1; it must be numbers"):
        open_dataset(tmp_path / "d.npz")
