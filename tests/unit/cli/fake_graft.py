"""A small server that speaks the service's contract, on a socket."""

import json
from email.message import Message
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def job(status: str = "running", **more: Any) -> dict[str, Any]:
    return {
        "id": "ftjob-1",
        "object": "fine_tuning.job",
        "status": status,
        "phase": "training" if status == "running" else status,
        "model": "base",
        "fine_tuned_model": "ft:base:graft:support-bot:aB3dE6gH" if status == "succeeded" else None,
        "hyperparameters": {"n_epochs": 3},
        "created_at": 1_790_000_000,
        "finished_at": None,
        "error": None,
        "trained_tokens": 1234,
        "progress": {"percent": 40.0, "step": 4, "total_steps": 10, "train_loss": 1.5,
                     "valid_loss": 1.25, "base_valid_loss": 2.5, "eta_seconds": 125},
        "queue": None,
        "adapter": {"name": "support-bot", "version": "support-bot@2" if status == "succeeded" else None},
        "from_the_future": True,
    } | more  # fmt: skip


def event(seq: int, kind: str, data: Any = None, message: str = "") -> str:
    """As the service writes it: the body's `type` knows only OpenAI's two."""
    body = {
        "object": "fine_tuning.job.event",
        "id": f"ftevent-1-{seq}",
        "created_at": 1_790_000_000,
        "level": "info",
        "message": message,
        "type": "metrics" if kind == "metrics" else "message",
        "data": data,
    }
    return f"id: {seq}\nevent: {kind}\ndata: {json.dumps(body)}\n\n"


def metrics(seq: int, step: int) -> str:
    data = {"step": step, "total_steps": 10, "train_loss": 3.0 - step / 5, "percent": step * 10.0,
            "tokens_per_second": 900.0, "eta_seconds": 10 - step}  # fmt: skip
    return event(seq, "metrics", data)


def done(**more: Any) -> str:
    return f"event: done\ndata: {json.dumps(job(**more))}\n\n"


class FakeGraft:
    """Answers prepared by method and path; a list of answers is given out one by one. Remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, Message, bytes]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.server.daemon_threads = False
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def handler(fake) -> type[BaseHTTPRequestHandler]:  # noqa: N805  the handler has the `self`
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                key = f"{self.command} {self.path}"
                fake.asked.append((key, self.headers, body))
                answer = fake.answers.get(key, (404, {"error": {"message": f"no {key}"}}))
                if isinstance(answer, list):
                    answer = answer.pop(0)
                status, content = answer if isinstance(answer, tuple) else (200, answer)
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                kind = "application/json"
                if isinstance(content, str):
                    raw, kind = content.encode(), "text/event-stream"
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("connection", "close")
                if isinstance(content, bytes) and content.startswith(b"half"):
                    self.send_header("content-length", str(len(content) * 2))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815  as http.server wants it

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler

    def fields(self, index: int = 0) -> dict[str, str]:
        """The multipart form of a request; a file as `name: content`."""
        _, headers, body = self.asked[index]
        head = f"Content-Type: {headers['content-type']}\r\n\r\n".encode()
        parts = BytesParser().parsebytes(head + body).get_payload()
        found = {}
        for part in parts:
            name = part.get_param("name", header="content-disposition")
            text = part.get_payload(decode=True).decode()
            found[name] = f"{part.get_filename()}: {text}" if part.get_filename() else text
        return found
