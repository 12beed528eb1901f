"""What differs between versions of TensorRT when an engine is built from explicit Q/DQ.

TensorRT's migration guides ("8.x to 10.x", "10.x to 11.x") and the Python API of 8.5, 10 and 11.
"""

from __future__ import annotations

from typing import Any, Protocol

from edgeclin.errors import EngineUnavailable


class Family(Protocol):
    """Versions that are asked in one way. `trt` is the module `tensorrt`, or one like it."""

    @property
    def settings(self) -> tuple[str, ...]:
        """The flags of network and builder that it sets: part of what a built engine belongs to."""

    def create_network(self, trt: Any, builder: Any) -> Any:
        """An empty network whose batch axis is explicit."""

    def configure(self, trt: Any, config: Any) -> None:
        """Make the builder keep to the model's own Q/DQ."""


class Version8:
    """8.5 to 8.6: weakly typed. Q/DQ layers are an error without the INT8 flag."""

    settings = ("EXPLICIT_BATCH", "INT8")

    def create_network(self, trt: Any, builder: Any) -> Any:
        return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))

    def configure(self, trt: Any, config: Any) -> None:
        config.set_flag(trt.BuilderFlag.INT8)


class Version10:
    """10: every batch is explicit; a strongly typed network refuses the flags of precision."""

    settings = ("STRONGLY_TYPED",)

    def create_network(self, trt: Any, builder: Any) -> Any:
        return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))

    def configure(self, trt: Any, config: Any) -> None:
        """Nothing: the model's types are the network's."""


class Version11:
    """11: always strongly typed; neither flag exists, and the one of version 10 is ignored."""

    settings = ()

    def create_network(self, trt: Any, builder: Any) -> Any:
        return builder.create_network(0)

    def configure(self, trt: Any, config: Any) -> None:
        """Nothing: the model's types are the network's."""


_FAMILIES: dict[int, Family] = {8: Version8(), 10: Version10(), 11: Version11()}
_OLDEST = (8, 5)
"""The first with tensors by name and `execute_async_v3`."""


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: `10.3.0.post1` is (10, 3, 0)."""
    found = []
    for part in version.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)


def family_of(version: str) -> Family:
    """How to ask that version of TensorRT.

    Raises:
        EngineUnavailable: nobody has looked at this version.
    """
    found = numbers(version)
    if found < _OLDEST or found[0] not in _FAMILIES:
        raise EngineUnavailable(
            f"TensorRT {version} is not one that edgeclin builds with: 8.5, 8.6, 10 and 11 are"
        )
    return _FAMILIES[found[0]]


def check_version(found: str, wanted: str) -> str:
    """Compare the TensorRT that is here with the one that the bundle's profile names.

    Returns:
        what to record of a harmless difference, or nothing.

    Raises:
        EngineUnavailable: another major version, which reads another style of Q/DQ.
    """
    ours, theirs = numbers(found), numbers(wanted)
    if ours[:1] != theirs[:1]:
        raise EngineUnavailable(
            f"the bundle's model is written for TensorRT {wanted or 'of no version'}, here is "
            f"{found}: convert it with a profile whose toolchain.tensorrt is {ours[0]}"
        )
    if ours[: len(theirs)] == theirs:
        return ""
    return f"built with TensorRT {found}, the profile names {wanted}"
