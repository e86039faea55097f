"""Files and uploads: what the ledger promises of them."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from adapters.errors import (
    FileNotFound,
    IdempotencyKeyReused,
    InvalidValue,
    UploadNotFound,
    UploadNotPending,
)
from adapters.files import (
    File,
    FileReport,
    NewFile,
    NewUpload,
    RowProblem,
    Upload,
    UploadStatus,
)
from adapters.ledger import Ledger
from adapters.records import IdempotencyKey, Reply
from tests.support.clock import Clock
from tests.support.samples import new_job, render

HOUR = 3600.0
FEW = settings(
    deadline=None,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def render_file(file: File) -> Reply:
    return Reply(status=200, body=file.id)


def render_upload(upload: Upload) -> Reply:
    return Reply(status=200, body=upload.id)


def bring(path: Path, content: bytes) -> Path:
    path.mkdir(exist_ok=True)
    brought = path / hashlib.sha256(content + str(len(list(path.iterdir()))).encode()).hexdigest()
    brought.write_bytes(content)
    return brought


def new_file(content: bytes, **fields: object) -> NewFile:
    usual = NewFile(
        filename="t.jsonl",
        purpose="fine-tune",
        bytes=len(content),
        digest=hashlib.sha256(content).hexdigest(),
    )
    return replace(usual, **fields)


def new_upload(size: int, **fields: object) -> NewUpload:
    usual = NewUpload(bytes=size, filename="t.jsonl", mime_type="text/jsonl", purpose="fine-tune")
    return replace(usual, **fields)


class Client:
    """Somebody who brings things, in a hurry."""

    def __init__(self, ledger: Ledger, path: Path) -> None:
        self.ledger, self.path = ledger, path / "brought"

    def file(
        self,
        content: bytes = b"hello",
        *,
        key: IdempotencyKey | None = None,
        retried: bool = False,
        **fields: object,
    ) -> str:
        return self.ledger.files.submit(
            bring(self.path, content),
            new_file(content, **fields),
            key=key,
            retried=retried,
            render=render_file,
        ).body

    def upload(self, size: int, **fields: object) -> str:
        return self.ledger.uploads.create(new_upload(size, **fields), render=render_upload).body

    def part(self, upload_id: str, content: bytes) -> str:
        return self.ledger.uploads.add_part(upload_id, bring(self.path, content)).id

    def complete(self, upload_id: str, part_ids: Sequence[str], md5: str | None = None) -> Upload:
        return self.ledger.uploads.complete(upload_id, part_ids, md5=md5, judge=lambda _: None)


@pytest.fixture
def client(ledger: Ledger, tmp_path: Path) -> Client:
    return Client(ledger, tmp_path)


def stored(tmp_path: Path, folder: str) -> set[str]:
    return {path.name for path in (tmp_path / "artifacts" / folder).iterdir()}


# ---- files


def test_what_was_found_in_a_file_is_kept_with_it(ledger: Ledger, client: Client) -> None:
    problem = RowProblem(line=2, field=None, code="invalid_json", message="Line 2: not JSON.")
    for report in (
        FileReport(
            format="messages",
            rows=2,
            duplicates=1,
            ignored_fields=("id",),
            problems=(problem,),
            total_problems=1,
        ),
        FileReport(
            format=None, rows=0, duplicates=0, ignored_fields=(), problems=(), total_problems=0
        ),
        None,
    ):
        file = ledger.files.get(client.file(report=report))
        assert file.report == report
        assert report is None or file.report.valid == (report.total_problems == 0)


def test_an_expired_file_is_as_if_deleted(ledger: Ledger, client: Client, clock: Clock) -> None:
    mortal, immortal = client.file(expires_after=HOUR), client.file()
    clock.tick(HOUR - 1)
    assert ledger.files.get(mortal).expires_at == clock.now + 1
    clock.tick(1)
    assert [file.id for file in ledger.files.list()] == [immortal]
    for forget in (ledger.files.get, ledger.files.path, ledger.files.delete):
        with pytest.raises(FileNotFound):
            forget(mortal)
    with pytest.raises(FileNotFound):
        ledger.files.list(after=mortal)


def test_an_expired_file_is_there_for_as_long_as_a_living_job_needs_it(
    ledger: Ledger, client: Client, clock: Clock, tmp_path: Path
) -> None:
    training, validation = (client.file(n, expires_after=HOUR) for n in (b"t", b"v"))
    job = replace(new_job(), training_file=training, validation_file=validation)
    ledger.jobs.submit(job, render=render)
    clock.tick(10 * HOUR)
    assert ledger.files.purge(older_than=0) == 0
    assert ledger.files.path(training).read_bytes() == b"t"
    assert ledger.files.path(validation).read_bytes() == b"v"
    ledger.jobs.cancel(job.id)
    with pytest.raises(FileNotFound):
        ledger.files.get(training)
    assert ledger.files.purge(older_than=0) == 2
    assert stored(tmp_path, "files") == set()


def test_the_bytes_of_expired_files_are_purged_only_after_a_while(
    ledger: Ledger, client: Client, clock: Clock, tmp_path: Path
) -> None:
    client.file(expires_after=HOUR)
    immortal = client.file()
    clock.tick(HOUR + 59)
    assert ledger.files.purge(older_than=60) == 0
    clock.tick(1)
    assert ledger.files.purge(older_than=60) == 1
    assert ledger.files.purge(older_than=60) == 0
    assert stored(tmp_path, "files") == {immortal}


@FEW
@given(
    ticks=st.lists(st.integers(0, 1), min_size=1, max_size=9),
    limit=st.integers(1, 4),
    ascending=st.booleans(),
    purpose=st.sampled_from([None, "batch", "evals"]),
)
def test_pages_of_files_meet_whatever_share_their_second(
    ledger: Ledger,
    client: Client,
    clock: Clock,
    ticks: list[int],
    limit: int,
    ascending: bool,
    purpose: str | None,
) -> None:
    for file in ledger.files.list():
        ledger.files.delete(file.id)
    for n, tick in enumerate(ticks):
        client.file(purpose=("batch", "evals")[n % 2])
        clock.tick(tick)
    met: list[File] = []
    while page := ledger.files.list(
        after=met[-1].id if met else None, limit=limit, ascending=ascending, purpose=purpose
    ):
        assert len(page) <= limit
        met += page
        assert len(met) <= len(ticks)
    # Who comes first within a second is the database's to say: PostgreSQL compares ids as its locale has it.
    newest_first = [file for file in ledger.files.list() if purpose in {None, file.purpose}]
    assert met == (newest_first[::-1] if ascending else newest_first)
    times = [file.created_at for file in newest_first]
    assert times == sorted(times, reverse=True)


def test_one_key_makes_one_file_also_at_the_same_time(
    ledger: Ledger, client: Client, tmp_path: Path
) -> None:
    key = IdempotencyKey(key="files:k", request_digest="1")
    client.path.mkdir()
    brought = [client.path / str(n) for n in range(12)]
    for path in brought:
        path.write_bytes(b"hello")

    def submit(path: Path) -> Reply:
        return ledger.files.submit(path, new_file(b"hello"), key=key, render=render_file)

    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(submit, brought))
    [file] = ledger.files.list()
    assert {reply.body for reply in replies} == {file.id}
    assert [reply.replayed for reply in replies].count(False) == 1
    assert stored(tmp_path, "files") == {file.id}
    with pytest.raises(IdempotencyKeyReused):
        client.file(b"other", key=replace(key, request_digest="2"))
    assert stored(tmp_path, "files") == {file.id}


def test_a_repeated_file_is_the_one_of_the_last_ten_minutes(
    client: Client, ledger: Ledger, clock: Clock, tmp_path: Path
) -> None:
    first = client.file()
    clock.tick(600)
    assert client.file(retried=True) == first
    assert client.file(b"hallo", retried=True) != first
    assert client.file(retried=True, filename="other") != first
    assert client.file(retried=True, purpose="batch") != first
    clock.tick(1)
    late = client.file(retried=True)
    assert late != first
    assert client.file() != late
    assert stored(tmp_path, "files") == {file.id for file in ledger.files.list()}


def test_a_repeated_file_is_not_one_that_is_gone(
    client: Client, ledger: Ledger, clock: Clock
) -> None:
    deleted = client.file()
    ledger.files.delete(deleted)
    expired = client.file(retried=True, expires_after=1)
    assert expired != deleted
    clock.tick(1)
    assert client.file(retried=True) != expired


# ---- uploads


@FEW
@given(content=st.binary(min_size=1, max_size=200), data=st.data())
def test_any_split_of_the_bytes_sent_in_any_order_gives_the_same_file(
    ledger: Ledger, client: Client, content: bytes, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=6)))
    edges = [0, *cuts, len(content)]
    pieces = [content[start:end] for start, end in pairwise(edges)]
    order = data.draw(st.permutations(range(len(pieces))))
    upload_id = client.upload(len(content))
    ids = {n: client.part(upload_id, pieces[n]) for n in order}
    done = client.complete(
        upload_id, [ids[n] for n in range(len(pieces))], hashlib.md5(content).hexdigest()
    )
    assert done.status is UploadStatus.COMPLETED
    whole = ledger.files.get(client.file(content))
    assert (done.file.bytes, done.file.digest) == (whole.bytes, whole.digest)
    assert ledger.files.path(done.file.id).read_bytes() == content


def test_what_a_completion_finds_is_kept_with_the_file(ledger: Ledger, client: Client) -> None:
    report = FileReport(
        format="text", rows=1, duplicates=0, ignored_fields=(), problems=(), total_problems=0
    )
    seen = []

    def judge(path: Path) -> FileReport:
        seen.append(path.read_bytes())
        return report

    upload_id = client.upload(2, expires_after=HOUR, purpose="evals")
    parts = [client.part(upload_id, text) for text in (b"a", b"b")]
    file = ledger.uploads.complete(upload_id, parts, judge=judge).file
    assert (seen, file.report, file.purpose) == ([b"ab"], report, "evals")
    assert file.expires_at == file.created_at + HOUR
    assert ledger.uploads.complete(upload_id, parts, judge=judge).file == file
    assert seen == [b"ab"]


def test_completing_at_the_same_time_makes_one_file(
    ledger: Ledger, client: Client, tmp_path: Path
) -> None:
    upload_id = client.upload(2)
    parts = [client.part(upload_id, text) for text in (b"a", b"b")]

    def complete(n: int) -> Upload:
        if n % 3 == 2:
            ledger.uploads.purge(older_than=0)  # what has ended has its parts taken away
        return client.complete(upload_id, parts)

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(complete, range(18)))
    [file] = ledger.files.list()
    assert {upload.file.id for upload in done} == {file.id}
    assert ledger.files.path(file.id).read_bytes() == b"ab"
    ledger.uploads.purge(older_than=0)
    assert (stored(tmp_path, "files"), stored(tmp_path, "parts")) == ({file.id}, set())


def test_a_completed_upload_whose_file_was_deleted_is_still_completed(
    ledger: Ledger, client: Client
) -> None:
    upload_id = client.upload(1)
    parts = [client.part(upload_id, b"a")]
    ledger.files.delete(client.complete(upload_id, parts).file.id)
    again = client.complete(upload_id, parts)
    assert (again.status, again.file) == (UploadStatus.COMPLETED, None)


def test_an_upload_expires_after_an_hour(ledger: Ledger, client: Client, clock: Clock) -> None:
    upload_id = client.upload(1)
    parts = [client.part(upload_id, b"a")]
    clock.tick(HOUR - 1)
    assert ledger.uploads.get(upload_id).status is UploadStatus.PENDING
    clock.tick(1)
    assert ledger.uploads.get(upload_id).status is UploadStatus.EXPIRED
    for late in (
        lambda: client.part(upload_id, b"b"),
        lambda: client.complete(upload_id, parts),
        lambda: ledger.uploads.cancel(upload_id),
    ):
        with pytest.raises(UploadNotPending, match="has expired"):
            late()


def test_a_completion_that_began_in_time_is_in_time(
    ledger: Ledger, client: Client, clock: Clock
) -> None:
    upload_id = client.upload(1)
    parts = [client.part(upload_id, b"a")]
    clock.tick(HOUR - 1)

    def slowly(_: Path) -> None:
        clock.tick(10)

    done = ledger.uploads.complete(upload_id, parts, judge=slowly)
    assert done.status is UploadStatus.COMPLETED


@pytest.mark.parametrize("end", ["cancel", "expire"])
def test_an_upload_that_ends_while_it_is_completed_makes_no_file(
    ledger: Ledger, client: Client, clock: Clock, tmp_path: Path, end: str
) -> None:
    upload_id = client.upload(1)
    parts = [client.part(upload_id, b"a")]

    def meanwhile(_: Path) -> None:
        if end == "cancel":
            ledger.uploads.cancel(upload_id)
        else:
            clock.tick(2 * HOUR)
        ledger.uploads.purge(older_than=60)

    with pytest.raises(UploadNotPending):
        ledger.uploads.complete(upload_id, parts, judge=meanwhile)
    assert list(ledger.files.list()) == []
    assert (stored(tmp_path, "files"), stored(tmp_path, "parts")) == (set(), set())


def test_parts_of_uploads_that_have_ended_are_purged_and_those_of_others_stay(
    ledger: Ledger, client: Client, clock: Clock, tmp_path: Path
) -> None:
    forgotten = client.upload(1)
    client.part(forgotten, b"f")
    clock.tick(HOUR - 1)
    completed, cancelled, pending = (client.upload(1) for _ in range(3))
    parts = {one: client.part(one, b"x") for one in (completed, cancelled, pending)}
    client.complete(completed, [parts[completed]])
    ledger.uploads.cancel(cancelled)
    assert ledger.uploads.purge(older_than=60) == 2
    clock.tick(62)
    assert ledger.uploads.purge(older_than=60) == 1
    assert ledger.uploads.purge(older_than=60) == 0
    assert stored(tmp_path, "parts") == {parts[pending]}
    client.complete(pending, [parts[pending]])


def test_an_upload_is_forgotten_after_a_day(ledger: Ledger, client: Client, clock: Clock) -> None:
    upload_id = client.upload(1)
    client.part(upload_id, b"x")
    clock.tick(25 * HOUR)
    assert ledger.uploads.get(upload_id).status is UploadStatus.EXPIRED
    clock.tick(1)
    ledger.uploads.purge(older_than=0)
    with pytest.raises(UploadNotFound):
        ledger.uploads.get(upload_id)


def test_parts_belong_to_one_upload(ledger: Ledger, client: Client) -> None:
    one, two = client.upload(1), client.upload(1)
    part = client.part(one, b"x")
    with pytest.raises(InvalidValue, match="has no part"):
        client.complete(two, [part])
    assert client.part(two, b"x") != part


def test_parts_hold_at_most_twice_what_was_announced(
    ledger: Ledger, client: Client, tmp_path: Path
) -> None:
    upload_id = client.upload(2)
    client.part(upload_id, b"abc")
    client.part(upload_id, b"d")
    with pytest.raises(InvalidValue, match="2 were announced"):
        client.part(upload_id, b"e")
    assert len(stored(tmp_path, "parts")) == 2


def test_a_repeated_upload_is_the_one_that_has_no_parts_yet(
    ledger: Ledger, client: Client, clock: Clock
) -> None:
    def again(**fields: object) -> str:
        new = new_upload(5, **fields)
        return ledger.uploads.create(new, retried=True, render=render_upload).body

    first = client.upload(5)
    assert again() == first
    for other in ({"filename": "x"}, {"bytes": 4}, {"mime_type": "x"}, {"expires_after": HOUR}):
        assert again(**other) != first
    client.part(first, b"x")
    second = again()
    assert second != first
    ledger.uploads.cancel(second)
    third = again()
    assert third not in {first, second}
    clock.tick(601)
    assert again() != third


def test_one_key_begins_one_upload_also_at_the_same_time(ledger: Ledger) -> None:
    key = IdempotencyKey(key="uploads:k", request_digest="1")

    def create(_: int) -> str:
        return ledger.uploads.create(new_upload(1), key=key, render=render_upload).body

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(create, range(12)))) == 1
    other = replace(key, request_digest="2")
    with pytest.raises(IdempotencyKeyReused):
        ledger.uploads.create(new_upload(2), key=other, render=render_upload)


def test_what_is_not_there_is_not_found(ledger: Ledger, client: Client) -> None:
    for ask in (
        lambda: ledger.uploads.get("upload_none"),
        lambda: client.part("upload_none", b"x"),
        lambda: client.complete("upload_none", ["part_1"]),
        lambda: ledger.uploads.cancel("upload_none"),
    ):
        with pytest.raises(UploadNotFound):
            ask()
