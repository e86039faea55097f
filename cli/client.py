"""The HTTP API, through the official `openai` client; the endpoints of our own through its generic methods."""

import http
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from openai import APIConnectionError, APIError, APIStatusError, OpenAI, Stream
from pydantic import ValidationError

from cli.settings import read_settings
from cli.sse import ServerEvent, read_events
from cli.wire import (
    Adapter,
    AdapterList,
    Estimate,
    Job,
    JobPage,
    Preview,
    Problem,
    Share,
    ShareList,
    Usage,
    Wire,
)

Answer = TypeVar("Answer", bound=Wire)


class Refused(Exception):
    """The server answered with an error: its message, and what it listed as wrong."""

    def __init__(self, message: str, problems: tuple[Problem, ...] = (), status: int = 0) -> None:
        super().__init__(message)
        self.problems = problems
        self.status = status

    @property
    def passing(self) -> bool:
        """The server's trouble, not the request's: worth asking again."""
        return self.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR


class Unreachable(Exception):
    """Nobody answered, or the answer broke off."""


class GraftClient:
    """One method for each thing the commands ask of the server.

    Everything it raises is `Refused` or `Unreachable`.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.sdk = OpenAI(base_url=f"{self.url}/v1", api_key=read_settings().api_key)

    def submit(self, data: Path, fields: Mapping[str, str]) -> Job:
        """`POST /v1/finetune`. Not retried: a retry that crosses the first answer would train twice."""
        return self._upload(Job, "/finetune", data, fields)

    def estimate(self, data: Path, fields: Mapping[str, str]) -> Estimate:
        """What the job would come to. Not asked of `/finetune`: a server that knows no `dry_run` must not train."""
        return self._upload(Estimate, "/fine_tuning/estimate", data, fields)

    def preview(self, data: Path, fields: Mapping[str, str]) -> Preview:
        """The first rows as training sees them."""
        return self._upload(Preview, "/fine_tuning/preview", data, fields)

    def job(self, job_id: str) -> Job:
        """One job."""
        return self._get(Job, f"/finetune/{job_id}")

    def jobs(self, limit: int) -> JobPage:
        """The newest jobs."""
        return self._get(JobPage, f"/finetune?limit={limit}")

    def cancel(self, job_id: str) -> Job:
        """Ask for a job to be cancelled."""
        return self._tell(job_id, "cancel")

    def pause(self, job_id: str) -> Job:
        """Ask for a job to be paused."""
        return self._tell(job_id, "pause")

    def resume(self, job_id: str) -> Job:
        """Ask for a paused job to go on."""
        return self._tell(job_id, "resume")

    def _tell(self, job_id: str, what: str) -> Job:
        with translated(self.url):
            answer = self.sdk.post(f"/finetune/{job_id}/{what}", cast_to=object)
        return self._read(Job, answer)

    @contextmanager
    def events(
        self, job_id: str, after: str, *, silence: float = 60.0
    ) -> Iterator[Iterator[ServerEvent]]:
        """The job's events from after this id (empty: from the beginning), until the connection ends.

        The server sends a comment every 15 seconds when there is nothing to say, so a minute's silence is a dead line.
        """
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        with translated(self.url):
            stream = self.sdk.with_options(max_retries=0).get(
                f"/finetune/{job_id}/events",
                cast_to=object,
                options={"headers": headers, "timeout": silence},
                stream=True,
                stream_cls=Stream[object],
            )
            try:
                yield read_events(stream.response.iter_bytes())
            finally:
                stream.close()

    def adapters(self) -> AdapterList:
        """All adapters."""
        return self._get(AdapterList, "/adapters")

    def adapter(self, name: str) -> Adapter:
        """One adapter."""
        return self._get(Adapter, f"/adapters/{name}")

    def promote(self, name: str, fields: Mapping[str, str | int]) -> Adapter:
        """Make a version the live one: by its `version`, or by the `alias` that points at it."""
        return self._change(name, "promote", fields)

    def roll_back(self, name: str, fields: Mapping[str, int]) -> Adapter:
        """Make the version live again that was live before."""
        return self._change(name, "rollback", fields)

    def point(self, name: str, alias: str, fields: Mapping[str, int | float]) -> Adapter:
        """Point an alias at a `version`, with a `weight` if it takes a share of the requests."""
        path = f"/adapters/{name}/aliases/{alias}"
        with translated(self.url):
            answer = self.sdk.put(path, cast_to=object, body=dict(fields))
        return self._read(Adapter, answer)

    def unpoint(self, name: str, alias: str) -> None:
        """Remove an alias."""
        with translated(self.url):
            self.sdk.delete(f"/adapters/{name}/aliases/{alias}", cast_to=object)

    def _change(self, name: str, what: str, fields: Mapping[str, str | int]) -> Adapter:
        with translated(self.url):
            answer = self.sdk.post(f"/adapters/{name}/{what}", cast_to=object, body=dict(fields))
        return self._read(Adapter, answer)

    def shares(self, name: str) -> ShareList:
        """With whom an adapter is shared."""
        return self._get(ShareList, f"/adapters/{name}/shares")

    def share(self, name: str, tenant: str, *, may_continue: bool, may_download: bool) -> Share:
        """Let a tenant, or everybody (`*`), use an adapter."""
        body = {"tenant": tenant, "may_continue": may_continue, "may_download": may_download}
        with translated(self.url):
            answer = self.sdk.post(f"/adapters/{name}/shares", cast_to=object, body=body)
        return self._read(Share, answer)

    def unshare(self, name: str, tenant: str) -> None:
        """Share it with that tenant, or with everybody (`*`), no longer."""
        with translated(self.url):
            self.sdk.delete(f"/adapters/{name}/shares/{tenant}", cast_to=object)

    def usage(self) -> Usage:
        """What the key's tenant uses, and what it may use."""
        return self._get(Usage, "/usage")

    def delete_adapter(self, name: str) -> None:
        """Delete an adapter with all its versions."""
        with translated(self.url):
            self.sdk.delete(f"/adapters/{name}", cast_to=object)

    @contextmanager
    def download(self, version: str) -> Iterator[Iterator[bytes]]:
        """A version's PEFT directory as a tar, as it arrives. One that breaks off raises."""
        with translated(self.url):
            stream = self.sdk.get(
                f"/adapters/{version}/download",
                cast_to=object,
                stream=True,
                stream_cls=Stream[object],
            )
            try:
                yield stream.response.iter_bytes()
            finally:
                stream.close()

    def say(
        self, model: str, messages: list[dict[str, str]], options: Mapping[str, Any]
    ) -> Iterator[str]:
        """The pieces of an answer as they come."""
        with translated(self.url):
            chunks: Stream[Any] = self.sdk.post(
                "/chat/completions",
                cast_to=object,
                body={"model": model, "messages": messages, "stream": True, **options},
                stream=True,
                stream_cls=Stream[object],
            )
            with chunks:
                for chunk in chunks:
                    for choice in chunk.get("choices", []):
                        yield choice.get("delta", {}).get("content") or ""

    def _upload(
        self, kind: type[Answer], path: str, data: Path, fields: Mapping[str, str]
    ) -> Answer:
        with translated(self.url), data.open("rb") as file:
            answer = self.sdk.with_options(max_retries=0).post(
                path,
                cast_to=object,
                body=dict(fields),
                files={"data": (data.name, file)},
                options={"headers": {"Content-Type": "multipart/form-data"}},
            )
        return self._read(kind, answer)

    def _get(self, kind: type[Answer], path: str) -> Answer:
        with translated(self.url):
            answer = self.sdk.get(path, cast_to=object)
        return self._read(kind, answer)

    def _read(self, kind: type[Answer], answer: object) -> Answer:
        try:
            return kind.model_validate(answer)
        except ValidationError as error:
            raise Refused(
                f"{self.url} does not answer as graft does ({error.error_count()} fields). Is it a graft?"
            ) from error


@contextmanager
def translated(url: str) -> Iterator[None]:
    """The one door that the SDK's errors go through."""
    try:
        yield
    except APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        message = str(body.get("message") or error.message)
        raise Refused(message, _problems(body.get("details")), error.status_code) from error
    except (
        APIConnectionError,
        httpx2.TransportError,
    ) as error:  # the SDK lets the latter through while it streams
        raise Unreachable(
            f"No answer from {url}. Is `graft up` running there? (--url or GRAFT_URL name another place)"
        ) from error
    except APIError as error:  # told inside a stream that had begun well
        raise Refused(error.message) from error


def _problems(details: object) -> tuple[Problem, ...]:
    rows = details if isinstance(details, list) else []
    return tuple(Problem.model_validate(row) for row in rows if isinstance(row, dict))
