"""The generated Structs: the same again when generated, and as lenient as the official schema says."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.acp import schema
from laguna_agent.acp.decoding import decode
from tests.acp.official import require_valid
from tests.conftest import ROOT

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda v: st.lists(v, max_size=2) | st.dictionaries(st.text(max_size=3), v, max_size=2),
)


def test_the_checked_in_schema_is_what_the_generator_writes() -> None:
    script = ROOT / "scripts" / "generate_acp_schema.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_type_of_the_generated_module_resolves() -> None:
    structs = [kind for kind in vars(schema).values() if isinstance(kind, type) and issubclass(kind, schema.Wire)]
    assert len(structs) > 60
    for kind in structs:
        msgspec.json.Decoder(kind)


@given(
    noise=st.dictionaries(
        st.sampled_from(["clientCapabilities", "clientInfo", "_meta", "foreign"]), json_values, max_size=4
    ),
    fs=json_values | st.fixed_dictionaries({"readTextFile": st.just(True), "writeTextFile": json_values}),
)
def test_initialize_survives_whatever_an_editor_puts_into_optional_fields(noise: dict[str, Any], fs: Any) -> None:
    request = decode({**noise, "protocolVersion": 1}, schema.InitializeRequest)
    assert request.protocol_version == 1
    capabilities = decode({"fs": fs, "terminal": "yes"}, schema.ClientCapabilities)
    assert capabilities.terminal is False
    if isinstance(fs, dict) and fs.get("readTextFile") is True:
        assert capabilities.fs.read_text_file


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"sessionId": 1, "prompt": []}, "$.sessionId"),
        ({"prompt": []}, "sessionId"),
        ({"sessionId": "s", "prompt": [{"type": "text", "text": 3}]}, "$.prompt[0].text"),
        ({"sessionId": "s", "prompt": [{"type": "hologram"}]}, "$.prompt[0].type"),
        ({"sessionId": "s", "prompt": [{"type": "text", "text": "a", "annotations": 3}, 5]}, "$.prompt[1]"),
        ([], "object"),
    ],
)
def test_what_is_required_must_be_right(value: Any, where: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        decode(value, schema.PromptRequest)
    assert where in str(caught.value)


def test_a_wrong_optional_field_deep_inside_counts_as_absent() -> None:
    block = {"type": "resource_link", "uri": "file:///a", "name": "a", "size": "large", "annotations": {"priority": []}}
    request = decode({"sessionId": "s", "prompt": [block]}, schema.PromptRequest)
    assert request.prompt == [schema.ResourceLink(uri="file:///a", name="a", annotations=schema.Annotations())]


def test_meta_overrides_nothing() -> None:
    forged = {"sessionId": "FORGED", "session_id": "FORGED"}
    request = decode({"sessionId": "s", "prompt": [], "session_id": "FORGED", "_meta": forged}, schema.PromptRequest)
    assert (request.session_id, request.meta) == ("s", forged)


def test_servers_may_be_null_but_their_folders_must_be_a_list() -> None:
    assert decode({"cwd": "/", "mcpServers": None}, schema.NewSessionRequest).mcp_servers is None
    stdio = {"name": "a", "command": "b", "args": [], "env": [{"name": "X", "value": "1"}]}
    http = {"type": "http", "name": "c", "url": "http://localhost", "headers": []}
    servers = decode({"cwd": "/", "mcpServers": [stdio, http]}, schema.NewSessionRequest).mcp_servers
    assert servers is not None
    assert [server.type for server in servers] == [None, "http"]
    with pytest.raises(msgspec.ValidationError, match="additionalDirectories"):
        decode({"cwd": "/", "mcpServers": [], "additionalDirectories": "x"}, schema.NewSessionRequest)


def test_defaults_are_left_out_and_the_rest_is_valid() -> None:
    response = schema.InitializeResponse(
        protocol_version=1,
        agent_capabilities=schema.AgentCapabilities(load_session=True),
        auth_methods=[schema.AuthMethod(id="a", name="A")],
    )
    wire = msgspec.json.decode(msgspec.json.encode(response))
    assert wire == {
        "protocolVersion": 1,
        "agentCapabilities": {"loadSession": True},
        "authMethods": [{"id": "a", "name": "A"}],
    }
    require_valid(wire, "InitializeResponse")
