"""Spans for OpenTelemetry, as a real OTLP/HTTP receiver on loopback gets them from the real program."""

from __future__ import annotations

import gzip
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from laguna_agent.agent import otel
from laguna_agent.agent.otel import open_exporter
from laguna_agent.errors import UsageError
from tests.conftest import RunCli
from tests.model_server import ModelServer, http, text, tool_call

TOKEN = "ghp_" + "a1B2" * 9
HEADERS = "authorization=Bearer%20an-otlp-key-0123456789"


class Receiver:
    """Takes spans; `spans` are plain dictionaries by the order in which they ended, `headers` those of each request."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        self.resource: dict[str, Any] = {}
        self.headers: list[dict[str, str]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.take(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.env = {
            "LAGUNA_OTEL": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._http.server_address[1]}",
            "OTEL_EXPORTER_OTLP_HEADERS": HEADERS,
        }

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        assert path == "/v1/traces"
        self.headers.append(headers)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = _plain(resource.resource.attributes)
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        {
                            "name": span.name,
                            "id": span.span_id,
                            "parent": span.parent_span_id,
                            "trace": span.trace_id,
                            "kind": span.kind,
                            "status": span.status.code,
                            "seconds": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                            "attributes": _plain(span.attributes),
                        }
                    )

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def _plain(attributes: Any) -> dict[str, Any]:
    found = {}
    for each in attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        found[each.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    listening = Receiver()
    yield listening
    listening.close()


def work(server: ModelServer, workspace: Path) -> None:
    (workspace / "a").write_text("forty-two\n")
    server.reply(
        tool_call("read", {"path": "a"}), tool_call("shell", {"command": f"echo {TOKEN}; exit 3"}), text("Yes.")
    )


def test_spans_of_a_run(model_server: ModelServer, workspace: Path, run_cli: RunCli, receiver: Receiver) -> None:
    work(model_server, workspace)
    env = model_server.env | receiver.env | {"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test"}
    done = run_cli("run", "A private matter", "--approve=all", "--output=json", env=env)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    names = [span["name"] for span in receiver.spans]
    assert names == [
        "chat test-model", "execute_tool read", "chat test-model", "execute_tool shell", "chat test-model",
        "invoke_agent laguna-agent",
    ]  # fmt: skip
    *parts, prompt = receiver.spans
    assert {span["parent"] for span in parts} == {prompt["id"]}
    assert prompt["parent"] == b""
    assert len({span["trace"] for span in receiver.spans}) == 1
    chat, read = parts[:2]
    told = chat["attributes"]
    assert told["gen_ai.operation.name"] == "chat"
    assert (told["gen_ai.request.model"], told["gen_ai.conversation.id"]) == ("test-model", record["session_id"])
    assert (told["gen_ai.response.finish_reasons"], told["http.response.status_code"]) == (["tool_calls"], 200)
    assert told["gen_ai.usage.input_tokens"] > 0
    assert told["gen_ai.usage.output_tokens"] > 0
    assert (chat["kind"], read["kind"]) == (3, 1)  # client, internal
    assert (read["attributes"]["gen_ai.tool.name"], read["attributes"]["gen_ai.tool.call.id"]) == ("read", "call_1")
    assert parts[3]["attributes"]["process.exit.code"] == 3
    assert prompt["seconds"] >= sum(span["seconds"] for span in parts) * 0.9
    assert prompt["attributes"]["laguna.outcome"] == "completed"
    assert (receiver.resource["service.name"], receiver.resource["deployment.environment"]) == ("laguna-agent", "test")
    assert receiver.headers[0]["authorization"] == "Bearer an-otlp-key-0123456789"
    everything = str(receiver.spans)
    for private in ("private", "forty-two", "echo", "Yes."):
        assert private not in everything


def test_texts_go_out_only_when_asked_and_without_secrets(
    model_server: ModelServer, workspace: Path, run_cli: RunCli, receiver: Receiver
) -> None:
    work(model_server, workspace)
    env = model_server.env | receiver.env | {"LAGUNA_OTEL_CONTENT": "true", "OTEL_SERVICE_NAME": "mine"}
    assert run_cli("run", "A private matter", "--approve=all", env=env).returncode == 0
    by_name = {span["name"]: span["attributes"] for span in receiver.spans}
    last = by_name["chat test-model"]
    assert "A private matter" in last["gen_ai.input.messages"]
    assert "Yes." in last["gen_ai.output.messages"]
    assert "forty-two" in by_name["execute_tool read"]["gen_ai.tool.call.result"]
    assert "exit 3" in by_name["execute_tool shell"]["gen_ai.tool.call.arguments"]
    assert TOKEN not in str(receiver.spans)
    assert receiver.resource["service.name"] == "mine"


def test_what_goes_wrong_is_in_the_span(model_server: ModelServer, run_cli: RunCli, receiver: Receiver) -> None:
    model_server.reply(http(401, {"error": {"message": "no"}}))
    assert run_cli("run", "x", env=model_server.env | receiver.env).returncode == 3
    chat, prompt = receiver.spans
    assert (chat["attributes"]["error.type"], chat["status"]) == ("AuthenticationFailed", 2)
    assert chat["attributes"]["http.response.status_code"] == 401
    assert prompt["attributes"]["laguna.outcome"] == "provider_error"


def test_nobody_listens(model_server: ModelServer, run_cli: RunCli, receiver: Receiver) -> None:
    receiver.close()
    model_server.reply(text("Yes."))
    began = time.monotonic()
    done = run_cli("run", "x", "--output=json", env=model_server.env | receiver.env)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < otel.PATIENCE + 10


@pytest.mark.parametrize("off", [{}, {"LAGUNA_OTEL": "false"}])
def test_off_means_that_nothing_is_loaded_or_sent(
    model_server: ModelServer, run_cli: RunCli, receiver: Receiver, off: dict[str, str], tmp_path: Path
) -> None:
    """The variables of other programs do not turn it on."""
    spy = tmp_path / "spy"
    spy.mkdir()
    (spy / "sitecustomize.py").write_text(
        "import atexit, sys\n"
        "@atexit.register\n"
        "def tell():\n"
        "    print('loaded:', [m for m in sys.modules if m.startswith('opentelemetry.sdk')], file=sys.stderr)\n"
    )
    env = model_server.env | receiver.env | {"PYTHONPATH": f"{spy}{os.pathsep}{os.environ['PYTHONPATH']}"}
    del env["LAGUNA_OTEL"]
    model_server.reply(text("Yes."))
    done = run_cli("run", "x", "--output=json", env=env | off)
    assert (done.returncode, "loaded: []" in done.stderr) == (0, True)
    assert not receiver.spans


def test_without_the_extra_the_person_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otel, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'laguna-agent\[otel\]'"):
        open_exporter("x", content=False)
