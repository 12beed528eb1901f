"""config: one file for a device, in which nothing is misread or silently left out."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclin.config import (
    BrokerConfig,
    DeviceConfig,
    OpinionConfig,
    QueueConfig,
    SyncConfig,
    check_topic_level,
    load_config,
)
from edgeclin.errors import BadFile, EdgeclinError

LEAST = """
schema = 1
site = "ward-3"
device = "bed.7"
[queue]
path = "queue.sqlite"
"""
MOST = """
schema = 1
site = "ward-3"
device = "bed.7"
bundle = "ecg.edgeclin"
trusted_keys = ["clinic.pub"]
source = "test.npz"
[queue]
path = "queue.sqlite"
max_mb = 64
routine_sync_ms = 100
[broker]
host = "broker.example"
port = 8883
ca = "ca.pem"
certificate = "bed.pem"
key = "bed.key"
keepalive_s = 30
reconnect_most_s = 5
[opinions]
deadline_s = 12.5
[sync]
batch_results = 10
batch_bytes = 1000
window_batches = 2
receipt_timeout_s = 3
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "device.toml"
    path.write_text(text)
    return path


def test_the_least_that_a_device_must_be_told(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, LEAST))
    queue = QueueConfig(path="queue.sqlite")
    assert config == DeviceConfig(schema=1, site="ward-3", device="bed.7", queue=queue)
    assert config.bundle is None
    assert config.trusted_keys == ()


def test_everything_that_a_device_can_be_told(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, MOST)) == DeviceConfig(
        schema=1,
        site="ward-3",
        device="bed.7",
        queue=QueueConfig(path="queue.sqlite", max_mb=64, routine_sync_ms=100),
        bundle="ecg.edgeclin",
        trusted_keys=("clinic.pub",),
        source="test.npz",
        broker=BrokerConfig(
            host="broker.example",
            port=8883,
            ca="ca.pem",
            certificate="bed.pem",
            key="bed.key",
            keepalive_s=30,
            reconnect_most_s=5,
        ),
        opinions=OpinionConfig(deadline_s=12.5),
        sync=SyncConfig(batch_results=10, batch_bytes=1000, window_batches=2, receipt_timeout_s=3),
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("schema = 1", "schema = 2", "schema 2 is unknown; this version reads 1"),
        ("schema = 1", "", "schema"),
        ('site = "ward-3"', "", "site"),
        ("[queue]", "[queue]\ncolour = 1", "colour"),
        ("[sync]", "[sink]", "sink"),
        ("port = 8883", 'port = "8883"', "port"),
        ('trusted_keys = ["clinic.pub"]', 'trusted_keys = "clinic.pub"', "trusted_keys"),
        ('site = "ward-3"', 'site = "ward/3"', "site 'ward/3' must be 1 to 64"),
        ('device = "bed.7"', 'device = "+"', "device '+' must be 1 to 64"),
        ('device = "bed.7"', 'device = ""', "device '' must be 1 to 64"),
        ('ca = "ca.pem"', "", "without broker.ca, so the link would not be TLS"),
        ('certificate = "bed.pem"', "", "broker.key without broker.certificate"),
    ],
)
def test_a_wrong_file_is_refused_with_its_path_and_the_reason(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    assert old in MOST
    path = written(tmp_path, MOST.replace(old, new, 1))
    with pytest.raises(BadFile, match=re.escape(problem)) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_client_certificate_without_a_ca_is_never_plain_tcp(tmp_path: Path) -> None:
    path = written(tmp_path, LEAST + '[broker]\ncertificate = "bed.pem"\n')
    with pytest.raises(BadFile, match=r"without broker\.ca"):
        load_config(path)


def test_a_ca_alone_is_enough_for_tls(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, LEAST + '[broker]\nca = "ca.pem"\n')).broker.ca == "ca.pem"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("queue.max_mb", ["0", "-1", "16777217", f"{1 << 70}"]),
        ("queue.routine_sync_ms", ["-1", "60001"]),
        ("broker.port", ["0", "-1", "65536"]),
        ("broker.keepalive_s", ["0", "65536"]),
        ("broker.reconnect_most_s", ["0", "-1", "nan", "inf", "86401"]),
        ("opinions.deadline_s", ["0", "-1", "nan", "inf", "4294967296"]),
        ("sync.batch_results", ["0", "-5", "10001"]),
        ("sync.batch_bytes", ["0", str((32 << 20) + 1)]),
        ("sync.window_batches", ["0", "65536"]),
        ("sync.receipt_timeout_s", ["-1", "nan", "inf", "86401"]),
    ],
)
def test_a_number_that_could_not_work_is_refused_by_its_name(
    tmp_path: Path, name: str, values: list[str]
) -> None:
    key = name.split(".")[1]
    for value in values:
        text = re.sub(rf"^{key} = .*$", f"{key} = {value}", MOST, flags=re.M)
        assert text != MOST
        with pytest.raises(
            BadFile, match=rf"{re.escape(name)} does not fit; it must be .* [<>]=? "
        ):
            load_config(written(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("queue.max_mb", 1 << 24),
        ("queue.routine_sync_ms", 60_000),
        ("broker.port", 65535),
        ("opinions.deadline_s", 4294967295),
        ("sync.batch_results", 10_000),
        ("sync.batch_bytes", 32 << 20),
    ],
)
def test_the_largest_number_that_works_is_taken(tmp_path: Path, name: str, value: int) -> None:
    table, key = name.split(".")
    text = re.sub(rf"^{key} = .*$", f"{key} = {value}", MOST, flags=re.M)
    assert getattr(getattr(load_config(written(tmp_path, text)), table), key) == value


