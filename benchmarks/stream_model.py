"""A model that streams at a rate that it is told in the prompt: "Stream 400 tokens at 200 a second".

Its answer is markdown as coding agents write it, half of it code, a token for every four characters. Any other prompt
is answered at once, with a line. It speaks OpenAI chat completions, and knows no agent. `own_process` runs it:

    python benchmarks/stream_model.py 0
"""

from __future__ import annotations

import json
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from own_process import serve_until_left

MODEL = "stream-model"
LAST = "That was all of it."
SECTION = """\
## Part {number}

The reader takes **one piece** after the other and hands it on, so `next_piece` never waits for more than it was asked
for; what is left over stays where it is until the next call.

```python
def next_piece(self, wanted: int) -> bytes:
    while len(self.kept) < wanted and (more := self.source.read(4096)):
        self.kept += more  # part {number}
    piece, self.kept = self.kept[:wanted], self.kept[wanted:]
    return piece
```

- it ends where the source ends
- `wanted` is never more than `LIMIT`

"""


def pieces(tokens: int) -> list[str]:
    """The answer in its tokens."""
    text = ""
    number = 0
    while len(text) < tokens * 4:
        number += 1
        text += SECTION.format(number=number)
    return [text[at : at + 4] for at in range(0, tokens * 4, 4)] + [f"\n```\n\n{LAST}\n"]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._plain({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.path.endswith("/chat/completions"):
            # What it is asked to find out what server it is.
            self.send_error(404)
            return
        asked = re.findall(r"Stream (\d+) tokens at (\d+) a second", json.dumps(body["messages"][-1]))
        count, rate = map(int, asked[-1]) if asked else (0, 1)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        began = time.monotonic()
        try:
            for number, piece in enumerate(pieces(count) if count else ["Yes, as you say.\n"]):
                time.sleep(max(0.0, began + number / rate - time.monotonic()))
                self._event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
            self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            self._event({"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": count, "total_tokens": 0}})
            self._chunk(b"data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            # The client has hung up, as one that is interrupted does.
            self.close_connection = True

    def _event(self, data: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps({"id": "c", "model": MODEL, **data}).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _plain(self, data: dict[str, Any]) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """Whoever kills a client in the middle of a stream means it."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


if __name__ == "__main__":
    server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
    serve_until_left(server)
