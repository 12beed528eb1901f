"""firmware_scripts: what the installer, the units and the udev rules promise."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCRIPTS = Path(__file__).resolve().parents[1] / "firmware_scripts"
INSTALL = SCRIPTS / "install.sh"
UNITS = ("edgeclin-run.service", "edgeclin-sync.service")
BINARY = "/opt/edgeclin/venv/bin/edgeclin"
CORAL = "edgeclin-run.service.d/coral.conf"
NOBODY = 65534
SAY = "import edgeclin; edgeclin.main()"

Finished = subprocess.CompletedProcess[str]
Unit = dict[str, list[str]]


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed here")
    return path


def system_python() -> str:
    """A Python that can make a venv: the system's own where it can, else the one running this."""
    check = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))"
    for python in ("/usr/bin/python3", sys.executable):
        found = Path(python).exists()
        if found and not subprocess.run([python, "-c", check], capture_output=True).returncode:
            return python
    pytest.skip("no Python 3.10 here that can make a venv")


def pip_offline() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return kept | {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "LC_ALL": "C"}


def run(*command: str | Path) -> Finished:
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=pip_offline()
    )


def install(root: Path, package: str | Path, *options: str) -> Finished:
    return run(INSTALL, "--root", root, "--package", package, "--python", system_python(), *options)


