"""Keys in real processes: the first one made on the command line, refusals at the start, and nothing written down."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[3]


@dataclass
class Process:
    """A service of its own process, with keys on; what it says goes to a file."""

    url: str
    environment: dict[str, str]
    home: Path
    log: Path

    def graft(self, *words: str) -> subprocess.CompletedProcess[str]:
        code = "from cli.main import app; app()"
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )


def environment(home: Path, **more: str) -> dict[str, str]:
    variables = os.environ.items()  # noqa: TID251  handed on, not read
    ours = {name: value for name, value in variables if not name.startswith("GRAFT_")}
    return ours | {"GRAFT_HOME": str(home), "PYTHONPATH": str(ROOT), **more}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    home = tmp_path_factory.mktemp("home")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    variables = environment(
        home, GRAFT_SERVICE_AUTH="true", GRAFT_SERVICE_PORT=str(port), GRAFT_URL=url
    )
    log = tmp_path_factory.mktemp("log") / "service.log"
    with log.open("wb") as file:
        service = subprocess.Popen(
            [sys.executable, "-m", "service"],
            env=variables,
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    deadline = time.monotonic() + 60
    while not _answers(url):
        assert service.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield Process(url, variables, home, log)
    service.send_signal(signal.SIGTERM)
    service.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_the_first_key_is_made_on_the_command_line_and_opens_the_service(process: Process) -> None:
    assert "No keys yet" in process.graft("keys", "--tenant", "acme").stdout
    made = process.graft(
        "keys", "create", "--tenant", "acme", "--name", "laptop", "--expires", "30d"
    )
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    assert secret.startswith("graft-")
    assert "infer, tune" in made.stderr
    refused = process.graft("adapters")
    assert refused.returncode == 1
    assert "Incorrect API key provided" in refused.stderr
    for variable in ("GRAFT_API_KEY", "OPENAI_API_KEY"):
        process.environment[variable] = secret
        listed = process.graft("adapters")
        del process.environment[variable]
        assert listed.returncode == 0, listed.stderr
    key_id = made.stderr.split()[0]
    table = process.graft("keys", "list", "--tenant", "acme").stdout
    assert key_id in table
    assert "laptop" in table
    assert secret not in table
    assert process.graft("keys", "revoke", key_id).returncode == 0
    deadline = time.monotonic() + 30
    while httpx.get(f"{process.url}/adapters", headers={"api-key": secret}).status_code != 401:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    unknown = process.graft("keys", "revoke", "key_none")
    assert (unknown.returncode, unknown.stderr.strip()) == (1, "No API key has the id 'key_none'.")


def test_a_key_is_in_no_file_and_nothing_that_the_service_says(process: Process) -> None:
    secret = process.graft("keys", "create", "--tenant", "quiet").stdout.strip()
    for header in ({"authorization": f"Bearer {secret}"}, {"x-api-key": secret}):
        for method, path in [
            ("GET", "/adapters"),
            ("GET", "/nothing"),
            ("POST", "/finetune"),
            ("GET", "/v1/keys"),
        ]:
            told = httpx.request(method, process.url + path, headers=header)
            assert told.status_code != 401
            assert secret not in told.text
    said = process.log.read_bytes()
    assert b"/adapters 200" in said
    files = [path for path in process.home.rglob("*") if path.is_file()]
    assert any(path.name == "graft.db" for path in files)
    random = secret.removeprefix("graft-").encode()
    assert not any(random in content for content in [said, *(path.read_bytes() for path in files)])


def test_what_the_processes_make_is_their_users_alone(process: Process) -> None:
    process.graft("keys", "create", "--tenant", "private")
    made = [path for path in process.home.rglob("*") if not path.is_symlink()]
    assert len(made) > 5
    assert {str(path) for path in made if path.stat().st_mode & 0o077} == set()


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "service", "--host", "0.0.0.0"],
        [sys.executable, "-c", "from cli.main import app; app()", "up", "--host", "0.0.0.0"],
    ],
    ids=["service", "graft up"],
)
def test_what_would_be_open_to_the_network_without_keys_does_not_start(
    tmp_path: Path, command: list[str]
) -> None:
    done = subprocess.run(
        command,
        env=environment(tmp_path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    told = done.stdout + done.stderr
    assert "listen on '0.0.0.0'" in told
    assert "graft keys create" in told
    assert "Traceback" not in told
    assert not (tmp_path / "graft.db").exists()