@pytest.mark.parametrize(
    ("old", "where"),
    [
        ('"ecg.edgeclin"', "bundle"),
        ('"clinic.pub"', "trusted_keys[0]"),
        ('"test.npz"', "source"),
        ('"queue.sqlite"', "queue.path"),
        ('"broker.example"', "broker.host"),
        ('"ca.pem"', "broker.ca"),
        ('"bed.pem"', "broker.certificate"),
        ('"bed.key"', "broker.key"),
    ],
)
@pytest.mark.parametrize("new", ['""', r'"a\u0000b"'])
def test_a_path_or_host_that_is_empty_or_holds_a_nul_is_refused_by_its_name(
    tmp_path: Path, old: str, where: str, new: str
) -> None:
    assert MOST.count(old) == 1
    with pytest.raises(
        BadFile, match=rf"{re.escape(where)} does not fit; it must be text .* "
    ) as caught:
        load_config(written(tmp_path, MOST.replace(old, new)))
    assert "\0" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "sources"),
    [
        ('"watch:in"', ("watch:in",)),
        ('["watch:in", "camera:0", "-"]', ("watch:in", "camera:0", "-")),
        ("[]", ()),
    ],
)
def test_one_source_or_several(tmp_path: Path, value: str, sources: tuple[str, ...]) -> None:
    text = MOST.replace('"test.npz"', value)
    assert load_config(written(tmp_path, text)).sources == sources
    assert load_config(written(tmp_path, LEAST)).sources == ()


@pytest.mark.parametrize("value", ["3", '["a", 3]', '["a", ""]'])
def test_a_source_that_is_no_text_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(BadFile, match=r"source.*; it must be text in quotes"):
        load_config(written(tmp_path, MOST.replace('"test.npz"', value)))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"device\.toml: no such file"):
        load_config(tmp_path / "device.toml")


PLAIN = string.ascii_letters + string.digits + "._-"


@given(name=st.text(PLAIN, min_size=1, max_size=64).filter(lambda name: set(name) != {"."}))
def test_a_plain_name_may_stand_in_a_topic(name: str) -> None:
    check_topic_level("device", name)


@given(name=st.text(max_size=70))
def test_any_other_name_is_refused(name: str) -> None:
    plain = 1 <= len(name) <= 64 and not set(name) - set(PLAIN) and set(name) != {"."}
    if not plain:
        with pytest.raises(EdgeclinError, match="device"):
            check_topic_level("device", name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "...", "a/b", "+", "#", "$SYS", "a b", "a\n", "a\0", "ü", "a" * 65]
)
def test_a_name_that_means_more_than_one_level_or_folder_is_refused(name: str) -> None:
    with pytest.raises(EdgeclinError, match="must be 1 to 64 of the characters"):
        check_topic_level("site", name)


def test_another_machine_s_broker_needs_tls_or_a_word_that_it_does_not(tmp_path: Path) -> None:
    remote = f'{LEAST}\n[broker]\nhost = "broker.example"\n'
    with pytest.raises(BadFile, match=r"broker\.example is another machine .* set plaintext if"):
        load_config(written(tmp_path, remote))
    assert load_config(written(tmp_path, f"{remote}plaintext = true\n")).broker.plaintext
