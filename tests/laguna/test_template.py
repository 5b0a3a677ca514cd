"""Templates: the dialect of transformers, where they are found, and what hostile ones cannot do."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import pytest

from laguna_agent.backend.laguna.chat_family import ChatFamily
from laguna_agent.backend.laguna.template import (
    ChatTemplate,
    Thinking,
    read_template,
    template_from_gguf,
    wire_message,
    wire_tool,
)
from laguna_agent.backend.laguna.template_sandbox import TemplateRefused, TemplateStopped
from laguna_agent.errors import ConfigError, UsageError
from laguna_agent.messages import ImageBlock, Message, text_message
from tests.laguna.conversations import CONVERSATION, SHELL, TEMPLATES, from_wire, template
from tests.laguna.shared_golden import chat_renders

MESSAGES = (text_message("user", "hi <b>"),)


def test_the_golden_conversations_render_as_the_released_templates_do() -> None:
    for entry in chat_renders():
        ours = template("compact" if entry["template"].startswith("v8") else "newline")
        messages = [from_wire(message) for message in entry["messages"]]
        text = ours.render(messages, thinking=Thinking(entry["enable_thinking"]))
        # The test's templates share the wire form with the released ones, not the words of their system messages.
        expected = entry["expected"]
        assert text[text.index("<user>") :] == expected[expected.index("<user>") :]


@pytest.mark.parametrize("name", ["compact", "newline", "hermes"])
@pytest.mark.parametrize("enabled", [True, False])
def test_it_renders_as_transformers_does(name: str, enabled: bool) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    text = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    rendered, _ = render_jinja_template(
        conversations=[[wire_message(message) for message in CONVERSATION]],
        tools=[wire_tool(SHELL)],
        chat_template=text,
        add_generation_prompt=True,
        enable_thinking=enabled,
        preserve_thinking=True,
    )
    assert template(name).render(CONVERSATION, (SHELL,), thinking=Thinking(enabled)) == rendered[0]


DIALECT = [
    "{% for m in messages %}\n  {% if m.role == 'user' %}\n    {{ m.content }}\n  {% endif %}\n{% endfor %}",
    "{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{% if i == 1 %}{% continue %}{% endif %}{{ i }},"
    "{{ loop.last }}{{ loop.length }}{% endfor %}",
    "{% set n = namespace(a=0) %}{% for i in [1, 2] %}{% set n.a = n.a + i %}{% endfor %}{{ n.a }}",
    "{{ {'b': 1, 'a': ['é', '<', none, true]} | tojson }} {{ [1, {'a': 2}] | tojson(indent=2) }}",
    "{{ '%s-%03d' % ('a', 3) }} {{ 'a' ~ 1 ~ none }} {{ none_such }} {{ none }} {{ [1, 'x'] }} {{ 7 // 2 }}",
    "{% macro f(a, b=2) %}[{{ a }}{{ b }}{{ caller() if caller else '' }}]{% endmacro %}{{ f(1) }}"
    "{% call f(3) %}in{% endcall %}",
    "{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x is defined }}",
    "{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}{{ messages | map(attribute='role') | list }}",
    "{{ messages[::-1][0]['content'][:2] }} {{ ' a '.strip() }} {{ 'a,b'.split(',') | join('+') }} "
    "{{ 'aXa'.replace('a', 'b') | upper | indent(3) }} "
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{% for n in [1, [2, [3]]] recursive %}{% if n is iterable %}{{ loop(n) }}{% else %}{{ n }}{% endif %}{% endfor %}",
]


@pytest.mark.parametrize("text", DIALECT)
def test_the_dialect_is_the_one_of_transformers(text: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template(
        conversations=[[wire_message(message) for message in MESSAGES]], chat_template=text
    )
    assert ChatTemplate(text, source="t").render(MESSAGES, for_answer=False) == rendered[0]


DOUBLE = "{% set n = namespace(s=START) %}{% for i in range(60) %}STEP{% endfor %}"
HOSTILE = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loops without a call": "{% set r = range(99999) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "include": "{% include 'self' %}{% include 'self' %}",
    "power": "{{ 10**10**10 }}",
    "times": "{{ 'a' * 999999999999 }}",
    "squares": DOUBLE.replace("START", "3").replace("STEP", "{% set n.s = n.s * n.s %}"),
    "tilde": DOUBLE.replace("START", "'ab'").replace("STEP", "{% set n.s = n.s ~ n.s %}"),
    "plus": DOUBLE.replace("START", "['ab']").replace("STEP", "{% set n.s = n.s + n.s %}"),
    "nesting": DOUBLE.replace("START", "['a']").replace("STEP", "{% set n.s = [n.s, n.s] %}") + "{{ n.s }}",
    "dicts": DOUBLE.replace("START", "{}").replace("STEP", "{% set n.s = dict(a=n.s, b=n.s) %}") + "{{ n.s }}",
    "capture": DOUBLE.replace("START", "'ab'").replace(
        "STEP", "{% set x %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = x %}"
    ),
    "constant": "{% set x %}{% for i in range(99999) %}" + "y" * 100_000 + "{% endfor %}{% endset %}",
    "center": "{{ 'a'.center(99999999999) }}",
    "center filter": "{{ 'a' | center(99999999999) }}",
    "percent": "{{ '%099999999999d' % 1 }}",
    "percent star": "{{ '%*d' % (99999999, 1) }}",
    "format": "{{ '{:>99999999999}'.format(1) }}",
    "nested format": "{{ '{:>{}}'.format(1, 99999999999) }}",
    "format filter": "{{ '%99999999999d' | format(1) }}",
    "replace": "{{ ('a' * 10000).replace('a', 'b' * 100000) }}",
    "replace filter": "{{ ('a' * 10000) | replace('a', 'b' * 100000) }}",
    "join": "{{ ('b' * 100000).join(range(10000) | map('string')) }}",
    "join filter": "{{ range(10000) | join('b' * 100000) }}",
    "indent": "{{ ('\n' * 100000) | indent(9999) }}",
    "wordwrap": "{{ ('a ' * 100000) | wordwrap(1, wrapstring='b' * 10000) }}",
    "batch": "{{ range(10) | batch(99999999, 'x') | list }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_template_that_wants_too_much_is_stopped(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.monotonic()
    with pytest.raises(TemplateStopped, match=r"^hostile: the chat template was stopped: "):
        ChatTemplate(HOSTILE[name], source="hostile", texts={"self": HOSTILE["include"]}, seconds=1).render(MESSAGES)
    assert time.monotonic() - begun < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ ''.join.__globals__.x }}",
        "{{ raise_exception.__globals__.x }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ range.__self__ }}{{ open('/etc/passwd') }}",
    ],
)
def test_a_template_cannot_reach_the_interpreter(text: str) -> None:
    with pytest.raises(UsageError, match=r"chat template failed: (SecurityError|UndefinedError)"):
        ChatTemplate(text, source="t").render(MESSAGES)


@pytest.mark.parametrize("text", ["{{ ''|attr('__class__') }}", "{{ cycler }}{{ lipsum }}{{ config }}"])
def test_what_is_out_of_reach_is_empty(text: str) -> None:
    assert ChatTemplate(text, source="t").render(MESSAGES) == ""


def test_a_conversation_that_a_template_refuses() -> None:
    with pytest.raises(TemplateRefused, match="t: the chat template refuses this conversation: roles must"):
        ChatTemplate("{{ raise_exception('roles must alternate') }}", source="t").render(MESSAGES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{% if %}", "not valid Jinja"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deeply"),
        ("a" * 1_000_001, "more than 1,000,000 characters"),
    ],
)
def test_a_template_that_is_none(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^t: .*{words}"):
        ChatTemplate(text, source="t")


def test_only_files_beside_the_template_can_be_included() -> None:
    with pytest.raises(ConfigError, match=r"includes '../../etc/passwd', which is absent"):
        ChatTemplate("{% include '../../etc/passwd' %}", source="t").render(MESSAGES)


def test_where_a_checkpoint_keeps_its_template(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no chat template; put one into chat_template.jinja"):
        read_template(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    named = [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t{{ bos_token }}"}]
    config.write_text(json.dumps({"chat_template": named, "bos_token": {"content": "<s>"}}))
    assert read_template(tmp_path).render(MESSAGES) == "t<s>"
    config.write_text(json.dumps({"chat_template": "{% include 'x.jinja' %}", "bos_token": None}))
    (tmp_path / "x.jinja").write_text("{{ messages[0].content }}<arg_key><tool_call>")
    found = read_template(tmp_path)
    assert found.render(MESSAGES) == "hi <b><arg_key><tool_call>"
    assert found.family.call_syntax == "poolside"
    (tmp_path / "chat_template.jinja").write_text("j")
    assert read_template(tmp_path).render(MESSAGES) == "j"
    other = tmp_path / "other"
    other.write_text("o")
    assert read_template(tmp_path, file=other).render(MESSAGES) == "o"
    (tmp_path / "chat_template.jinja").unlink()
    config.write_text("{")
    with pytest.raises(ConfigError, match=r"tokenizer_config.json: not JSON"):
        read_template(tmp_path)


def test_the_template_of_a_gguf_file() -> None:
    metadata = {
        "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].role }}",
        "tokenizer.ggml.tokens": ["a", "<s>"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 99,
    }
    assert template_from_gguf(metadata, "f").render(MESSAGES) == "<s>user"
    with pytest.raises(ConfigError, match=r"f: the file has no tokenizer.chat_template; put one"):
        template_from_gguf({}, "f")


def test_families() -> None:
    assert template("compact").family == ChatFamily("poolside", False, True, False, True)
    assert template("newline").family == ChatFamily("poolside", True, True, False, True)
    assert template("hermes").family == ChatFamily("hermes", True, False, True, True)
    assert ChatTemplate("<{{ messages }}>", source="t").family == ChatFamily(None, True, False, False, False)
    assert ChatTemplate("{{ messages }}", source="t").family == ChatFamily(None, False, False, False, False)


def test_an_image_is_refused() -> None:
    with pytest.raises(UsageError, match="a user message holds an image"):
        template("compact").render([Message("user", (ImageBlock("image/png", ""),))])


def test_the_date_stands_still() -> None:
    found = ChatTemplate("{{ strftime_now('%Y-%m-%d %H:%M:%S') }}", source="t")
    first = found.render(MESSAGES)
    time.sleep(1.1)
    assert found.render(MESSAGES) == first
    assert first.startswith(time.strftime("%Y-"))
