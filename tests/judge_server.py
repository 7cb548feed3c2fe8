"""A judge on loopback that behaves as the problem says: `python judge_server.py` prints its port and serves.

A problem that contains `#NAME` is answered by the function NAME below; any other honestly: a step is wrong where it
contains the word WRONG.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STEP = re.compile(r"--- (\w+) step \d+ ---\n(.*?)\n--- \1 end of step \d+ ---", re.DOTALL)
asked: Counter[str] = Counter()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.request_body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        user = self.request_body["messages"][-1]["content"]
        self.verdicts = ["wrong" if "WRONG" in text else "correct" for _, text in STEP.findall(user)]
        name = next(iter(re.findall(r"#(\w+)", user)), "honest")
        asked[name] += 1
        BEHAVIOURS[name](self)

    def send(self, status: int, body: object, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def say(self, content: object, **more: object) -> None:
        message = {"role": "assistant", "content": content, **more}
        self.send(200, {"choices": [{"message": message, "finish_reason": "stop"}]})

    def log_message(self, *words: object) -> None:
        pass


def honest(to: Handler) -> None:
    to.say(json.dumps(to.verdicts))


def busy_once(to: Handler) -> None:
    if asked["busy_once"] == 1:
        to.send(429, {"error": {"message": "slow down"}}, Retry_After="0")
    else:
        honest(to)


def cold(to: Handler) -> None:
    if "temperature" in to.request_body:
        to.send(400, {"error": {"message": "unsupported value", "param": "temperature"}})
    else:
        honest(to)


def locked(to: Handler) -> None:
    key = to.headers["Authorization"]
    if key == "Bearer sesame":
        honest(to)
    else:
        to.send(401, {"error": {"message": f"bad key {key}\x1b[31m"}})


def broken(to: Handler) -> None:
    to.send(500, b"<html>oh no</html>", Retry_After="0")


def hang(to: Handler) -> None:
    threading.Event().wait()


def drip(to: Handler) -> None:
    to.send_response(200)
    to.end_headers()
    while True:
        to.wfile.write(b" ")
        threading.Event().wait(0.05)


def refuse(to: Handler) -> None:
    to.say(None, refusal="I will not judge this")


def filtered(to: Handler) -> None:
    to.send(400, {"error": {"code": "content_filter", "message": "filtered"}})


def prose(to: Handler) -> None:
    to.say("All of these steps are correct!")


def code(to: Handler) -> None:
    to.say("__import__('os').system('touch canary') or ['correct'] * 3")


def deep(to: Handler) -> None:
    to.say("[" * 200_000)


def short(to: Handler) -> None:
    to.say(json.dumps(to.verdicts[:-1]))


def words(to: Handler) -> None:
    to.say(json.dumps([True for _ in to.verdicts]))


def no_completion(to: Handler) -> None:
    to.send(200, ["choices"])


def huge(to: Handler) -> None:
    said = {"choices": [{"message": {"content": json.dumps(to.verdicts)}}]}
    to.send(200, json.dumps(said).encode() + b" " * 2_000_000)


def endless(to: Handler) -> None:
    to.send_response(200)
    to.send_header("Transfer-Encoding", "chunked")
    to.end_headers()
    while True:
        to.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


def elsewhere(to: Handler) -> None:
    to.send(302, b"", Location=f"http://127.0.0.1:{to.server.server_address[1]}/v1/chat/completions?#honest")


def hung_up(to: Handler) -> None:
    to.close_connection = True


def chunked(to: Handler) -> None:
    said = {"choices": [{"message": {"content": json.dumps(to.verdicts)}}]}
    data = json.dumps(said).encode()
    to.send_response(200)
    to.send_header("Transfer-Encoding", "chunked")
    to.end_headers()
    for part in (data[:7], data[7:]):
        to.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
    to.wfile.write(b"0\r\n\r\n")


def thinking(to: Handler) -> None:
    to.say(f'<think>["wrong"]</think>\n\n```json\n{json.dumps(to.verdicts)}\n```')


BEHAVIOURS = {name: found for name, found in list(globals().items()) if callable(found) and name.islower()}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, address: object) -> None:
        pass  # a client that hangs up is what some tests want


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
