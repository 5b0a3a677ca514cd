"""Which definition of a block stands for which of a file, where a name is defined more than once: overloads, a property
and its setter, a function that an answer gives twice.

Knows definitions; it must not know what is done with a pair.
"""

from __future__ import annotations

from laguna_agent.code.outline import Definition, Outline

_OVERLOADS = frozenset({"java", "cpp", "typescript", "tsx"})


def without_repeats(language: str, source: Outline, definitions: list[Definition]) -> list[Definition]:
    """Of definitions that would overwrite each other only the last, in its place."""
    last = {_key(language, source, each): each for each in definitions}
    kept = set(map(id, last.values()))
    return [each for each in definitions if id(each) in kept]


def _key(language: str, source: Outline, definition: Definition) -> tuple[str, ...]:
    overload = definition.parameters if language in _OVERLOADS else ""
    return definition.name, definition.kind, definition.node.type, _decorators(source, definition), overload


def pairs(
    block: Outline, news: list[Definition], file: Outline, olds: list[Definition]
) -> list[tuple[Definition, Definition]]:
    """The pairs of namesakes that are most alike; what is left over has no partner.

    The last of equals counts, as it is the one that is in force.
    """
    ranked = sorted(
        (
            (_likeness(block, new, file, old), later, latest)
            for later, new in enumerate(news)
            for latest, old in enumerate(olds)
        ),
        reverse=True,
    )
    found: dict[int, int] = {}
    for _, new, old in ranked:
        if new not in found and old not in found.values():
            found[new] = old
    return [(news[new], olds[old]) for new, old in sorted(found.items())]


def _likeness(block: Outline, new: Definition, file: Outline, old: Definition) -> int:
    mine, theirs = _decorators(block, new), _decorators(file, old)
    return (
        4 * (mine == theirs and mine != "") + 2 * (new.parameters == old.parameters) + (new.node.type == old.node.type)
    )


def _decorators(source: Outline, definition: Definition) -> str:
    return "".join(line for line in source.text(definition.start, definition.head).split() if line[:1] in "@#")
