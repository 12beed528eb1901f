"""What went into a bundle, as a CycloneDX bill of materials."""

from __future__ import annotations

from collections.abc import Mapping

from edgeclin.errors import MissingExtra

try:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot5
except ImportError as exc:
    raise MissingExtra("cyclonedx-python-lib, which writes the SBOM,", "convert") from exc


def write_sbom(
    name: str, version: str, model_sha256: str, engine_sha256: str, tools: Mapping[str, str]
) -> bytes:
    """CycloneDX 1.5 JSON: the engine, the model it was made from, and every tool's version."""
    bom = Bom()
    engine = Component(
        name=name,
        version=version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=engine_sha256)],
    )
    model = Component(
        name=f"{name}-source-model",
        version=version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=model_sha256)],
    )
    used = [
        Component(name=tool, version=tool_version, type=ComponentType.LIBRARY)
        for tool, tool_version in sorted(tools.items())
    ]
    bom.metadata.component = engine
    bom.components.update([model, *used])
    bom.register_dependency(engine, [model, *used])
    return JsonV1Dot5(bom).output_as_string(indent=1).encode()
