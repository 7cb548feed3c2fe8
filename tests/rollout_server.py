"""A stand-in for a vLLM server, on loopback in a thread: its routes, and the faults that a test asks for.

It samples nothing: a response's tokens are counted up from its seed, so it says by its tokens which request it is for.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Set its attributes to make it another server."""

    daemon_threads = True
    request_queue_size = 128
    root = "/elsewhere"  # the directory that it was started with
    weights = "default"  # the name of those that it holds
    developing = True  # whether it has the routes that exchange weights
    scale_out = True  # whether it has the route that says which weights sampled
    raw = False  # log-probabilities before temperature and truncation
    loads = True  # whether its worker knows how to take weights
    together = 1  # how many requests for responses must have come before it answers the first

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.faults: list[tuple[int, str]] = []  # what the next requests for responses get: status and message
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.most_in_flight = self.in_flight = 0
        self.lock = threading.Lock()
        self.enough = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def seeds(self) -> list[int]:
        """Of the requests for responses, as they came."""
        bodies = [body.get("sampling_params", body) for route, body in self.asked if route in ROUTES]
        return [body["seed"] for body in bodies if body.get("seed")]

    def handle_error(self, request: object, address: object) -> None:
        pass


ROUTES = ("/inference/v1/generate", "/v1/completions")


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        if self.path == "/v1/models":
            self.send({"data": [{"id": "m", "root": server.root, "max_model_len": 256}]})
        elif self.path == "/weight_info" and server.developing:
            self.send({"weight_version": server.weights})
        else:
            self.send({"detail": "Not Found"}, 404)

    def do_POST(self) -> None:
        server, route = self.server, self.path.partition("?")[0]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
        server.asked.append((route, body))
        if route in ROUTES:
            with server.lock:
                server.in_flight += 1
                server.most_in_flight = max(server.most_in_flight, server.in_flight)
                if server.in_flight >= server.together:
                    server.enough.set()
            server.enough.wait(60)
            self.respond(route, body)
            with server.lock:
                server.in_flight -= 1
        elif not server.developing:
            self.send({"detail": "Not Found"}, 404)
        elif route == "/collective_rpc" and not server.loads:
            self.send({"error": {"message": "'Worker' object has no attribute 'entropyctl_load'"}}, 500)
        else:
            server.weights = body.get("new_version", server.weights)
            self.send({"success": True})

    def respond(self, route: str, body: dict[str, Any]) -> None:
        if route == ROUTES[0] and not self.server.scale_out:
            self.send({"error": {"message": "Scale-out endpoints are disabled."}}, 403)
            return
        wanted = body["sampling_params"] if route == ROUTES[0] else body
        if wanted.get("seed") and self.server.faults:
            status, message = self.server.faults.pop(0)
            self.send({"error": {"message": message}} if status != 200 else message, status)
            return
        count = wanted["max_tokens"]
        tokens = [(wanted.get("seed", 0) + i) % 250 + 1 for i in range(count)]
        logprob = 0.0 if wanted.get("top_k") == 1 and not self.server.raw else -0.5
        choice = {"token_ids": tokens, "finish_reason": "length"}
        if route == ROUTES[0]:
            choice["logprobs"] = {"content": [{"token_id": token, "logprob": logprob} for token in tokens]}
            choice["weight_versions"] = [{"version": self.server.weights, "start": 0, "end": count}]
        else:
            choice["logprobs"] = {"token_logprobs": [logprob] * count}
        self.send({"choices": [choice]})

    def send(self, body: object, status: int = 200) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def running(port: int = 0) -> Iterator[Server]:
    server = Server(port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
