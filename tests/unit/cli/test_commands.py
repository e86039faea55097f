"""The commands against a server that speaks the contract."""

import json

import pytest
from rich.console import Console

from cli.commands.watching import interrupted_politely
from tests.unit.cli.fake_graft import done, event, job, metrics

FINISHED = {"status": "succeeded"}
EVENTS = "GET /v1/finetune/ftjob-1/events"


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"input": "a", "target": "b"}\n')
    return str(path)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("cli.follow.FIRST_PAUSE", 0.01)


def test_finetune_sends_the_file_and_the_options_that_were_given(graft, run, data):
    graft.answers["POST /v1/finetune"] = (202, job("queued"))
    options = ["--name", "support-bot", "--epochs", "2", "--rank", "8", "--gate", "off"]
    result = run("finetune", data, *options, "--learning-rate", "1e-4", "--no-follow")
    assert result.exit_code == 0, result.output
    assert graft.fields() == {
        "data": 'data.jsonl: {"input": "a", "target": "b"}\n',
        "name": "support-bot",
        "n_epochs": "2",
        "lora": '{"rank": 8}',
        "gate": "off",
        "learning_rate": "0.0001",
    }
    assert graft.asked[0][1]["authorization"] == "Bearer sesame"
    assert "graft jobs follow ftjob-1" in result.output


def test_finetune_sends_a_method_and_what_to_continue(graft, run, data):
    graft.answers["POST /v1/finetune"] = (202, job("queued"))
    options = ["--method", "dpo", "--beta", "0.2", "--continue-from", "bot@3", "--rslora"]
    result = run("finetune", data, *options, "--no-follow")
    assert result.exit_code == 0, result.output
    sent = graft.fields()
    del sent["data"]
    assert sent == {
        "method": "dpo",
        "beta": "0.2",
        "continue_from": "bot@3",
        "lora": '{"use_rslora": true}',
    }


def test_finetune_names_who_is_told_and_shows_the_secret_that_is_never_shown_again(
    graft, run, data
):
    url = "https://example.com/a-rather-long-path/for-a-hook/that-is-wider-than-a-terminal-is"
    webhook = {"id": "we_1", "url": url, "events": [], "signing_secret": "whsec_c2VjcmV0"}
    graft.answers["POST /v1/finetune"] = (202, job("queued", webhook=webhook))
    result = run("finetune", data, "--webhook", url, "--no-follow")
    assert result.exit_code == 0, result.output
    assert graft.fields()["webhook"] == url
    told = f"{url} is told; its signing secret, shown this once, is whsec_c2VjcmV0\n"
    assert told in result.output


def test_a_job_that_compared_replies_tells_how_often_it_prefers_the_better(graft, run):
    progress = job()["progress"] | {"reward_accuracy": 0.75}
    told = {
        "progress": progress,
        "method": {"type": "dpo", "dpo": {"hyperparameters": {}}},
        "hyperparameters": {"beta": 0.1, "continue_from": None},
    }
    graft.answers[EVENTS] = done(**FINISHED, **told)
    graft.answers["GET /v1/finetune/ftjob-1"] = job(**FINISHED, **told)
    followed = run("jobs", "follow", "ftjob-1")
    assert "It prefers the better reply in 75% of the held-out pairs." in followed.output
    shown = run("jobs", "show", "ftjob-1").output
    assert "75% of the held-out pairs" in shown
    assert "method           dpo" in shown
    assert "beta 0.1" in shown
    assert "continue_from" not in shown


def test_finetune_follows_and_ends_with_a_curve_and_the_next_command(graft, run, data):
    graft.answers["POST /v1/finetune"] = (202, job("queued"))
    story = event(1, "status", {"phase": "training"}, "training") + event(
        2, "checkpoint", {}, "saved"
    )
    graft.answers[EVENTS] = (
        story + metrics(3, 1) + metrics(4, 5) + metrics(5, 10) + done(**FINISHED)
    )
    result = run("finetune", data)
    assert result.exit_code == 0, result.output
    assert " 50 %  loss 2.000, 900 tokens/s, 5 s left" in result.output
    assert "   2.800 ┤" in result.output
    assert "saved" not in result.output
    assert "support-bot@2 is trained. Held-out loss 1.250, the base model's 2.500." in result.output
    assert "graft chat --model support-bot\n" in result.output


def test_a_broken_connection_is_taken_up_after_the_last_event(graft, run):
    graft.answers[EVENTS] = [
        metrics(7, 1),
        (503, {"error": {"message": "restarting"}}),
        metrics(8, 2)[:-4],
        metrics(8, 2) + metrics(9, 3) + done(**FINISHED),
    ]
    result = run("jobs", "follow", "ftjob-1")
    assert result.exit_code == 0, result.output
    assert [headers["last-event-id"] for _, headers, _ in graft.asked] == [None, "7", "7", "7"]


