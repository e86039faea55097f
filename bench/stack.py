"""The whole product, started as a user starts it, and a client that waits for what a user waits for."""

import io
import json
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.demo import demo_model
from bench.jobs import BATCH, EPOCHS, STEPS, Done, Submission
from bench.measure import Settings
from bench.processes import free_port, running

#: For the engine to start, and for any one answer.
PATIENCE = 600.0
#: For the whole stack to end by itself.
GRACE = 60.0


@dataclass(frozen=True, slots=True)
class Answered:
    """A new model that has answered."""

    model: str
    #: From POST to its first token.
    seconds: float
    #: The data of every event of its job.
    events: Sequence[Mapping[str, Any]]


class Client:
    """Asks graft over HTTP."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def train(self, submitted: Submission) -> Answered:
        """POST, follow the job's events to the end, ask the new model for one token."""
        began = time.perf_counter()
        answer = self._http.post("/finetune", json=_request(submitted))
        assert answer.status_code == 202, answer.text
        events, job = self._follow(answer.json()["links"]["events"])
        assert job["status"] == "succeeded", job["error"]
        model = job["adapter"]["version"]
        self._first_token(model, submitted)
        took = time.perf_counter() - began
        return Answered(model, took, events)

    def look_at(self, answered: Answered) -> Done:
        """How its training went. Downloads the adapter, for which nobody waits before it answers."""
        steps = [event for event in answered.events if "grad_norm" in event]
        (begun,) = [event for event in answered.events if "tokens_per_epoch" in event]
        assert begun["total_steps"] == STEPS, begun
        return Done(
            seconds=answered.seconds,
            training_seconds=self._manifest(answered.model)["result"]["seconds"],
            losses=tuple(step["train_loss"] for step in steps),
            grad_norms=tuple(step["grad_norm"] for step in steps),
            tokens=EPOCHS * begun["tokens_per_epoch"],
        )

    def wait_until_ready(self) -> None:
        """Every engine answers."""
        deadline = time.monotonic() + PATIENCE
        while not self._ready():
            assert time.monotonic() < deadline, "graft did not come up"
            time.sleep(0.2)

    def _ready(self) -> bool:
        try:
            return self._http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def _follow(self, path: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The data of every event, and the job as it ended."""
        events: list[dict[str, Any]] = []
        kind = ""
        with self._http.stream("GET", path) as stream:
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    data = json.loads(line.removeprefix("data: "))
                    if kind == "done":
                        return events, data
                    events.append(data.get("data") or {})
        raise AssertionError("the events ended before the job did")

    def _first_token(self, model: str, submitted: Submission) -> None:
        messages = submitted.rows[0]["messages"][:-1]
        body = {"model": model, "messages": messages, "max_tokens": 1, "temperature": 0}
        answer = self._http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == model, answer.text

    def _manifest(self, model: str) -> Mapping[str, Any]:
        packed = self._http.get(f"/adapters/{model}/download")
        assert packed.status_code == 200, packed.text
        with tarfile.open(fileobj=io.BytesIO(packed.content)) as tar:
            (name,) = [name for name in tar.getnames() if name.endswith("graft.json")]
            file = tar.extractfile(name)
            assert file is not None
            manifest: Mapping[str, Any] = json.load(file)
            return manifest


@contextmanager
def graft_up(settings: Settings) -> Iterator[Client]:
    """`graft up` with its own defaults, in a home of its own that borrows the prepared base model."""
    demo_model(settings)
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as directory:
        home = Path(directory)
        (home / "models").symlink_to(settings.home / "models")
        port = free_port()
        with (
            running(_command(home, port), home / "up.log", grace=GRACE),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as http,
        ):
            client = Client(http)
            client.wait_until_ready()
            yield client


def _command(home: Path, port: int) -> list[str]:
    """Nothing that the caller's environment says of graft reaches it."""
    start = "from cli.main import app; app()"
    return [
        "env",
        *("-u", "GRAFT_DATABASE_URL", "-u", "GRAFT_HOME", "-u", "GRAFT_BASE_MODELS"),
        *("-u", "GRAFT_CONFIG", sys.executable, "-c", start),
        *("up", "--port", str(port), "--home", str(home)),
    ]


def _request(submitted: Submission) -> dict[str, Any]:
    return {
        "name": submitted.name,
        "data": list(submitted.rows),
        "batch_size": BATCH,
        "n_epochs": EPOCHS,
        "validation_split": 0,
        "gate": "off",
    }
