"""What an editor sends as a prompt, as the content blocks of our own messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from urllib.parse import unquote, urlsplit

import msgspec

from laguna_agent.acp import schema
from laguna_agent.errors import UsageError
from laguna_agent.messages import ContentBlock, ImageBlock, TextBlock


def prompt_blocks(prompt: Iterable[schema.ContentBlock]) -> tuple[ContentBlock, ...]:
    """The prompt; raises UsageError for content that was not advertised, and where there is nothing in it."""
    blocks = tuple(prompt_block(block) for block in prompt)
    if not any(isinstance(block, ImageBlock) or block.text.strip() for block in blocks):
        raise UsageError("the prompt is empty")
    return blocks


def as_given(prompt: Iterable[schema.ContentBlock]) -> tuple[dict[str, object], ...]:
    """What the log keeps of a prompt that holds more than text and images, so that `given_blocks` can show it again."""
    blocks = tuple(prompt)
    if all(isinstance(block, schema.TextContent | schema.ImageContent) for block in blocks):
        return ()
    return tuple(msgspec.to_builtins(block) for block in blocks)


def given_blocks(given: Iterable[dict[str, object]]) -> Iterator[schema.ContentBlock]:
    """The prompt as the editor sent it, from the log; what a later version of the protocol no longer knows is left
    out."""
    for block in given:
        with suppress(msgspec.ValidationError):
            yield msgspec.convert(block, schema.ContentBlock)


def prompt_block(block: schema.ContentBlock) -> ContentBlock:
    """One block; a link stays a link, which the model can follow with its tools."""
    match block:
        case schema.TextContent(text=text):
            return TextBlock(text)
        case schema.ImageContent(data=data, mime_type=mime_type):
            return ImageBlock(mime_type, data)
        case schema.ResourceLink(uri=uri, name=name):
            place = local_path(uri)
            return TextBlock(f" {place} " if place == name else f" {place} ({name}) ")
        case schema.EmbeddedResource(resource=resource):
            return embedded_block(resource)
    raise UsageError("audio is not supported; this agent advertises text, images and embedded resources")


def embedded_block(resource: schema.EmbeddedResourceResource) -> ContentBlock:
    """A file or selection that came along with the prompt."""
    place = local_path(resource.uri)
    if resource.text is not None:
        return TextBlock(f'\n<resource path="{place}">\n{resource.text}\n</resource>\n')
    mime_type = resource.mime_type or ""
    if resource.blob is not None and mime_type.startswith("image/"):
        return ImageBlock(mime_type, resource.blob)
    return TextBlock(f" {place} (binary, {mime_type or 'of unknown type'}) ")


def local_path(uri: str) -> str:
    """The path in a `file:` URI; any other URI as it is."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri
    return unquote(parts.path) if parts.scheme == "file" and parts.path else uri
