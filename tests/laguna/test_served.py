"""The in-process engine behind the server, as a person starts it: a small random model, so what it says is nothing, and
what is said about it is all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.conftest import FOREIGN, ROOT
from tests.laguna.conftest import share_kernels
from tests.laguna.whole_checkpoint import whole_checkpoint

TOKEN = "a-token-of-the-tests-1234"
SEED = 7


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[openai.OpenAI, subprocess.Popen[str]]]:
    folder = tmp_path_factory.mktemp("served")
    checkpoint = whole_checkpoint(folder / "laguna-tiny")
    homes = {f"XDG_{name}_HOME": str(folder / name) for name in ("CONFIG", "STATE", "DATA", "CACHE")}
    share_kernels(tmp_path_factory, folder / "CACHE" / "laguna-agent")
    own = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    process = subprocess.Popen(
        [sys.executable, "-m", "laguna_agent", "serve", "--model", f"local/{checkpoint}", "--port", "0"],
        env=own
        | homes
        | {"HOME": str(folder), "PYTHONPATH": str(ROOT), "LAGUNA_SERVE_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process:
        try:
            url = process.stdout.readline().strip()
            assert url, process.communicate(timeout=10)[1]
            with openai.OpenAI(base_url=url, api_key=TOKEN, max_retries=0, timeout=110) as client:
                yield client, process
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.fixture
def client(served: tuple[openai.OpenAI, subprocess.Popen[str]]) -> openai.OpenAI:
    return served[0]


@pytest.fixture
def model(client: openai.OpenAI) -> str:
    (entry,) = client.models.list()
    assert entry.owned_by == "local"
    assert (entry.model_extra or {})["context_length"] == 4096
    return entry.id


def user(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def test_a_conversation_is_read_once(client: openai.OpenAI, model: str) -> None:
    first = client.chat.completions.create(model=model, messages=user("Hello " * 40), max_tokens=12, seed=SEED)
    assert first.usage is not None
    assert (first.choices[0].finish_reason, first.usage.completion_tokens) == ("length", 12)
    again = client.chat.completions.create(model=model, messages=user("Hello " * 40 + "you"), max_tokens=4, seed=SEED)
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert (again.usage.prompt_tokens_details.cached_tokens or 0) > 40


def test_the_stream_and_the_whole_are_the_same_tokens(client: openai.OpenAI, model: str) -> None:
    def ask(stream: bool) -> tuple[str, list[str]]:
        said, tokens = "", []
        made = client.chat.completions.create(  # type: ignore[call-overload]
            model=model,
            messages=user("Tell me."),
            max_tokens=8,
            temperature=0,
            logprobs=True,
            top_logprobs=2,
            stream=stream,
            extra_body={"chat_template_kwargs": {"enable_thinking": False}},
        )
        for part in made if stream else [made]:
            choice = part.choices[0]
            said += (choice.delta if stream else choice.message).content or ""
            for token in choice.logprobs.content if choice.logprobs else ():
                assert token.logprob <= 0
                assert len(token.top_logprobs) == 2
                assert token.top_logprobs[0].token == token.token  # greedy
                tokens.append(token.token)
        return said, tokens

    streamed = ask(True)
    assert streamed == ask(False)
    assert 0 < len(streamed[1]) <= 8
    assert streamed[0]


def test_a_schema_holds(client: openai.OpenAI, model: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "word", "schema": {"enum": ["yes", "no"]}}}
    made = client.chat.completions.create(
        model=model,
        messages=user("Well?"),
        response_format=wanted,
        max_tokens=30,
        seed=SEED,  # type: ignore[arg-type, call-overload]
    )
    assert json.loads(made.choices[0].message.content) in {"yes", "no"}


def test_a_prompt_that_does_not_fit(client: openai.OpenAI, model: str) -> None:
    for stream in (True, False):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model=model, messages=user("word " * 9000), stream=stream)
        assert refused.value.code == "context_length_exceeded"


def test_several_ask_at_once_and_one_leaves(client: openai.OpenAI, model: str) -> None:
    def ask(number: int) -> int:
        made = client.chat.completions.create(
            model=model, messages=user(f"Number {number}."), max_tokens=6, seed=number
        )
        assert made.usage is not None
        return made.usage.completion_tokens

    left = client.chat.completions.create(model=model, messages=user("On and on."), stream=True, seed=SEED)
    assert next(iter(left)).choices
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, number) for number in range(4)]
        left.close()
        assert [each.result(60) for each in asked] == [6] * 4
