"""What a server's tool gave, as a result for the model: text and images; what is neither becomes a line that says so.

Knows the content blocks of MCP as JSON and how long output is kept; must not know connections.
https://modelcontextprotocol.io/specification/2025-11-25/server/tools#tool-result
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from laguna_agent.messages import ContentBlock, ImageBlock, TextBlock
from laguna_agent.sandbox.output import Capture
from laguna_agent.tools.base import ToolResult

IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
IMAGE_CAP = 5 * 1024 * 1024
"""Characters of base64 that one image may have; model servers refuse more."""


def tool_result(answer: dict[str, Any], cap: int, spool: Path | None) -> ToolResult:
    """The result of a call. At most about `cap` characters of text; the whole of a longer one is kept in `spool`."""
    texts: list[str] = []
    images: list[ContentBlock] = []
    for block in answer.get("content") or ():
        said = _said(block)
        (images if isinstance(said, ImageBlock) else texts).append(said)  # type: ignore[arg-type]
    structured = answer.get("structuredContent")
    if structured is not None and not texts:
        texts.append(msgspec.json.format(msgspec.json.encode(structured)).decode())
    text = _fitted("\n".join(texts), cap, spool)
    content = ((TextBlock(text),) if text else ()) + tuple(images)
    return ToolResult(content, is_error=bool(answer.get("isError")))


def _said(block: dict[str, Any]) -> str | ImageBlock:
    match block.get("type"):
        case "text":
            return str(block["text"])
        case "image":
            return _image(block["mimeType"], block["data"])
        case "audio":
            return f"[audio, {_size(block['mimeType'], block['data'])}: it cannot be heard here]"
        case "resource_link":
            described = [block.get("title") or block.get("name"), block.get("description")]
            return f"[resource {block['uri']}: {'; '.join(filter(None, described))}]"
        case "resource":
            return _resource(block["resource"])
    return f"[content of the unknown type {block.get('type')!r}]"


def _resource(resource: dict[str, Any]) -> str | ImageBlock:
    if "text" in resource:
        return f"[resource {resource['uri']}]\n{resource['text']}"
    mime_type, data = resource.get("mimeType") or "application/octet-stream", resource["blob"]
    if mime_type in IMAGE_TYPES:
        return _image(mime_type, data)
    return f"[resource {resource['uri']}, {_size(mime_type, data)}: it is not text]"


def _image(mime_type: str, data: str) -> str | ImageBlock:
    if mime_type in IMAGE_TYPES and len(data) <= IMAGE_CAP:
        return ImageBlock(mime_type, data)
    return f"[image, {_size(mime_type, data)}: it cannot be shown]"


def _size(mime_type: str, data: str) -> str:
    return f"{mime_type}, {len(data) * 3 // 4:,} bytes"


def _fitted(text: str, cap: int, spool: Path | None) -> str:
    if len(text) <= cap:
        return text
    if spool is None:
        return f"{text[: cap // 2]}\n[... {len(text) - cap:,} characters left out ...]\n{text[-(cap // 2) :]}"
    number = 1
    while (spool / f"answer-{number}.log").exists():
        number += 1
    kept = Capture(spool / f"answer-{number}.log")
    kept.feed(text.encode("utf-8", "replace"))
    kept.close()
    return kept.text(cap)