def write_wheel(folder: Path, version: str) -> Path:
    """The smallest wheel with the extra and the command that the units start."""
    wheel = folder / f"edgeclin-{version}-py3-none-any.whl"
    info = f"edgeclin-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: edgeclin\nVersion: {version}\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("edgeclin/__init__.py", f"def main():\n    print({version!r})\n")
        archive.writestr(f"{info}/METADATA", metadata + "Provides-Extra: tflite\n")
        tag = "Root-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: test\n{tag}")
        entry = "[console_scripts]\nedgeclin = edgeclin:main\n"
        archive.writestr(f"{info}/entry_points.txt", entry)
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def tree(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything under `folder` that a change would show in: type, mode, times, inode, content."""
    seen: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        content = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        name = str(path.relative_to(folder))
        seen[name] = (facts.st_mode, facts.st_mtime_ns, facts.st_ino, content)
    return seen


def venvs(root: Path) -> set[str]:
    return {path.name for path in (root / "opt/edgeclin").glob("venv-*")}


def mode(path: Path) -> str:
    return f"{path.stat().st_mode & 0o7777:o}"


def read_unit(text: str) -> Unit:
    values: Unit = {}
    for line in text.splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            values.setdefault(name, []).append(value)
    return values


def unit(name: str) -> Unit:
    return read_unit((SCRIPTS / name).read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wheel(tmp_path_factory.mktemp("wheel"), "0.0.1")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """An image as one run lays it out; only for tests that leave it as it is."""
    root = tmp_path_factory.mktemp("image")
    done = install(root, f"{wheel}[tflite]", "--with-coral")
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def image(built: Path, tmp_path: Path) -> Path:
    """A copy of that image, at a path of its own, for tests that change it."""
    return Path(shutil.copytree(built, tmp_path / "image", symlinks=True))


@pytest.fixture
def verifiable(tmp_path: Path) -> Path:
    """The units, starting /bin/true: verify refuses a unit whose program is not installed."""
    for name in UNITS:
        (tmp_path / name).write_text((SCRIPTS / name).read_text().replace(BINARY, "/bin/true"))
    return tmp_path


def add_coral(units: Path) -> None:
    (units / CORAL).parent.mkdir()
    shutil.copy(SCRIPTS / "edgeclin-run-coral.conf", units / CORAL)


@pytest.fixture
def open_scripts() -> Iterator[Path]:
    """The scripts where an unprivileged user can read them."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "firmware_scripts"
        shutil.copytree(SCRIPTS, copy)
        Path(folder).chmod(0o755)
        yield copy


def run_unprivileged(*command: str | Path) -> Finished:
    if os.geteuid() != 0:
        return run(*command)
    ids = ("--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups")
    return run(tool("setpriv"), *ids, *command)


# The units


def test_install_script_passes_shellcheck() -> None:
    done = run(tool("shellcheck"), INSTALL)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", UNITS)
def test_units_pass_systemd_verify(name: str, verifiable: Path) -> None:
    done = run(tool("systemd-analyze"), "verify", verifiable / name)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_run_unit_passes_systemd_verify_with_the_coral_drop_in(verifiable: Path) -> None:
    add_coral(verifiable)
    done = run(tool("systemd-analyze"), "verify", verifiable / UNITS[0])
    assert (done.returncode, done.stderr.strip()) == (0, "")


@pytest.mark.parametrize("what", ["camera", "http"])
def test_run_unit_passes_systemd_verify_with_a_drop_in(verifiable: Path, what: str) -> None:
    folder = verifiable / "edgeclin-run.service.d"
    folder.mkdir(exist_ok=True)
    shutil.copy(SCRIPTS / f"edgeclin-run-{what}.conf", folder / f"{what}.conf")
    done = run(tool("systemd-analyze"), "verify", verifiable / UNITS[0])
    assert (done.returncode, done.stderr.strip()) == (0, "")


@pytest.mark.parametrize("name", UNITS)
def test_units_pass_systemd_verify_with_a_key_for_the_queue(verifiable: Path, name: str) -> None:
    folder = verifiable / f"{name}.d"
    folder.mkdir(exist_ok=True)
    shutil.copy(SCRIPTS / "edgeclin-queue-key.conf", folder / "queue-key.conf")
    done = run(tool("systemd-analyze"), "verify", verifiable / name)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_verify_would_see_a_misspelt_setting(verifiable: Path) -> None:
    add_coral(verifiable)
    for path in (verifiable / UNITS[1], verifiable / CORAL):
        path.write_text(path.read_text() + "\n[Service]\nProtectSytem=strict\n")
    for name in UNITS:
        done = run(tool("systemd-analyze"), "verify", verifiable / name)
        assert "ProtectSytem" in done.stderr


@pytest.mark.parametrize("command", ["run", "sync"])
def test_units_start_the_installed_command(command: str) -> None:
    expected = f"{BINARY} {command} --config /etc/edgeclin/device.toml"
    assert unit(f"edgeclin-{command}.service")["ExecStart"] == [expected]


@pytest.mark.parametrize(
    ("name", "coral", "tenths"),
    [(UNITS[0], False, 10), (UNITS[0], True, 20), (UNITS[1], False, 20)],
)
def test_units_stay_under_their_exposure(
    name: str, coral: bool, tenths: int, verifiable: Path
) -> None:
    """Of 10.0, systemd calls under 2.0 "ok"; it scores a unit file by itself since version 250."""
    analyze = tool("systemd-analyze")
    if "--offline" not in run(analyze, "--help").stdout:
        pytest.skip("this systemd cannot score a unit file that is not installed")
    if coral:
        add_coral(verifiable)
    score = ("security", "--offline=true", f"--threshold={tenths}", "--no-pager")
    done = run(analyze, *score, verifiable / name)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", UNITS)
def test_units_are_watched_and_say_when_they_are_ready(name: str) -> None:
    values = unit(name)
    assert values["Type"] == ["notify"]
    assert values["WatchdogSec"] == ["30"]


@pytest.mark.parametrize("name", UNITS)
def test_units_start_without_a_network(name: str) -> None:
    values = unit(name)
    pulled = [value for key in ("Wants", "Requires", "BindsTo") for value in values.get(key, [])]
    assert not pulled
    # network.target does not wait for a network, network-online.target does.
    assert set(values.get("After", [])) <= {"network.target"}


def test_run_has_no_network_at_all() -> None:
    values = unit("edgeclin-run.service")
    assert values["PrivateNetwork"] == ["yes"]
    assert values["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert "After" not in values


@pytest.mark.parametrize("name", [*UNITS, "edgeclin-run-coral.conf"])
def test_units_need_no_group_that_a_board_may_lack(name: str) -> None:
    values = unit(name)
    assert "SupplementaryGroups" not in values
    assert values.get("Group", ["edgeclin"]) == ["edgeclin"]


@pytest.mark.parametrize("name", UNITS)
def test_units_retry_at_a_pace_and_for_ever_unless_usage_is_wrong(name: str) -> None:
    values = unit(name)
    assert values["StartLimitIntervalSec"] == ["0"]
    assert int(values["RestartSec"][0]) >= 5
    assert values["RestartPreventExitStatus"] == ["2"]


def test_run_does_not_repeat_finished_work() -> None:
    assert unit("edgeclin-run.service")["Restart"] == ["on-failure"]


@pytest.mark.parametrize("name", UNITS)
def test_a_crash_leaves_no_core_file(name: str) -> None:
    assert unit(name)["LimitCORE"] == ["0"]


def test_an_engine_that_memory_ends_does_not_end_the_service() -> None:
    assert unit("edgeclin-run.service")["OOMPolicy"] == ["continue"]


# The udev rules


def coral_rules() -> list[str]:
    lines = (SCRIPTS / "99-edgeclin-coral.rules").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_every_coral_goes_to_the_group_edgeclin_and_to_nobody_else() -> None:
    assert len(coral_rules()) == 3
    for rule in coral_rules():
        assert rule.endswith('GROUP="edgeclin", MODE="0660"')


def test_rules_know_the_coral_before_and_after_its_firmware() -> None:
    ids = r'ATTR\{idVendor\}=="(\w+)", ATTR\{idProduct\}=="(\w+)"'
    found = re.findall(ids, "\n".join(coral_rules()))
    assert found == [("1a6e", "089a"), ("18d1", "9302")]


def test_rules_pass_udevadm_verify() -> None:
    udevadm = tool("udevadm")
    if "verify" not in run(udevadm, "--help").stdout:
        pytest.skip("this udevadm cannot verify rules (systemd 254 can)")
    done = run(udevadm, "verify", "--resolve-names=never", SCRIPTS / "99-edgeclin-coral.rules")
    assert done.returncode == 0, done.stderr


# The sample configuration and the README


def test_sample_configuration_has_every_key_and_no_other() -> None:
    sample = tomllib.loads((SCRIPTS / "device.sample.toml").read_text())
    tables = {name: set(value) for name, value in sample.items() if isinstance(value, dict)}
    assert set(sample) - set(tables) == {
        "schema", "site", "device", "bundle", "trusted_keys", "source",
    }  # fmt: skip
    assert tables == {
        "queue": {"path", "max_mb"},
        "broker": {"host", "port", "ca", "certificate", "key"},
        "opinions": {"deadline_s"},
    }


def test_readme_names_every_file_here() -> None:
    readme = (SCRIPTS / "README.md").read_text()
    for path in SCRIPTS.iterdir():
        assert path.name == "README.md" or f"`{path.name}`" in readme


# install.sh: what it lays out


def test_install_lays_out_folders_with_their_modes(built: Path) -> None:
    folders = ("etc/edgeclin", "etc/edgeclin/keys", "var/lib/edgeclin", "var/lib/edgeclin/inbox")
    assert {name: mode(built / name) for name in folders} == dict.fromkeys(folders, "750")
    assert mode(built / "etc/edgeclin/device.toml") == "640"
    assert mode(built / "opt/edgeclin/venv") == "755"


def test_install_copies_units_rule_drop_in_and_sample(built: Path) -> None:
    copies = {f"etc/systemd/system/{name}": name for name in UNITS} | {
        f"etc/systemd/system/{CORAL}": "edgeclin-run-coral.conf",
        "etc/udev/rules.d/99-edgeclin-coral.rules": "99-edgeclin-coral.rules",
        "etc/edgeclin/device.toml": "device.sample.toml",
    }
    for target, source in copies.items():
        assert (built / target).read_text() == (SCRIPTS / source).read_text()
    assert not list(built.rglob("*.new"))


def test_install_without_coral_opens_no_device(image: Path, wheel: Path) -> None:
    for name in ("etc/systemd/system", "etc/udev"):
        shutil.rmtree(image / name)
    assert install(image, f"{wheel}[tflite]").returncode == 0
    assert {path.name for path in (image / "etc/systemd/system").iterdir()} == set(UNITS)
    assert not (image / "etc/udev").exists()


def test_nothing_installed_names_the_folder_it_was_built_under(built: Path) -> None:
    scripts = [path for path in (built / "opt/edgeclin/venv/bin").iterdir() if path.is_file()]
    texts = [path for path in scripts if not path.is_symlink()]
    assert BINARY.rsplit("/", 1)[1] in {path.name for path in texts}
    for path in [*texts, built / "opt/edgeclin/venv/pyvenv.cfg"]:
        assert str(built) not in path.read_text()


def test_an_image_runs_from_its_own_place(built: Path) -> None:
    if os.geteuid() != 0 or run(tool("unshare"), "--mount", "true").returncode:
        pytest.skip("mounting the image's /opt over ours needs root and a mount namespace")
    seen = 'mount --bind "$1" /opt && exec "$2"'
    done = run("unshare", "--mount", "sh", "-c", seen, "sh", built / "opt", BINARY)
    assert (done.returncode, done.stdout) == (0, "0.0.1\n"), done.stderr


def test_root_says_what_it_leaves_to_the_image(built: Path, wheel: Path) -> None:
    done = install(built, f"{wheel}[tflite]", "--with-coral")
    left = ("  useradd --system", "  chown edgeclin:edgeclin /var/lib/edgeclin", "systemctl and")
    assert all(words in done.stdout for words in left)


def test_install_says_how_to_start_and_starts_nothing(built: Path, wheel: Path) -> None:
    done = install(built, f"{wheel}[tflite]")
    for name in UNITS:
        assert f"  systemctl enable --now {name}\n" in done.stdout
    assert not list(built.rglob("*.wants"))


# install.sh: run again, fail, upgrade


def test_a_second_run_changes_nothing_and_says_so(built: Path, wheel: Path) -> None:
    before = tree(built)
    done = install(built, f"{wheel}[tflite]", "--with-coral")
    assert done.returncode == 0, done.stderr
    assert tree(built) == before
    steps = done.stdout.split("\n\n")[0].splitlines()
    told = [line for line in steps if not line.startswith(("left to image", "skipped", "rights"))]
    assert len(told) == 10
    assert all(line.startswith("already there") for line in told)


def test_the_same_wheel_elsewhere_is_already_there(
    built: Path, wheel: Path, tmp_path: Path
) -> None:
    moved = shutil.copy(wheel, tmp_path)
    before = tree(built)
    assert install(built, f"{moved}[tflite]").returncode == 0
    assert tree(built) == before


def test_device_toml_of_the_site_is_never_overwritten(image: Path, wheel: Path) -> None:
    config = image / "etc/edgeclin/device.toml"
    config.write_text('site = "ours"\n')
    assert install(image, f"{wheel}[tflite]").returncode == 0
    assert config.read_text() == 'site = "ours"\n'


def test_a_failing_pip_leaves_no_venv_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "image"
    done = install(root, "edgeclin[tflite]")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("install.sh: pip could not install edgeclin[tflite]")
    assert [path for path in root.rglob("*") if not path.is_dir()] == []
    assert not (root / "opt/edgeclin").exists()
    assert not (root / "etc").exists()


def test_an_edgeclin_on_pythonpath_does_not_count_as_installed(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "elsewhere")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
    done = install(tmp_path / "image", f"{wheel}[tflite]")
    assert done.returncode == 0, done.stderr
    installed = (tmp_path / "image/opt/edgeclin/venv/lib").glob("*/site-packages/edgeclin")
    assert len(list(installed)) == 1


def test_a_failing_upgrade_leaves_what_was_installed(image: Path) -> None:
    before = tree(image / "opt/edgeclin/venv/")
    kept = venvs(image)
    assert install(image, "edgeclin==9").returncode == 1
    assert venvs(image) == kept
    assert tree(image / "opt/edgeclin/venv/") == before


def test_an_edgeclin_that_does_not_start_is_not_installed(image: Path, tmp_path: Path) -> None:
    broken = write_wheel(tmp_path, "0.0.2")
    with zipfile.ZipFile(broken, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("edgeclin/__init__.py", "import a_module_that_is_not_there\n")
    kept = venvs(image)
    assert install(image, broken).returncode == 1
    assert venvs(image) == kept


def test_an_upgrade_turns_the_link_and_keeps_the_one_before(image: Path, tmp_path: Path) -> None:
    link = image / "opt/edgeclin/venv"
    used = [link.readlink().name]
    for version in ("0.0.2", "0.0.3"):
        assert install(image, write_wheel(tmp_path, version)).returncode == 0
        assert run(link / "bin/python", "-I", "-c", SAY).stdout == f"{version}\n"
        used.append(link.readlink().name)
    assert len(set(used)) == 3
    assert venvs(image) == set(used[1:])


def test_a_venv_left_half_built_by_a_power_cut_is_built_again(image: Path, wheel: Path) -> None:
    link = image / "opt/edgeclin/venv"
    name = link.readlink()
    (link / "bin/edgeclin").unlink()
    link.unlink()
    assert install(image, f"{wheel}[tflite]").returncode == 0
    assert link.readlink() == name
    assert (link / "bin/edgeclin").exists()


# install.sh: without changing anything


def test_dry_run_changes_nothing_and_prints_the_commands(image: Path, tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, "0.0.2")
    (image / "etc/systemd/system" / UNITS[0]).write_text("changed\n")
    before = tree(tmp_path)
    done = install(image, wheel, "--with-coral", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path) == before
    commands = [line for line in done.stdout.splitlines() if line.startswith("+ ")]
    for words in (" -m venv ", " -m pip install ", "mv -fT", UNITS[0]):
        assert any(words in line for line in commands), words


def test_dry_run_needs_no_root(open_scripts: Path) -> None:
    """Run without rights on purpose: had it a fault, it could not install on this machine."""
    done = run_unprivileged(open_scripts / "install.sh", "--dry-run", "--python", system_python())
    assert done.returncode == 0, done.stderr
    assert "+ useradd --system" in done.stdout or "already there  user" in done.stdout


def test_installing_without_root_exits_4_with_one_sentence(open_scripts: Path) -> None:
    done = run_unprivileged(open_scripts / "install.sh")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.count("\n") == 1
    assert "root" in done.stderr


def test_help_names_every_option() -> None:
    done = run(INSTALL, "--help")
    assert done.returncode == 0
    cases = re.findall(r"^ +(--[a-z |-]+)\)$", INSTALL.read_text(), flags=re.MULTILINE)
    cases += re.findall(r"^ +(--[a-z-]+)\) \w", INSTALL.read_text(), flags=re.MULTILINE)
    options = {option for case in cases for option in re.findall(r"--[a-z-]+", case)}
    assert len(options) == 7
    assert all(option in done.stdout for option in options)


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (["--bogus"], 2, "--bogus"),
        (["--package"], 2, "--package"),
        (["--root", "/"], 2, "--root"),
        (["--package", "./no-such.whl"], 1, "./no-such.whl"),
        (["--package", "./no-such.whl[tflite]"], 1, "./no-such.whl"),
        (["--package", "/"], 1, "folder"),
        (["--constraints", "no-such.txt"], 1, "no-such.txt"),
        (["--python", "/no/such/python"], 1, "/no/such/python"),
        (["--python", "/bin/false"], 4, "3.10"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(options: list[str], code: int, named: str) -> None:
    done = run(INSTALL, "--dry-run", *options)
    assert done.returncode == code
    assert done.stderr.count("\n") == 1
    assert named in done.stderr
