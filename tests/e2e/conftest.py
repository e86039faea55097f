"""The whole product, started as a user starts it: `graft up`, real vLLM, real training, the demo model.

Starting costs a minute or two, so all tests of a session share one, in the order of their files.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import has_nvidia_gpu
from tests.support.collector import Collector, collecting

BASE = "smollm2-135m-instruct"
REPOSITORY = Path(__file__).parents[2]
ENGINE = f"engine-{BASE}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--churn", choices=["ci", "release"], default="ci", help="size of the churn")


@dataclass
class Stack:
    """A running graft."""

    url: str
    home: Path
    http: httpx.Client

    # ---- asking

    def chat(self, model: str, question: str, **more: Any) -> dict[str, Any]:
        """One greedy answer."""
        response = self.http.post(
            "/v1/chat/completions", json=question_body(model, question, **more)
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def ask(self, model: str, question: str, **more: Any) -> str:
        """The text of one greedy answer."""
        return str(self.chat(model, question, **more)["choices"][0]["message"]["content"])

    # ---- training

    def finetune(self, rows: list[dict[str, str]], name: str, **options: Any) -> str:
        """Submit a job and return its id."""
        response = self.http.post("/finetune", json={"data": rows, "name": name, **options})
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as it is now; waits out a service that is being restarted."""
        for _ in range(200):
            try:
                response = self.http.get(f"/finetune/{job_id}")
            except httpx.TransportError:
                time.sleep(0.1)
            else:
                if response.status_code == 200:
                    return dict(response.json())
                time.sleep(0.1)
        raise AssertionError("the service did not come back")

    def wait_for(self, job_id: str, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The job once a condition holds; it must not fail before."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            job = self.job(job_id)
            if reached(job):
                return job
            assert job["status"] not in {"failed", "cancelled"}, job["error"]
            time.sleep(0.05)
        raise AssertionError(f"it never came to that: {self.job(job_id)}")

    def succeeded(self, job_id: str) -> dict[str, Any]:
        """The job once it has succeeded."""
        return self.wait_for(job_id, lambda job: job["status"] == "succeeded")

    # ---- processes

    def pid(self, name: str) -> int | None:
        """The process id of a part, by the launcher's own table."""
        table = json.loads((self.home / "run" / "processes.json").read_text())
        return table.get(name)

    def training_process(self) -> int | None:
        """The process id of the warm training process."""
        return find_process("trainer.warm", BASE, "--fd")

    def kill(self, pid: int | None) -> None:
        """kill -9."""
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def ready(self) -> bool:
        """Whether every engine answers."""
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def wait_ready(self, seconds: float = 300) -> None:
        """Return once every engine answers."""
        deadline = time.monotonic() + seconds
        while not self.ready():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)

    def logs(self) -> str:
        """The end of every log, for a failure's message."""
        logs = sorted((self.home / "logs").glob("*.log"))
        return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in logs)


def question_body(model: str, question: str, **more: Any) -> dict[str, Any]:
    """A greedy request."""
    messages = [{"role": "user", "content": question}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": 24, **more}


def find_process(*words: str) -> int | None:
    """The process whose command line has all the words."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if set(words) <= set(command):
                return int(entry.name)
    return None


async def ask_together(stack: Stack, asked: list[tuple[str, str]]) -> list[str]:
    """All questions at the same time, so that the engine batches them."""
    async with httpx.AsyncClient(base_url=stack.url, timeout=120) as client:

        async def one(model: str, question: str) -> str:
            body = question_body(model, question)
            response = await client.post("/v1/chat/completions", json=body)
            return str(response.json()["choices"][0]["message"]["content"])

        return await asyncio.gather(*(one(*pair) for pair in asked))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def without_compiler(home: Path) -> dict[str, str]:
    """As on a machine that has none, and nothing that was compiled before."""
    return {"CXX": str(home / "no-compiler"), "TORCHINDUCTOR_CACHE_DIR": str(home / "compiled")}


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Hears of those requests whose caller says that they are to be told, and of nothing else."""
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("home")
    # What is killed goes on at once, however often; how long it would wait, unit tests look at.
    # The engine holds eight adapters at a time, half of sixteen, so that some have to go.
    (home / "graft.yaml").write_text(
        "trainer: {retry_seconds: [0]}\n"
        "engine: {max_cpu_loras: 16}\n"
        f"telemetry: {{otlp_endpoint: '{collector.url}', sample_ratio: 0}}\n"
    )
    port = free_port()
    graft = [str(Path(sys.executable).parent / "graft"), "up", "--port", str(port)]
    bare = {} if has_nvidia_gpu() else without_compiler(home)
    with (home / "up.log").open("w") as log:
        launcher = subprocess.Popen(
            [*graft, "--home", str(home)],
            cwd=REPOSITORY,
            stdout=log,
            stderr=log,
            # As it is by default: what vLLM says of itself is looked at.
            env=os.environ | bare | {"VLLM_LOGGING_LEVEL": "INFO"},  # noqa: TID251  handed on, not read
        )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http:
        stack = Stack(f"http://127.0.0.1:{port}", home, http)
        try:
            # Four minutes and fifty seconds have been seen, beside other work; a test may take ten.
            stack.wait_ready(550)
            yield stack
        finally:
            launcher.terminate()
            assert launcher.wait(60) == 0
            assert find_process("trainer.warm", BASE, "--fd") is None
