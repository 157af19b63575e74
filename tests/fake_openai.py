"""A server that speaks enough of OpenAI's HTTP for tests: it answers, counts, and fails as it is told."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

SENTINEL = "sk-sentinel-5f2d7c91e0"
TOKENS = (700, 12)  # read and written, of every answer


def picture_of(body: dict[str, Any]) -> Image.Image:
    """What a request shows."""
    (url,) = (part["image_url"]["url"] for part in body["messages"][-1]["content"] if part["type"] == "image_url")
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def fingerprint(body: dict[str, Any]) -> str:
    """Tells requests apart by what they show."""
    return hashlib.sha256(json.dumps(body["messages"][-1]["content"][-1]).encode()).hexdigest()[:12]


def said_of(body: dict[str, Any]) -> str:
    """An answer that names what was shown."""
    return f"a thing {fingerprint(body)}"


def completion(text: str | None, *, tokens: tuple[int, int] | None = TOKENS, **message: Any) -> dict[str, Any]:
    finish = message.pop("finish", "stop")
    usage = {} if tokens is None else {"usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}}
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    return {"object": "chat.completion", "choices": [choice], **usage}


class FakeOpenAI:
    """What the server holds and does; tests look into it and change it.

    ``answer`` makes the completion of a request's body; ``trouble`` is asked first, and may return (status, headers,
    raw body) to send instead, or the number of seconds to sleep before the answer.
    """

    def __init__(self) -> None:
        self.url = ""
        self.lock = threading.Lock()
        self.asked: Counter[str] = Counter()  # answers sent or put into a batch, by fingerprint
        self.chats: list[dict[str, Any]] = []  # bodies of live requests, failed ones too
        self.headers: list[dict[str, str]] = []
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.cost_tokens = [0, 0]  # what a bill would be made of
        self.in_flight = self.most_in_flight = 0
        self.answer: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: completion(said_of(body))
        self.trouble: Callable[[dict[str, Any], int], Any] = lambda body, number: None
        self.batch_trouble: Callable[[dict[str, Any], list[dict[str, Any]]], None] = lambda batch, lines: None
        self.polls_needed = 1
        self.requests = 0  # of every kind
        self.lists_batches = True

    def serve(self, body: dict[str, Any]) -> dict[str, Any]:
        """A completion, counted and charged."""
        found = self.answer(body)
        with self.lock:
            self.asked[fingerprint(body)] += 1
            usage = found.get("usage") or {"prompt_tokens": TOKENS[0], "completion_tokens": TOKENS[1]}
            self.cost_tokens[0] += usage["prompt_tokens"]
            self.cost_tokens[1] += usage["completion_tokens"]
        return found

    def cost(self, read: float, written: float) -> float:
        return (self.cost_tokens[0] * read + self.cost_tokens[1] * written) / 1e6

    def finish(self, batch: dict[str, Any]) -> None:
        """Answer a batch; ``batch_trouble`` may change its state and its lines."""
        lines = []
        for raw in self.files[batch["input_file_id"]].splitlines():
            request = json.loads(raw)
            response = {"status_code": 200, "body": self.serve(request["body"])}
            lines.append({"custom_id": request["custom_id"], "response": response, "error": None})
        batch["status"] = "completed"
        self.batch_trouble(batch, lines)
        good = [line for line in lines if not isinstance(line, dict) or not line.get("error")]
        bad = [line for line in lines if isinstance(line, dict) and line.get("error")]
        for key, part in (("output_file_id", good), ("error_file_id", bad)):
            if part and batch["status"] != "failed":
                name = f"file-{len(self.files)}"
                raw = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in part)
                self.files[name] = raw.encode()
                batch[key] = name


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeOpenAI

    def log_message(self, *_: Any) -> None:
        pass

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        given = headers or {}
        for name, value in {"Content-Length": str(len(raw)), **given}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(raw)
        except OSError:
            pass
        if given:
            self.close_connection = True

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self) -> None:
        fake, raw = self.fake, self._body()
        with fake.lock:
            fake.headers.append(dict(self.headers))
            fake.requests += 1
        if self.path.endswith("/chat/completions"):
            body = json.loads(raw)
            with fake.lock:
                fake.chats.append(body)
                number = len(fake.chats)
                fake.in_flight += 1
                fake.most_in_flight = max(fake.most_in_flight, fake.in_flight)
            try:
                self._chat(body, number)
            finally:
                with fake.lock:
                    fake.in_flight -= 1
        elif self.path.endswith("/files"):
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n"
            message = BytesParser().parsebytes(head.encode() + raw)
            parts = {part.get_param("name", header="content-disposition"): part for part in message.get_payload()}
            assert parts["purpose"].get_payload() == "batch"
            with fake.lock:
                name = f"file-{len(fake.files)}"
                fake.files[name] = parts["file"].get_payload(decode=True)
            self._send(200, {"id": name, "object": "file"})
        elif self.path.endswith("/batches"):
            wanted = json.loads(raw)
            trouble = fake.trouble({"batch": wanted}, 0)
            with fake.lock:
                name = f"batch_{len(fake.batches)}"
                fake.batches[name] = {"id": name, "status": "in_progress", "polls": 0, **wanted}
            if trouble is not None:
                self._send(*trouble)
            else:
                self._send(200, {k: v for k, v in fake.batches[name].items() if k != "polls"})
        else:
            self._send(404, b"not found")

    def _chat(self, body: dict[str, Any], number: int) -> None:
        trouble = self.fake.trouble(body, number)
        if isinstance(trouble, tuple):
            status, headers, content = trouble
            self._send(status, content, headers)
            return
        found = self.fake.serve(body)
        if trouble is not None:
            time.sleep(trouble)
        self._send(200, found)

    def do_GET(self) -> None:
        fake = self.fake
        path = self.path.partition("?")[0]
        with fake.lock:
            fake.requests += 1
        if path.endswith("/batches"):
            if not fake.lists_batches:
                self._send(404, {"error": {"message": "no such thing"}})
                return
            self._send(200, {"data": [*fake.batches.values()][::-1], "has_more": False})
        elif found := re.search(r"/batches/([\w.-]+)$", path):
            batch = fake.batches.get(found[1])
            if batch is None:
                self._send(404, {"error": {"message": "no such batch"}})
                return
            with fake.lock:
                batch["polls"] += 1
                if batch["status"] == "in_progress" and batch["polls"] >= fake.polls_needed:
                    due = True
                else:
                    due = False
            if due:
                fake.finish(batch)
            self._send(200, batch)
        elif found := re.search(r"/files/([\w.-]+)/content$", path):
            self._send(200, fake.files[found[1]])
        else:
            self._send(404, b"not found")


@contextmanager
def fake_openai() -> Iterator[FakeOpenAI]:
    """A running server on this machine."""
    fake = FakeOpenAI()
    handler = type("Handler", (_Handler,), {"fake": fake})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
