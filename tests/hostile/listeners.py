"""Ears outside the walls: sockets of every family that remember whoever reaches them."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from pathlib import Path

ANSWER = b"HTTP/1.0 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\nREACHED\n"


class Listeners:
    """Sockets on loopback (TCP and UDP, both IP versions where there are), on paths and an abstract name.

    `heard` counts contacts by name of the ear; one that receives nothing but a connection counts too.
    """

    def __init__(self, abstract: str, paths: dict[str, Path]) -> None:
        self.heard: dict[str, int] = {}
        self.said: list[bytes] = []
        self._selector = selectors.DefaultSelector()
        self._stop, self._order = socket.socketpair()
        self._selector.register(self._stop, selectors.EVENT_READ, "stop")
        self.tcp = self._listen("tcp", socket.AF_INET, ("127.0.0.1", 0))[1]
        self.udp = self._hear("udp", socket.AF_INET, ("127.0.0.1", 0))[1]
        with suppress(OSError):
            self._hear("udp-lite", socket.AF_INET, ("127.0.0.1", self.udp), 136)
        self.tcp6 = self._listen("tcp6", socket.AF_INET6, ("::1", 0))[1] if socket.has_ipv6 else self.tcp
        self._listen("abstract", socket.AF_UNIX, "\0" + abstract)
        for name, path in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._listen(name, socket.AF_UNIX, str(path))
            path.chmod(0o777)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._order.close()
        self._thread.join(5)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()

    def _listen(self, name: str, family: int, address: object) -> tuple[str, int]:
        ear = socket.socket(family, socket.SOCK_STREAM)
        ear.bind(address)
        ear.listen(64)
        self._selector.register(ear, selectors.EVENT_READ, ("accept", name))
        return ear.getsockname()

    def _hear(self, name: str, family: int, address: object, protocol: int = 0) -> tuple[str, int]:
        ear = socket.socket(family, socket.SOCK_DGRAM, protocol)
        ear.bind(address)
        self._selector.register(ear, selectors.EVENT_READ, ("datagram", name))
        return ear.getsockname()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data == "stop":
                    return
                self._contact(key.fileobj, *key.data)

    def _contact(self, ear: socket.socket, kind: str, name: str) -> None:
        self.heard[name] = self.heard.get(name, 0) + 1
        if kind == "datagram":
            self.said.append(ear.recv(65536))
            return
        client, _ = ear.accept()
        with client:
            client.settimeout(0.3)
            try:
                self.said.append(client.recv(65536))
                client.sendall(ANSWER)
            except OSError:
                self.said.append(b"")
