"""plain_script: a TorchScript file computes and does nothing else, neither loaded nor called."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_pytorch_sources import run_converter

from edgeclin.errors import BadFile, ConversionFailed
from edgeclin.model_files import read_model
from edgeclin.model_files.plain_script import plain_script, write_plain_script

pytestmark = [pytest.mark.convert, pytest.mark.filterwarnings("ignore")]  # PyTorch has many
torch = pytest.importorskip("torch", reason="the pytorch extra is not installed")
Change = Callable[[str], str]


class Head(torch.nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: torch.Tensor, times: float = 1.0) -> torch.Tensor:
        if x.dim() != 2:
            raise ValueError('it\'s not "flat"\n')
        return x * times


class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Modules in containers, a recurrent one, loops, branches, a default and odd texts."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleDict({"a-b": torch.nn.Linear(4, 4), "r": torch.nn.ReLU()})
        self.lstm = torch.nn.LSTM(4, 2, batch_first=True)
        self.head = Head()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers.values():
            x = layer(x)
        parts: list[torch.Tensor] = []
        for times in range(2):
            parts.append(self.head(x, float(times)))  # noqa: PERF401 - what scripts have
        y, _ = self.lstm(torch.stack(parts, 1))
        return y[:, -1].clamp(max=float("inf"))


class Leaky(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Reaches a file in a block within a block."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            if x.dim() == 2:
                torch.save(x, "never written")
        return x


class Restored(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Runs code of its own when it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.zeros(2)

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.weights, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.weights, self.training = state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weights


def hook(self: Any, entered: tuple[torch.Tensor]) -> None:
    pass


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "net.pt"
    torch.jit.script(Net().eval()).save(path)
    return path


def changed(script: Path, target: Path, *changes: Change) -> Path:
    """A copy with the model's own source changed; with several changes it stands in it as often."""
    with zipfile.ZipFile(script) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith(f"/{__name__}.py"):
                for change in changes:
                    new.writestr(name, change(data.decode()))
            else:
                new.writestr(name, data)
    return target


def beginning(statement: str) -> Change:
    """`statement` at the begin of every method of the model itself."""
    return lambda source: source.replace("-> Tensor:\n", f"-> Tensor:\n    {statement}\n")


def test_a_plain_copy_answers_as_the_model_does(script: Path, tmp_path: Path) -> None:
    from edgeclin.convert.script_operators import require_plain_operators

    sample = torch.randn(3, 4)
    for path in (script, tmp_path / "traced.pt"):
        if path != script:
            torch.jit.trace(Net().eval(), sample).save(path)
        write_plain_script(path, tmp_path / "plain.pt")
        copy = torch.jit.load(tmp_path / "plain.pt")
        require_plain_operators(copy)
        assert torch.equal(copy(sample), torch.jit.load(path)(sample))


def test_a_text_in_a_plain_copy_ends_where_it_seems_to(script: Path, tmp_path: Path) -> None:
    sources = [data for name, data in plain_script(script).items() if name.endswith(".py")]
    (own,) = [source for source in sources if b"class Net" in source]
    assert b"'it?s not ?flat??'" in own


@pytest.mark.parametrize(
    "call",
    [
        'torch.save(x, "f")',
        'torch.save (x, "f")',
        'torch . save(x, "f")',
        'getattr(torch, "save")(x, "f")',
        'getattr(torch, "sa\\166e")(x, "f")',
        't = torch; t.save(x, "f")',
        'x.save("f")',
        'ops.aten.save(x, "f")',
        'torch.from_file("f", True, 9)',
        "ops.mylibrary.evil(x)",
    ],
)
def test_a_source_that_reaches_files_is_refused_however_it_is_spelled(
    script: Path, tmp_path: Path, call: str
) -> None:
    hostile = changed(script, tmp_path / "m.pt", beginning(call))
    with pytest.raises(BadFile, match=r"uses (save|from_file|mylibrary), which does more than"):
        read_model(hostile)