def test_a_failed_job_is_exit_code_one_with_its_reason(graft, run):
    error = {"code": "loss_diverged", "message": "The loss became NaN at step 3.", "param": None}
    graft.answers[EVENTS] = done(status="failed", error=error)
    result = run("jobs", "follow", "ftjob-1")
    assert result.exit_code == 1
    assert "failed: The loss became NaN at step 3." in result.output


def test_following_an_unknown_job_does_not_go_on_for_ever(graft, run):
    result = run("jobs", "follow", "ftjob-9")
    assert result.exit_code == 1
    assert "no GET /v1/finetune/ftjob-9/events" in result.output


def test_bad_data_is_a_table_of_lines(graft, run, data):
    details = [
        {"line": 17, "field": "messages[2].role", "code": "x", "message": "say 'assistant' [sic]"}
    ]
    error = {
        "message": "The data has 1 problem.",
        "code": "invalid_training_file",
        "details": details,
    }
    graft.answers["POST /v1/finetune"] = (400, {"error": error})
    result = run("finetune", data)
    assert result.exit_code == 1
    assert "The data has 1 problem." in result.output
    assert "  17  messages[2].role  say 'assistant' [sic]" in result.output


def test_no_server_says_what_to_do(run, data, monkeypatch):
    monkeypatch.setenv("GRAFT_URL", "http://127.0.0.1:9")
    result = run("finetune", data)
    assert result.exit_code == 1
    assert "Is `graft up` running there?" in result.output


def test_a_server_that_is_no_graft_is_recognised(graft, run):
    graft.answers["GET /v1/finetune?limit=20"] = {"hello": "world"}
    result = run("jobs")
    assert result.exit_code == 1
    assert "Is it a graft?" in result.output


def test_jobs_are_listed_newest_first_as_they_came(graft, run):
    jobs = [job(), job("queued", id="ftjob-2", queue={"position": 3})]
    graft.answers["GET /v1/finetune?limit=20"] = {"object": "list", "data": jobs, "has_more": True}
    result = run("jobs")
    assert (
        "ftjob-1  support-bot  training          40  1.500     1.250  2 min 05 s" in result.output
    )
    assert "queued, number 3" in result.output
    assert "graft jobs --limit 100" in result.output


def test_no_jobs_are_no_empty_table(graft, run):
    graft.answers["GET /v1/finetune?limit=5"] = {"object": "list", "data": [], "has_more": False}
    assert "No jobs yet" in run("jobs", "--limit", "5").output


def test_one_job_is_shown_with_its_events_but_not_its_numbers(graft, run):
    graft.answers["GET /v1/finetune/ftjob-1"] = job()
    graft.answers[EVENTS] = event(1, "status", {}, "training began") + metrics(2, 1) + done()
    result = run("jobs", "ftjob-1")
    assert "40 %, step 4 of 10" in result.output
    assert "1.250 (base model 2.500)" in result.output
    assert "training began" in result.output
    assert "metrics" not in result.output


@pytest.mark.parametrize(("what", "status"), [("pause", "paused"), ("resume", "queued")])
def test_a_job_is_paused_and_resumed(graft, run, what, status):
    graft.answers[f"POST /v1/finetune/ftjob-1/{what}"] = job(status)
    assert run("jobs", what, "ftjob-1").output == f"ftjob-1: {status}\n"


def test_a_job_is_cancelled(graft, run):
    graft.answers["POST /v1/finetune/ftjob-1/cancel"] = job("cancelled")
    assert run("jobs", "cancel", "ftjob-1").output == "ftjob-1: cancelled\n"


VERSIONS = [
    {
        "name": "support-bot@1",
        "number": 1,
        "created_at": 1_790_000_000,
        "rank": 16,
        "valid_loss": 1.5,
    },
    {
        "name": "support-bot@2",
        "number": 2,
        "created_at": 1_790_000_100,
        "rank": 8,
        "valid_loss": 1.25,
    },
]
ADAPTER = {"name": "support-bot", "base_model": "base", "live": "support-bot@2", "versions": VERSIONS,
           "aliases": {"live": 2, "canary": 1}}  # fmt: skip


def test_adapters_are_listed_with_their_live_version(graft, run):
    graft.answers["GET /v1/adapters"] = {"object": "list", "data": [ADAPTER]}
    assert "support-bot  support-bot@2         2  base           1.250" in run("adapters").output


def test_an_adapter_is_shown_with_its_versions_and_aliases(graft, run):
    graft.answers["GET /v1/adapters/support-bot"] = ADAPTER
    output = run("adapters", "support-bot").output
    assert "support-bot@1  canary    16" in output
    assert "support-bot@2  live       8" in output


def test_a_version_is_promoted_by_its_number_or_by_an_alias(graft, run):
    graft.answers["POST /v1/adapters/support-bot/promote"] = ADAPTER
    output = run("adapters", "promote", "support-bot@2").output
    assert output == "support-bot means support-bot@2 now\n"
    run("adapters", "promote", "support-bot@canary", "--expected", "1")
    assert said(graft) == [{"version": 2}, {"alias": "canary", "expected": 1}]
    assert run("adapters", "promote", "support-bot").exit_code == 2


