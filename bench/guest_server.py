"""What runs in the sandbox that `bench.ports` measures: a plain HTTP server, and its client. Standard library only.

`guest_server.py` serves; `guest_server.py COUNT` asks so many times and prints the seconds that each request took.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time

PORT = 8000
LARGE = 256 * 1024 * 1024
_PIECE = 1024 * 1024


def serve() -> None:
    """Answer each connection in a thread."""
    with socket.create_server(("127.0.0.1", PORT), backlog=512) as server:
        print("listens", flush=True)
        while True:
            threading.Thread(target=_answer, args=(server.accept()[0],), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    """Take a request with its body, and answer with 2 bytes, or with many if its path is /large."""
    with connection:
        got = b""
        while b"\r\n\r\n" not in got:
            piece = connection.recv(_PIECE)
            if not piece:
                return
            got += piece
        head, _, body = got.lower().partition(b"\r\n\r\n")
        _, _, length = head.partition(b"content-length:")
        missing = int(length.split()[0]) - len(body) if length else 0
        while missing > 0:
            missing -= len(connection.recv(_PIECE))
        size = LARGE if head.startswith(b"get /large ") else 2
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % size)
        for sent in range(0, size, _PIECE):
            connection.sendall(bytes(min(_PIECE, size - sent)))


def ask(count: int) -> list[float]:
    """Ask one time after the other; the seconds of each."""
    took: list[float] = []
    for _ in range(count):
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", PORT)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            while connection.recv(_PIECE):
                pass
        took.append(time.monotonic() - began)
    return took


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(ask(int(sys.argv[1]))))
    else:
        serve()