def test_a_file_that_holds_a_source_twice_is_refused(script: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        hostile = changed(script, tmp_path / "m.pt", str, beginning("print(x)"))
    with pytest.raises(BadFile, match=rf"holds 'net/code/__torch__/{__name__}\.py' twice"):
        read_model(hostile)


def computed_default(source: str, call: str) -> str:
    return source.replace("times: float=1.", f"times: float=float(torch.numel({call}))")


def computed_constant(source: str, call: str) -> str:
    return source.replace("  training : bool", f"  own : Final[Tensor] = {call}\n  training : bool")


@pytest.mark.parametrize("attack", [computed_default, computed_constant])
def test_what_pytorch_would_run_on_loading_is_refused(
    attack: Callable[[str, str], str], script: Path, tmp_path: Path
) -> None:
    written = tmp_path / "written"
    hostile = changed(
        script,
        tmp_path / "m.pt",
        lambda source: attack(source, f'torch.from_file("{written}", True, 9)'),
    )
    torch.jit.load(hostile)
    assert written.exists()  # the attack works
    with pytest.raises(BadFile, match="when the file is loaded"):
        read_model(changed(script, hostile, lambda source: attack(source, "torch.zeros([1])")))


def test_a_module_that_restores_itself_by_its_own_code_is_refused(tmp_path: Path) -> None:
    torch.jit.script(Restored()).save(tmp_path / "m.pt")
    with pytest.raises(BadFile, match="has a __setstate__, which runs when the file is loaded"):
        read_model(tmp_path / "m.pt")


def test_a_module_with_hooks_is_refused(tmp_path: Path) -> None:
    hooked = torch.nn.ReLU()
    hooked.register_forward_pre_hook(hook)
    torch.jit.script(hooked).save(tmp_path / "m.pt")
    with pytest.raises(BadFile, match="has __forward_pre_hooks__"):
        read_model(tmp_path / "m.pt")


@pytest.mark.parametrize("split", [b".", b"\n"])
def test_an_object_of_a_c_plus_plus_class_is_refused(
    script: Path, tmp_path: Path, split: bytes
) -> None:
    hostile = tmp_path / "m.pt"
    with zipfile.ZipFile(script) as old, zipfile.ZipFile(hostile, "w") as new:
        for name in old.namelist():
            pickled = b"c__torch__.torch%bclasses.rnn\nCellParamsBase\n" % split
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    with pytest.raises(BadFile, match=r"holds an object of a C\+\+ class"):
        read_model(hostile)


def test_an_operator_that_reaches_files_is_found_in_a_block_within_a_block() -> None:
    from edgeclin.convert.script_operators import require_plain_operators

    with pytest.raises(ConversionFailed, match="forward uses aten::save, which does more than"):
        require_plain_operators(torch.jit.script(Leaky()))


def test_an_operator_that_reaches_files_is_found_in_a_module_within_a_module() -> None:
    from edgeclin.convert.script_operators import require_plain_operators

    nested = torch.jit.script(torch.nn.Sequential(torch.nn.ReLU(), Leaky()))
    with pytest.raises(ConversionFailed, match="uses aten::save"):
        require_plain_operators(nested)


class Forks(torch.nn.Module):  # type: ignore[misc, name-defined]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.jit.wait(torch.jit.fork(torch.relu, x))


@pytest.mark.parametrize(
    ("module", "error", "said"),
    [(Leaky, BadFile, "uses save"), (Forks, ConversionFailed, "forward uses prim::fork")],
)
def test_the_converter_calls_no_method_that_does_more_than_compute(
    module: type[Any], error: type[Exception], said: str, tmp_path: Path
) -> None:
    torch.jit.script(module()).save(tmp_path / "m.pt")
    with pytest.raises(error, match=said):
        run_converter("onnx_from_torchscript", tmp_path / "m.pt", tmp_path, (4,))
