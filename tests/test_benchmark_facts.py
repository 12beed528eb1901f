"""What surrounds the latencies: the machine, its meter, an engine's own profile, the cost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from polling import wait_until

from edgeclin.benchmark.cost import Cost, cost
from edgeclin.benchmark.energy import RAPL, Tegrastats, energy, open_meter, power_rails
from edgeclin.benchmark.machine import Moment, filesystem, look, warnings
from edgeclin.benchmark.operators import RUNS, profile_operators, read_events, read_table
from edgeclin.errors import EngineUnavailable
from edgeclin.profiles import Fact, load_profile

DATA = Path(__file__).parent / "data"

ORIN_NANO = (
    "11-26-2026 03:00:00 RAM 2533/7620MB (lfb 4x4MB) SWAP 0/3810MB (cached 0MB) CPU "
    "[2%@1510,0%@1510,off,off,off,off] EMC_FREQ 0%@2133 GR3D_FREQ 0%@[305] VIC_FREQ 729 APE 174 "
    "cpu@49.1C soc2@48.2C tj@49.1C VDD_IN 4890mW/4780mW VDD_CPU_GPU_CV 599mW/580mW "
    "VDD_SOC 1479mW/1470mW\n"
)
AGX_ORIN = (
    "RAM 5678/62795MB (lfb 12345x4MB) SWAP 0/31398MB (cached 0MB) CPU [12%@1234,34%@2345] "
    "GR3D_FREQ 78%@[1300] tj@52C VDD_GPU_SOC 3456mW/3456mW VDD_CPU_CV 2345mW/2345mW "
    "VIN_SYS_5V0 4010mW/4000mW NC 0mW/0mW\n"
)
NANO = (
    "RAM 1409/3964MB (lfb 28x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU "
    "[22%@518,67%@518,off,off] EMC_FREQ 0%@1600 GR3D_FREQ 0%@76 APE 25 PLL@28.5C CPU@32C "
    "POM_5V_IN 2003/2100 POM_5V_GPU 0/0 POM_5V_CPU 320/320\n"
)

# As printed by benchmark_model of two versions of TensorFlow Lite.
OLD_TABLE = """\
Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
\t             [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t         AllocateTensors\t    0.000\t    1.356\t100.000%\t100.000%\t     0.000\t        1\tAllocateTensors/0
Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
\t             [node type]\t          [start]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t                 CONV_2D\t            0.066\t    0.754\t    0.600\t 60.000%\t 60.000%\t     0.000\t        1\t[a/Relu6, b]:0
\t       DEPTHWISE_CONV_2D\t           61.033\t    0.628\t    0.400\t 40.000%\t100.000%\t     0.000\t        1\t[c]:1

============================== Top by Computation Time ==============================
\t                 CONV_2D\t            0.066\t    0.754\t    0.600\t 60.000%\t 60.000%\t     0.000\t        1\t[a/Relu6, b]:0
"""  # noqa: E501
NEW_TABLE = """\
INFO: Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
                    [node type]   [first]   [avg ms]      [%]    [cdf%]  [mem KB] [times called] [Name]
                       QUANTIZE     0.199      0.340  33.897%   33.897%     0.000              1 [tfl.quantize]:0
 Convolution (NHWC, QC8) DWConv     0.428      0.051  66.103%  100.000%     0.000             13 Delegate/Convolution (NHWC, QC8) DWConv:1

============================== Top by Computation Time ==============================
"""  # noqa: E501


def tree(root: Path, files: dict[str, str]) -> Path:
    """A folder that stands in for `/`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def rapl(root: Path, zone: str, name: str, energy_uj: int, most: int = 1_000_000) -> Path:
    folder = f"sys/class/powercap/{zone}"
    tree(
        root,
        {
            f"{folder}/name": f"{name}\n",
            f"{folder}/energy_uj": f"{energy_uj}\n",
            f"{folder}/max_energy_range_uj": f"{most}\n",
        },
    )
    return root / folder / "energy_uj"


def test_energy_of_packages_and_their_memory_is_added_and_a_counter_may_begin_anew(
    tmp_path: Path,
) -> None:
    package = rapl(tmp_path, "intel-rapl:0", "package-0", 900_000)
    core = rapl(tmp_path, "intel-rapl:0:0", "core", 0)
    memory = rapl(tmp_path, "intel-rapl:0:1", "dram", 100)
    meter = RAPL(tmp_path)
    assert meter.name == "RAPL (package-0, dram)"
    package.write_text("100000\n")  # 900,000 to the range's end at 1,000,000, then 100,000 more
    core.write_text("500000\n")
    memory.write_text("300100\n")
    assert meter.joules() == pytest.approx(0.5)
    package.write_text("200000\n")
    assert meter.joules() == pytest.approx(0.6)


def test_the_whole_platform_s_counter_is_taken_alone(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", "package-0", 0)
    whole = rapl(tmp_path, "intel-rapl:1", "psys", 0)
    meter = RAPL(tmp_path)
    whole.write_text("250000")
    assert meter.joules() == pytest.approx(0.25)


def test_a_machine_without_a_readable_meter_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineUnavailable, match="no tegrastats; no RAPL counters"):
        open_meter(tmp_path)
    rapl(tmp_path, "intel-rapl:0", "package-0", 0).unlink()
    with pytest.raises(EngineUnavailable, match="RAPL's counters cannot be read"):
        open_meter(tmp_path)


def test_power_rails_of_each_board_are_read() -> None:
    assert power_rails(ORIN_NANO) == {"VDD_IN": 4890}
    assert power_rails(NANO) == {"POM_5V_IN": 2003}
    rails = {"VDD_GPU_SOC": 3456, "VDD_CPU_CV": 2345, "VIN_SYS_5V0": 4010, "NC": 0}
    assert power_rails(AGX_ORIN) == rails
    assert power_rails("RAM 1/2MB CPU [1%@2]") == {}


@pytest.fixture
def tegrastats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A command that prints the lines of `rails` again and again, ten times a second."""
    program, rails = tmp_path / "tegrastats", tmp_path / "rails"
    program.write_text(f'#!/bin/sh\nwhile :; do cat "{rails}" || exit; sleep 0.1; done\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    yield rails


def test_tegrastats_gives_power_times_time(tegrastats: Path) -> None:
    tegrastats.write_text(ORIN_NANO)
    meter = open_meter()
    try:
        assert meter.name == "tegrastats (VDD_IN)"
        before, began = meter.joules(), Moment.now().at
        wait_until(lambda: Moment.now().at - began > 0.5, "half a second passes")
        watts = (meter.joules() - before) / (Moment.now().at - began)
        assert watts == pytest.approx(4.89, rel=0.05)
    finally:
        meter.close()


def test_tegrastats_without_rails_is_no_meter_and_does_not_stay(tegrastats: Path) -> None:
    tegrastats.write_text("RAM 1/2MB CPU [1%@2]\n")
    with pytest.raises(EngineUnavailable, match="names no power rail"):
        Tegrastats()


def test_energy_is_told_in_all_and_above_idle() -> None:
    used = energy("meter", joules=12.0, seconds=2.0, idle_watts=4.0, count=1000)
    assert (used.each_mj, used.above_idle_mj) == pytest.approx((12.0, 4.0))
    assert energy("meter", 1.0, 1.0, 1.0, 0).each_mj is None


def test_cost_is_computed_from_the_profile_s_figures_alone() -> None:
    profile = msgspec.structs.replace(
        load_profile("jetson-agx-orin"), power_w=Fact(36.0, "a"), price_usd=Fact(1577.88, "b")
    )
    found = cost(profile, "aarch64", per_second=10.0, usd_per_kwh=0.5, years=5.0)
    assert isinstance(found, Cost)
    assert found.power_usd == pytest.approx(0.036 * 1000 / 3600 * 0.5)  # 1,000 s at 36 W
    assert found.device_usd == pytest.approx(1000 * 1577.88 / (5 * 365.25 * 86_400))
    for said in ("36 W (a)", "0.5 USD/kWh", "1577.88 USD (b) over 5 years"):
        assert said in found.basis


def test_cost_is_not_computed_from_another_machine_s_time_nor_without_figures() -> None:
    jetson, plain = load_profile("jetson-agx-orin"), load_profile("cpu-x86_64")
    assert "measured on x86_64" in str(cost(jetson, "x86_64", 10.0, 0.2, 5.0))
    assert "neither power_w nor price_usd" in str(cost(plain, "x86_64", 10.0, 0.2, 5.0))
    assert "no rate was measured" in str(cost(jetson, "aarch64", 0.0, 0.2, 5.0))


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (OLD_TABLE, [("[a/Relu6, b]:0", "CONV_2D", 0.6), ("[c]:1", "DEPTHWISE_CONV_2D", 0.4)]),
        (
            NEW_TABLE,
            [
                ("[tfl.quantize]:0", "QUANTIZE", 0.34),
                (
                    "Delegate/Convolution (NHWC, QC8) DWConv:1",
                    "Convolution (NHWC, QC8) DWConv",
                    pytest.approx(13 * 0.051),
                ),
            ],
        ),
        ("INFO: nothing of it", []),
    ],
)
def test_tables_of_benchmark_model_are_read(text: str, rows: list[tuple[str, str, float]]) -> None:
    assert read_table(text) == rows


def test_benchmark_model_is_used_where_it_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "table").write_text(OLD_TABLE)
    program = tmp_path / "benchmark_model"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\ncat {tmp_path}/table\n')
    program.chmod(0o755)
    sample = np.zeros((1, 140, 1), np.float32)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EngineUnavailable, match="benchmark_model does"):
        profile_operators("tflite", b"model", sample, 2)
    monkeypatch.setenv("BENCHMARK_MODEL", str(program))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    found = profile_operators("tflite", b"model", sample, 2)
    assert [(one.kind, one.share) for one in found.operators] == [
        ("CONV_2D", pytest.approx(0.6)),
        ("DEPTHWISE_CONV_2D", pytest.approx(0.4)),
    ]
    asked = (tmp_path / "asked").read_text()
    assert "--enable_op_profiling=true" in asked
    assert "--num_threads=2" in asked
    (tmp_path / "table").write_text("it crashed\n")
    with pytest.raises(EngineUnavailable, match="printed no profile"):
        profile_operators("tflite", b"model", sample, 1)


def test_onnx_runtime_tells_its_operators() -> None:
    pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
    model = (DATA / "ecg_float.onnx").read_bytes()
    found = profile_operators("onnx", model, np.zeros((1, 140, 1), np.float32), 1)
    assert sum(one.share for one in found.operators) == pytest.approx(1.0)
    kinds = " ".join(one.kind for one in found.operators)
    assert "Conv" in kinds
    assert found.operators[0].ms >= found.operators[-1].ms
    assert found.statistic == "median"


def test_a_few_slow_runs_do_not_make_an_operator_slow() -> None:
    def event(name: str, us: int) -> dict[str, object]:
        args = {"op_name": name}
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": us, "args": args}

    events = [event("Conv", 30) for _ in range(RUNS)]
    events += [event("Relu", 9000 if run in (0, 7) else 2) for run in range(RUNS)]
    events += [event("InLoop", 5) for _ in range(4 * RUNS)]
    assert read_events(events) == [
        ("Conv", "Conv", pytest.approx(0.03)),
        ("Relu", "Relu", pytest.approx(0.002)),
        ("InLoop", "InLoop", pytest.approx(0.02)),
    ]


STAT = "cpu  {user} 0 0 1000 0 0 0 {steal} 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n"


def board(root: Path, governor: str, user: int = 100, steal: int = 0, throttled: int = 0) -> Path:
    clock = "sys/devices/system/cpu/cpu0"
    return tree(
        root,
        {
            "proc/cpuinfo": "processor : 0\nmodel name : Some CPU\nflags : fpu hypervisor\n",
            "proc/meminfo": "MemTotal:        1048576 kB\n",
            "proc/loadavg": "0.50 0.40 0.30 1/100 1\n",
            "proc/stat": STAT.format(user=user, steal=steal),
            "proc/device-tree/model": "Some Board\0",
            f"{clock}/cpufreq/scaling_governor": f"{governor}\n",
            f"{clock}/cpufreq/scaling_min_freq": "600000\n",
            f"{clock}/cpufreq/scaling_max_freq": "1800000\n",
            f"{clock}/thermal_throttle/core_throttle_count": f"{throttled}\n",
            "sys/class/thermal/thermal_zone0/temp": "51500\n",
        },
    )


def test_a_machine_tells_what_moves_latencies(tmp_path: Path) -> None:
    root = board(tmp_path, "powersave")
    machine = look(root)
    assert (machine.cpu, machine.board) == ("Some CPU", "Some Board")
    assert (machine.governor, machine.fixed_clock) == ("powersave", False)
    assert (machine.virtual, machine.load, machine.memory_mb) == (True, 0.5, 1024)
    assert machine.temperature_c == 51.5
    assert look(Path("/")).cores >= 1


def test_other_load_a_free_clock_throttling_and_steal_are_warned_of(tmp_path: Path) -> None:
    root = board(tmp_path, "powersave")
    machine = msgspec.structs.replace(look(root), others_before=1.0)
    before = Moment.now(root)
    board(tmp_path, "powersave", user=100_000, steal=10_000, throttled=3)
    said = "; ".join(warnings(machine, before, Moment.now(root)))
    for words in (
        "1.0 cores busy before it began",
        "cores busy meanwhile",
        "hypervisor took",
        "not fixed (governor powersave)",
        "throttled 3 times",
    ):
        assert words in said
    calm = msgspec.structs.replace(machine, governor="performance", others_before=0.0)
    now = Moment.now(root)
    assert list(warnings(calm, now, now)) == []


def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    mounts = f"/dev/a / ext4 rw 0 0\ntmpfs {tmp_path} tmpfs rw 0 0\n"
    root = tree(tmp_path / "root", {"proc/mounts": mounts})
    assert filesystem(tmp_path / "below", root) == "tmpfs"
    assert filesystem(tmp_path.parent, root) == "ext4"