def test_rolling_back_says_from_which_version_so_that_a_repetition_is_harmless(graft, run):
    graft.answers["GET /v1/adapters/support-bot"] = ADAPTER
    before = ADAPTER | {"live": "support-bot@1"}
    graft.answers["POST /v1/adapters/support-bot/rollback"] = before
    output = run("adapters", "rollback", "support-bot").output
    assert output == "support-bot means support-bot@1 now, no longer support-bot@2\n"
    assert json.loads(graft.asked[1][2]) == {"expected": 2}


def test_an_alias_is_pointed_at_a_version_and_removed(graft, run):
    at = "/v1/adapters/support-bot/aliases/canary"
    graft.answers[f"PUT {at}"] = ADAPTER | {"aliases": {"live": 2, "canary": 1}}
    graft.answers[f"DELETE {at}"] = ADAPTER
    told = run("adapters", "alias", "support-bot@1", "canary", "--weight", "0.1").output
    assert told == (
        "support-bot@canary means support-bot@1 now, with 0.1 of the requests for support-bot\n"
    )
    told = run("adapters", "alias", "support-bot@1", "canary", "--expected", "0").output
    assert told == "support-bot@canary means support-bot@1 now\n"
    told = run("adapters", "unalias", "support-bot@canary").output
    assert told == "support-bot@canary means nothing now\n"
    sent = [json.loads(body) for _, _, body in graft.asked[:2]]
    assert sent == [{"version": 1, "weight": 0.1}, {"version": 1, "expected": 0}]
    for wrong in (
        ("alias", "support-bot", "canary"),
        ("alias", "support-bot@live", "canary"),
        ("alias", "support-bot@1", "canary", "--weight", "2"),
        ("unalias", "support-bot"),
    ):
        assert run("adapters", *wrong).exit_code == 2
    assert len(graft.asked) == 3


def test_deleting_asks_first(graft, run):
    graft.answers["DELETE /v1/adapters/support-bot"] = {"id": "support-bot", "deleted": True}
    assert run("adapters", "delete", "support-bot", typed="n\n").exit_code == 1
    assert graft.asked == []
    assert run("adapters", "delete", "support-bot", "--yes").output == "support-bot is deleted\n"


def test_a_version_is_downloaded(graft, run, tmp_path):
    graft.answers["GET /v1/adapters/support-bot@2/download"] = b"tar " * 1000
    target = tmp_path / "file.tar"
    result = run("adapters", "download", "support-bot@2", "-o", str(target))
    assert result.exit_code == 0, result.output
    assert target.read_bytes() == b"tar " * 1000


def test_a_download_that_breaks_off_leaves_no_file(graft, run, tmp_path):
    graft.answers["GET /v1/adapters/support-bot@2/download"] = b"half"
    result = run("adapters", "download", "support-bot@2", "-o", str(tmp_path / "file.tar"))
    assert result.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def answer(*pieces: str) -> str:
    chunks = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def said(graft) -> list[dict]:
    return [json.loads(body) for _, _, body in graft.asked]


def test_one_question_is_answered_as_it_streams(graft, run):
    graft.answers["POST /v1/chat/completions"] = answer("Par", "[bold]is")
    result = run("chat", "--model", "m", "--temperature", "0", "--system", "Be brief.", "Where?")
    assert result.output == "Par[bold]is\n"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}]
    asked = {"model": "m", "messages": messages, "stream": True, "temperature": 0.0}
    assert said(graft) == [asked]


def test_a_conversation_remembers_and_survives_an_error(graft, run):
    refusal = (400, {"error": {"message": "too long"}})
    graft.answers["POST /v1/chat/completions"] = [
        answer("one"),
        refusal,
        answer("two"),
        answer("three"),
    ]
    result = run("chat", "--model", "m", typed="a\nb\nc\n\n/new\nd\n/exit\n")
    assert result.exit_code == 0, result.output
    assert "too long" in result.output
    heard = [[message["content"] for message in body["messages"]] for body in said(graft)]
    assert heard == [["a"], ["a", "one", "b"], ["a", "one", "c"], ["d"]]


def test_an_error_inside_the_stream_is_told(graft, run):
    broken = answer("Par").replace(
        "data: [DONE]\n\n", 'data: {"error": {"message": "engine died"}}\n\n'
    )
    graft.answers["POST /v1/chat/completions"] = broken
    result = run("chat", "--model", "m", "Where?")
    assert result.exit_code == 1
    assert "engine died" in result.output


def test_every_command_has_help(run):
    for words in ([], ["up"], ["finetune"], ["jobs"], ["adapters"], ["chat"], ["doctor"]):
        result = run(*words, "--help")
        assert result.exit_code == 0
        assert "Usage" in result.output


def test_an_interrupt_leaves_the_job_alone_and_says_how_to_come_back(capsys):
    with interrupted_politely(Console(), "ftjob-1"):
        raise KeyboardInterrupt
    said_so = capsys.readouterr().out
    assert "the job goes on" in said_so
    assert "graft jobs cancel ftjob-1" in said_so
