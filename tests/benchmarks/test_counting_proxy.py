"""The proxy counts what the server says, for whole, streamed and broken-off answers."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from counting_proxy import CountingProxy

CHUNKS = 40


class LlamaLike(BaseHTTPRequestHandler):
    """Answers as llama.cpp does: `timings` in whole answers, and in each chunk where the request asks for them."""

    def do_GET(self) -> None:
        self._send("application/json", b'{"n_ctx": 16384}')

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path.endswith("/tokenize"):
            return self._send("application/json", b'{"tokens": [1]}')
        if request.get("fail"):
            self.send_response(400)
            self.end_headers()
            self.wfile.write(b'{"error": {"message": "no"}}')
            return None
        if not request.get("stream"):
            answer = {"choices": [{"message": {"content": "whole"}}], "timings": timings(7)}
            return self._send("application/json", json.dumps(answer).encode())
        assert request["timings_per_token"] is True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for number in range(1, CHUNKS + 1):
            chunk = {"choices": [{"delta": {"content": f"{number} "}}], "timings": timings(number)}
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            self.wfile.flush()
            if request.get("slow"):
                time.sleep(0.05)
        self.wfile.write(b"data: [DONE]\n\n")
        return None

    def _send(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def timings(predicted: int) -> dict[str, int]:
    return {"cache_n": 100, "prompt_n": 20, "predicted_n": predicted}


@pytest.fixture
def proxy() -> Iterator[CountingProxy]:
    with ThreadingHTTPServer(("127.0.0.1", 0), LlamaLike) as upstream:
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        with CountingProxy(f"http://127.0.0.1:{upstream.server_address[1]}") as counting:
            yield counting
            counting.shutdown()
        upstream.shutdown()


def post(proxy: CountingProxy, **fields: object) -> bytes:
    body = json.dumps({"messages": [], **fields}).encode()
    url = f"{proxy.url}/v1/chat/completions"
    headers = {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
        data: bytes = answer.read()
        return data


def test_whole_and_streamed_answers_are_counted_alike(proxy: CountingProxy) -> None:
    assert json.loads(post(proxy))["choices"][0]["message"]["content"] == "whole"
    assert post(proxy, stream=True).endswith(b"data: [DONE]\n\n")
    whole, streamed = proxy.take()
    assert (whole.prompt_tokens, whole.cached_tokens, whole.completion_tokens, whole.answer) == (120, 100, 7, "whole")
    assert (streamed.prompt_tokens, streamed.completion_tokens) == (120, CHUNKS)
    assert streamed.answer.split()[-1] == str(CHUNKS)
    assert proxy.take() == []


def test_an_answer_the_client_breaks_off_is_counted_to_where_it_came(proxy: CountingProxy) -> None:
    host, port = proxy.server_address[:2]
    body = json.dumps({"messages": [], "stream": True, "slow": True}).encode()
    with socket.create_connection((str(host), int(port))) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        client.recv(4096)
    time.sleep(0.3)
    (exchange,) = proxy.take()
    assert exchange.broken_off
    assert 0 < exchange.completion_tokens < CHUNKS
    assert exchange.prompt_tokens == 120


def test_what_still_runs_upstream_is_broken_off_when_the_exchanges_are_taken(proxy: CountingProxy) -> None:
    thread = threading.Thread(target=lambda: post(proxy, stream=True, slow=True))
    thread.start()
    time.sleep(0.3)
    started = time.monotonic()
    (exchange,) = proxy.take()
    assert time.monotonic() - started < 1
    assert exchange.completion_tokens < CHUNKS
    thread.join()


def test_an_error_reaches_the_client_and_other_paths_are_not_counted(proxy: CountingProxy) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        post(proxy, fail=True)
    assert error.value.code == 400
    assert b"no" in error.value.read()
    urllib.request.urlopen(urllib.request.Request(f"{proxy.url}/tokenize", b"{}")).read()
    with urllib.request.urlopen(f"{proxy.url}/props") as answer:
        assert json.load(answer) == {"n_ctx": 16384}
    (exchange,) = proxy.take()
    assert (exchange.status, exchange.completion_tokens) == (400, 0)


def test_a_dead_server_is_an_error_the_client_sees() -> None:
    with CountingProxy("http://127.0.0.1:9") as proxy:
        with pytest.raises(urllib.error.HTTPError) as error:
            post(proxy)
        assert error.value.code == 502
        proxy.shutdown()
