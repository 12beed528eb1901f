"""model_files: what a file is, told without the framework that wrote it."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import ECG
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeclin.errors import BadFile, MissingExtra
from edgeclin.model_files import ModelFacts, companions, fix_shape, read_model
from edgeclin.model_files.facts import values_of

DATA = Path(__file__).parent / "data"
EDGE = (ECG / "edge.keras").read_bytes()


def layer(kind: str, name: str, inbound: list[int] | None = None, **config: Any) -> dict[str, Any]:
    arguments = [{"class_name": "__keras_tensor__", "config": {"shape": [None, *(inbound or [])]}}]
    nodes = [] if inbound is None else [{"args": arguments, "kwargs": {}}]
    return {"class_name": kind, "config": {"name": name, **config}, "inbound_nodes": nodes}


def functional(*layers: dict[str, Any], **ends: Any) -> dict[str, Any]:
    first, last = layers[0]["config"]["name"], layers[-1]["config"]["name"]
    known = {"input_layers": [first, 0, 0], "output_layers": [last, 0, 0]}
    return {"class_name": "Functional", "config": {"layers": list(layers), **known, **ends}}


def keras_file(path: Path, config: Any, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", b"weights")
    return path


INPUT = layer("InputLayer", "beat", batch_shape=[None, 140, 1])
DENSE = layer("Dense", "scores", [16], units=5, activation="softmax")


def test_the_example_model_is_told() -> None:
    assert read_model(ECG / "edge.keras") == ModelFacts(
        source="keras", inputs=(("beat", (140, 1)),), outputs=5, activation="none"
    )


def test_a_model_that_ends_in_an_average_does_not_tell_its_outputs() -> None:
    assert read_model(ECG / "cloud.keras") == ModelFacts(
        source="keras", inputs=(("beat", (140, 1)),), outputs=None, activation=None
    )


def test_a_functional_model_is_told(tmp_path: Path) -> None:
    path = keras_file(tmp_path / "m.keras", functional(INPUT, DENSE))
    assert read_model(path) == ModelFacts("keras", (("beat", (140, 1)),), 5, "softmax")


def test_a_sequential_model_is_told(tmp_path: Path) -> None:
    config = {"class_name": "Sequential", "config": {"layers": [INPUT, DENSE]}}
    path = keras_file(tmp_path / "m.keras", config)
    assert read_model(path) == ModelFacts("keras", (("beat", (140, 1)),), 5, "softmax")


@pytest.mark.parametrize(
    ("last", "outputs", "axis"),
    [
        (layer("Conv2D", "y", [48, 48, 8], filters=2, strides=[1, 1], padding="same"), 2, "last"),
        (layer("Conv2D", "y", [48, 48, 8], filters=2, kernel_size=[1, 1], padding="valid"), 2,
         "last"),
        (layer("Conv2D", "y", [8, 8, 8], filters=2, kernel_size=[8, 8], padding="valid"), 2, None),
        (layer("Softmax", "y", [48, 48, 3]), 3, "last"),
        (layer("Softmax", "y", [3]), 3, None),
        (layer("GlobalAveragePooling2D", "y", [6, 6, 4]), 4, None),
        (layer("Dense", "y", [20, 7], units=3), 3, "last"),
    ],
)  # fmt: skip
def test_a_keras_model_that_answers_with_a_map_is_told(
    tmp_path: Path, last: dict[str, Any], outputs: int, axis: str | None
) -> None:
    facts = read_model(keras_file(tmp_path / "m.keras", functional(INPUT, last)))
    assert (facts.outputs, facts.map) == (outputs, axis)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, (None, None)),
        ((5,), (5, None)),
        ((None,), (None, None)),
        ((1, 1, 5), (5, None)),
        ((5, 1, 1), (5, None)),
        ((None, 5), (5, None)),
        ((48, 48, 2), (2, "last")),
        ((2, 48, 48), (2, "first")),
        ((1, 48, 48), (1, "first")),
        ((48, 48, 1), (1, "last")),
        ((1250, 2), (2, "last")),
    ],
)
def test_an_output_with_more_than_one_long_axis_is_a_map(
    answer: tuple[int | None, ...] | None, told: tuple[int | None, str | None]
) -> None:
    assert values_of(answer) == told


@pytest.mark.parametrize("listed", [[["b", 0, 0], ["a", 0, 0]], {"y": ["b", 0, 0], "x": ["a", 0]}])
def test_several_inputs_keep_the_model_s_order(tmp_path: Path, listed: Any) -> None:
    one = layer("InputLayer", "a", batch_shape=[None, 3])
    other = layer("InputLayer", "b", batch_shape=[None, None, 2])
    path = keras_file(tmp_path / "m.keras", functional(one, other, DENSE, input_layers=listed))
    assert read_model(path).inputs == (("b", (None, 2)), ("a", (3,)))


@pytest.mark.parametrize(
    ("last", "outputs", "activation"),
    [
        (layer("Dense", "x", [16], units=3, activation="linear"), 3, "none"),
        (layer("Dense", "x", [16], units=1, activation="sigmoid"), 1, "sigmoid"),
        (layer("Dense", "x", [16], units=3, activation="relu"), 3, None),
        (layer("Dense", "x", [16], units=3, activation={"class_name": "Own"}), 3, None),
        (layer("Conv2D", "x", [48, 48, 8], filters=2, activation="softmax"), 2, "softmax"),
        (layer("Softmax", "x", [7], axis=-1), 7, "softmax"),
        (layer("Activation", "x", [7], activation="sigmoid"), 7, "sigmoid"),
        (layer("GlobalAveragePooling2D", "x", [4, 4, 9]), 9, None),
        (layer("Flatten", "x", [4, 9]), None, None),
        (layer("Reshape", "x", [4, 9], target_shape=[36]), None, None),
        (layer("Own", "x", [9], activation="softmax"), None, "softmax"),
        (layer("Softmax", "x"), None, "softmax"),
    ],
)
def test_outputs_are_told_only_where_the_file_tells_them(
    tmp_path: Path, last: dict[str, Any], outputs: int | None, activation: str | None
) -> None:
    facts = read_model(keras_file(tmp_path / "m.keras", functional(INPUT, last)))
    assert (facts.outputs, facts.activation) == (outputs, activation)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), r"damaged or unusual \.h5|h5py.*not installed"),
        (b"\x1c\0\0\0TFL3" + bytes(100), "damaged or unusual TFLite"),
        (b"\x08\x07\x12\x07pytorch", "not a model file that edgeclin knows"),
        (b"", "not a model file that edgeclin knows"),
        (b"PK", "not a model file that edgeclin knows"),
        (b"PK\x03\x04", "damaged or unusual"),
        (b"PK\x03\x04" + bytes(500), "damaged or unusual"),
        (EDGE[: len(EDGE) // 2], "damaged or unusual"),
    ],
    ids=["LFS", "HDF5", "TFLite", "ONNX", "empty", "short", "bare", "zeros", "cut"],
)
def test_what_is_found_instead_is_said(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    with pytest.raises((BadFile, MissingExtra), match=problem) as caught:
        read_model(path)
    assert isinstance(caught.value, MissingExtra) or str(path) in str(caught.value)


def test_a_zip_file_of_something_else_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(BadFile, match="without a Keras 3 model"):
        read_model(path)


def test_a_folder_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"a folder without saved_model\.pb in it"):
        read_model(tmp_path)
    with pytest.raises(BadFile, match="no such file"):
        read_model(tmp_path / "model.keras")


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("mlperf_tiny/pretrainedResnet_quant.tflite", "quantised already"),
        ("coral/mobilenet_v2_1.0_224_quant.tflite", "quantised already"),
        ("coral/deeplabv3_mnv2_dm05_pascal_quant_edgetpu.tflite", "for the Edge TPU already"),
        ("coral/parrot.jpg", "not a model file"),
    ],
)
def test_real_files_of_other_kinds_are_told(shared_data: Path, file: str, problem: str) -> None:
    with pytest.raises(BadFile, match=problem):
        read_model(shared_data / file)


def test_real_models_are_told(shared_data: Path) -> None:
    cells = read_model(shared_data / "malaria" / "malaria_dwcnn64.keras")
    assert [shape for _, shape in cells.inputs] == [(64, 64, 3)]
    assert (cells.outputs, cells.activation) == (1, "sigmoid")
    vessels = read_model(shared_data / "retina" / "retina_unet48.keras")
    assert [shape for _, shape in vessels.inputs] == [(48, 48, 1)]
    assert (vessels.outputs, vessels.activation) == (2, "softmax")


def test_a_float_tflite_model_is_told() -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    facts = read_model(DATA / "ecg_float.tflite")
    assert (facts.source, facts.outputs, facts.activation) == ("tflite", 5, "none")
    assert [shape for _, shape in facts.inputs] == [(140, 1)]


def test_a_quantised_tflite_model_is_refused_as_a_source() -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    with pytest.raises(BadFile, match="quantised already; give the float model"):
        read_model(DATA / "ecg_int8.tflite")


@pytest.mark.parametrize(
    ("file", "name", "what", "better"),
    [
        (ECG / "edge.keras", "m.onnx", "a Keras 3 model", r"m\.keras"),
        (ECG / "edge.keras", "m.zip", "a Keras 3 model", r"m\.keras"),
        (None, "m.keras", "a Keras model in HDF5", r"m\.h5"),
        (DATA / "ecg_float.tflite", "m.onnx", "a TFLite model", r"m\.tflite"),
        (DATA / "ecg_float.onnx", "m.keras", "an ONNX model", r"m\.onnx"),
        (DATA / "ecg_float.onnx", "m", "an ONNX model", r"m\.onnx"),
    ],
)
def test_a_name_that_says_another_kind_than_the_content_is_refused(
    tmp_path: Path, file: Path | None, name: str, what: str, better: str
) -> None:
    pytest.importorskip("onnx", reason="the convert extra is not installed")
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    path = tmp_path / name
    if file is None:
        h5(path, functional(INPUT, DENSE))
    else:
        path.write_bytes(file.read_bytes())
    with pytest.raises(BadFile, match=f"holds {what}, which its suffix .* call it {better}$"):
        read_model(path)


def test_a_tflite_model_may_have_a_suffix_that_says_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    (tmp_path / "m.lite").write_bytes((DATA / "ecg_float.tflite").read_bytes())
    assert read_model(tmp_path / "m.lite").source == "tflite"


OWN_CLASS = {"module": None, "registered_name": "pkg>Own"}
OWN_FUNCTION = {"module": "builtins", "class_name": "function", "config": "pkg>swoosh"}


@pytest.mark.parametrize(
    ("part", "named"),
    [
        (layer("Own", "mine", [16]) | OWN_CLASS, r"an object of the class pkg>Own \(mine\)"),
        (
            layer("Own", "mine", [16]) | OWN_CLASS | {"module": "my.layers"},
            "an object of the class pkg>Own",
        ),
        (layer("pkg>Own", "mine", [16]), r"an object of the class pkg>Own \(mine\)"),
        (layer("Dense", "d", [16], activation=OWN_FUNCTION), "the function pkg>swoosh"),
        (layer("Lambda", "twice", [16]), r"a Lambda layer \(twice\)"),
        (functional(INPUT, layer("Lambda", "twice", [16])), r"a Lambda layer \(twice\)"),
    ],
)
def test_what_only_its_author_s_code_could_run_is_named(
    tmp_path: Path, part: dict[str, Any], named: str
) -> None:
    said = rf"has {named}.*, whose code is not Keras's; export it .*model\.export\('folder'\)"
    model = functional(INPUT, DENSE)
    model["config"]["layers"].insert(1, part)
    with pytest.raises(BadFile, match=said):
        read_model(keras_file(tmp_path / "m.keras", model))
    with pytest.raises(BadFile, match=said):
        read_model(h5(tmp_path / "m.h5", model))


def test_a_model_of_a_class_of_its_own_is_named(tmp_path: Path) -> None:
    own = {"class_name": "Own", "config": {"name": "mine"}}
    for path in (keras_file(tmp_path / "m.keras", own), h5(tmp_path / "m.h5", own)):
        with pytest.raises(BadFile, match=r"an object of the class Own \(mine\)"):
            read_model(path)


def onnx_model(path: Path, *nodes: Any, domains: tuple[str, ...] = ()) -> Path:
    from onnx import TensorProto, helper, save

    ends = [[helper.make_tensor_value_info(end, TensorProto.FLOAT, [1, 4])] for end in ("x", "y")]
    graph = helper.make_graph(list(nodes), "m", *ends)
    versions = [helper.make_opsetid(domain, 1) for domain in domains]
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), *versions]), path)
    return path


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize(
    "operator",
    ["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger"],
)
def test_a_quantised_onnx_model_is_refused_as_a_source(
    tmp_path: Path, operator: str, inner: bool
) -> None:
    pytest.importorskip("onnx", reason="the convert extra is not installed")
    from onnx import helper

    nodes = [helper.make_node(operator, ["x"], ["y"])]
    if inner:
        branch = helper.make_graph(nodes, "then", [], [])
        nodes = [helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)]
    said = rf"quantised already \(it has {operator}\); give the float model"
    with pytest.raises(BadFile, match=said):
        read_model(onnx_model(tmp_path / "m.onnx", *nodes))


def test_the_engines_of_edgeclin_are_no_float_sources() -> None:
    pytest.importorskip("onnx", reason="the convert extra is not installed")
    for name in ("ecg_qdq.onnx", "ecg_tensorrt.onnx", "ecg_tensorrt8.onnx"):
        with pytest.raises(BadFile, match="quantised already"):
            read_model(DATA / name)


def test_an_operator_that_onnx_runtime_does_not_know_is_named(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the convert extra is not installed")
    from onnx import helper

    for domain, title in (("my.own", "my.own"), ("", "ONNX")):
        node = helper.make_node("Swoosh", ["x"], ["y"], domain=domain)
        path = onnx_model(tmp_path / "m.onnx", node, domains=("my.own",))
        with pytest.raises(BadFile, match=f"has the operator Swoosh of {title}, which"):
            read_model(path)
    for operator, domain in (("Relu", ""), ("Normalizer", "ai.onnx.ml"), ("Gelu", "com.microsoft")):
        node = helper.make_node(operator, ["x"], ["y"], domain=domain)
        assert read_model(onnx_model(tmp_path / "m.onnx", node, domains=(domain,))).outputs == 4


def test_an_operator_that_litert_does_not_know_is_named(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    from edgeclin.convert.flatbuffer import pack, unpack

    content = unpack((DATA / "ecg_float.tflite").read_bytes())
    content.operatorCodes[0].builtinCode = BuiltinOperator.CUSTOM
    content.operatorCodes[0].deprecatedBuiltinCode = BuiltinOperator.CUSTOM
    content.operatorCodes[0].customCode = b"Swoosh"
    (tmp_path / "m.tflite").write_bytes(pack(content))
    with pytest.raises(BadFile, match="has the operator Swoosh, which LiteRT does not know"):
        read_model(tmp_path / "m.tflite")


def test_an_onnx_model_is_told(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the convert extra is not installed")
    facts = read_model(DATA / "ecg_float.onnx")
    assert (facts.source, facts.outputs, facts.activation) == ("onnx", 5, "none")
    assert [shape for _, shape in facts.inputs] == [(140, 1)]
    for content in (b"", b"\x08\x07\x12\x07pytorch", b"no model"):
        (tmp_path / "m.onnx").write_bytes(content)
        with pytest.raises(BadFile, match="damaged or empty ONNX"):
            read_model(tmp_path / "m.onnx")


def h5(path: Path, config: Any) -> Path:
    h5py = pytest.importorskip("h5py", reason="the convert extra is not installed")
    with h5py.File(path, "w") as file:
        file.create_group("model_weights")
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
    return path


def test_an_h5_file_is_told_by_its_architecture(tmp_path: Path) -> None:
    old = layer("InputLayer", "beat", batch_input_shape=[None, 140, 1])
    facts = read_model(h5(tmp_path / "m.h5", functional(old, DENSE)))
    assert facts == ModelFacts("keras", (("beat", (140, 1)),), 5, "softmax")
    with pytest.raises(BadFile, match="weights only, without the architecture"):
        read_model(h5(tmp_path / "weights.h5", None))


@pytest.mark.parametrize("name", ["m/data.pkl", "archive/data.pkl"])
def test_a_pickled_pytorch_file_is_told_how_to_export_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"cos\nsystem\n")
    with pytest.raises(BadFile, match=r"a pickled PyTorch file .*torch\.export\.save"):
        read_model(path)
    path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
    with pytest.raises(BadFile, match=r"a pickled PyTorch file .*torch\.export\.save"):
        read_model(path)


def test_an_exported_program_of_an_old_pytorch_is_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(BadFile, match=r"of an old PyTorch; with 2\.8 or newer"):
        read_model(tmp_path / "m.pt2")


def torchscript(path: Path, code: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"")
        archive.writestr("m/code/__torch__.py", code)
        archive.writestr("m/constants.pkl", b"")
    return path


def test_torchscript_tells_no_shape(tmp_path: Path) -> None:
    facts = read_model(torchscript(tmp_path / "m.pt", "x = torch.relu(y)\nops.prim.NumToTensor(z)"))
    assert facts == ModelFacts("torchscript", (("input", None),), None, None)


@pytest.mark.parametrize(
    "code", ['torch.save(x, "f")', 'torch.from_file("f")', "ops.mylibrary.evil(x)"]
)
def test_torchscript_that_does_more_than_compute_is_refused(tmp_path: Path, code: str) -> None:
    with pytest.raises(BadFile, match=r"__torch__\.py uses .*, which does more than compute"):
        read_model(torchscript(tmp_path / "m.pt", f"def forward(x):\n  {code}"))


# -- shapes that a file leaves open ------------------------------------------------------------


def open_to(*shape: int | None) -> ModelFacts:
    return ModelFacts("keras", (("x", shape),), 2, "none")


def test_a_shape_that_is_fixed_needs_no_more() -> None:
    assert fix_shape(Path("m"), open_to(8, 1), None) == open_to(8, 1)
    assert fix_shape(Path("m"), open_to(8, 1), (8, 1)) == open_to(8, 1)


def test_open_axes_take_the_sizes_that_are_given() -> None:
    assert fix_shape(Path("m"), open_to(None, None, 3), (8, 9, 3)) == open_to(8, 9, 3)
    unknown = ModelFacts("torchscript", (("x", None),), None, None)
    assert fix_shape(Path("m"), unknown, (8, 1)).inputs == (("x", (8, 1)),)


@pytest.mark.parametrize(
    ("facts", "given", "said"),
    [
        (open_to(None, None, 3), None, r"m: takes \[\?, \?, 3\], .* not fixed; .*--input-shape"),
        (
            ModelFacts("t", (("x", None),), 1, None),
            None,
            "axes its file does not tell.*--input-sha",
        ),
        (open_to(None, 3), (8, 4), r"takes \[\?, 3\], --input-shape says \[8, 4\]"),
        (open_to(None, 3), (3,), r"takes \[\?, 3\], --input-shape says \[3\]"),
        (open_to(8, 1), (9, 1), r"takes \[8, 1\], --input-shape says \[9, 1\]"),
        (ModelFacts("t", (("x", (1,)), ("y", (1,))), 1, None), (1,), "has 2 inputs"),
    ],
)
def test_a_shape_that_is_missing_or_wrong_is_one_sentence(
    facts: ModelFacts, given: tuple[int, ...] | None, said: str
) -> None:
    with pytest.raises(BadFile, match=said):
        fix_shape(Path("m"), facts, given)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer, of less than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def saved_model(folder: Path, name: str) -> Path:
    """One signature: x [?, 140, 1] to y [?, 5]."""

    def tensor(key: bytes, *sizes: int) -> bytes:
        axes = [b"\x08" + (b"\xff" * 9 + b"\x01" if size < 0 else bytes([size])) for size in sizes]
        sized = [
            axis if size != 140 else b"\x08\x8c\x01" for axis, size in zip(axes, sizes, strict=True)
        ]
        shape = b"".join(field(2, axis) for axis in sized)
        return field(1, key) + field(2, field(3, shape))

    signature = field(1, tensor(b"x", -1, 140, 1)) + field(2, tensor(b"y", -1, 5))
    entry = field(5, field(1, name.encode()) + field(2, signature))
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"\x08\x01" + field(2, entry))
    return folder


def test_a_saved_model_is_told_by_its_default_signature(tmp_path: Path) -> None:
    pytest.importorskip("google.protobuf", reason="the convert extra is not installed")
    facts = read_model(saved_model(tmp_path / "good", "serving_default"))
    assert facts == ModelFacts("saved_model", (("x", (140, 1)),), 5, None)
    with pytest.raises(BadFile, match=r"no signature serving_default \(there are: train\)"):
        read_model(saved_model(tmp_path / "other", "train"))
    (tmp_path / "good" / "saved_model.pb").write_bytes(b"\xff damaged")
    with pytest.raises(BadFile, match=r"saved_model\.pb: damaged"):
        read_model(tmp_path / "good")


def told_or_bad_file(path: Path) -> None:
    try:
        assert isinstance(read_model(path), ModelFacts)
    except BadFile as exc:
        assert str(path) in str(exc)


@settings(deadline=None)
@given(
    head=st.sampled_from([b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"0000TFL3"]), data=st.binary()
)
def test_random_bytes_are_bad_files_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, head: bytes, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.keras"
    path.write_bytes(head + data)
    with pytest.raises((BadFile, MissingExtra)):
        read_model(path)


def small_model() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps(functional(INPUT, DENSE)))
        archive.writestr("model.weights.h5", b"weights")
    return buffer.getvalue()


SMALL = small_model()


@settings(deadline=None, max_examples=300)
@given(
    flips=st.lists(
        st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=4
    )
)
def test_a_damaged_model_is_told_or_a_bad_file_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    damaged = bytearray(SMALL)
    for position, value in flips:
        damaged[position] = value
    path = tmp_path_factory.getbasetemp() / "damaged.keras"
    path.write_bytes(damaged)
    told_or_bad_file(path)


@pytest.mark.parametrize("method", [12, 14, 9, 93, 99])
def test_a_compression_that_is_not_there_or_wrong_is_a_bad_file(
    tmp_path: Path, method: int
) -> None:
    damaged = bytearray(SMALL)
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = damaged.index(mark) + offset
        damaged[at : at + 2] = method.to_bytes(2, "little")
    path = tmp_path / "m.keras"
    path.write_bytes(damaged)
    with pytest.raises(BadFile):
        read_model(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    return [path, *(place for key in keys for place in places(value[key], (*path, key)))]


PLACES = places(functional(INPUT, DENSE))


@settings(deadline=None, max_examples=300)
@given(place=st.sampled_from(PLACES), value=json_values)
def test_a_strange_config_is_told_or_a_bad_file_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[Any, ...], value: Any
) -> None:
    config = json.loads(json.dumps(functional(INPUT, DENSE)))
    changed = config
    for key in place[:-1]:
        changed = changed[key]
    if place:
        changed[place[-1]] = value
    else:
        config = value
    told_or_bad_file(keras_file(tmp_path_factory.getbasetemp() / "strange.keras", config))


def test_a_config_that_nests_too_deep_is_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "deep.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "[" * 200_000)
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(BadFile, match="damaged or unusual"):
        read_model(path)


def test_weights_beside_an_onnx_model_belong_to_it(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the convert extra is not installed")
    path = tmp_path / "m.onnx"
    model = onnx.load(DATA / "ecg_float.onnx")
    onnx.save(model, path, save_as_external_data=True, location="m.onnx.data", size_threshold=64)
    assert companions(path) == [tmp_path / "m.onnx.data"]
    assert read_model(path).outputs == 5
    assert companions(DATA / "ecg_float.onnx") == []
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(BadFile, match=r"m\.onnx\.data: no such file"):
        companions(path)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../secret"
    onnx.save(model, path)
    with pytest.raises(BadFile, match=r"keeps weights in '\.\./secret'"):
        companions(path)


def test_a_model_of_two_inputs_is_refused_by_their_names() -> None:
    facts = ModelFacts("keras", (("ecg", (140, 1)), ("age", (1,))), 2, "softmax")
    for asked in (None, (140, 1)):
        with pytest.raises(
            BadFile, match=r"has 2 inputs \(ecg, age\), this version takes models wi"
        ):
            fix_shape(Path("m.keras"), facts, asked)
