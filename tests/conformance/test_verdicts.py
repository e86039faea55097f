"""What engines were found to compute, in every database."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adapters.errors import AdapterNotFound, ModelQuarantined
from adapters.ledger import Ledger
from adapters.proof import Outcome, Verdict
from adapters.records import Version
from tests.support.samples import BASE, adapter_directory, brought, manifest, new_job, render

GOOD = Verdict(outcome=Outcome.VERIFIED, reason="Near enough.")
BAD = Verdict(outcome=Outcome.QUARANTINED, reason="It answers as the base model does.")
ENGINE, OTHER = "vllm 0.32.0 float32 bbbb", "vllm 0.33.0 float32 bbbb"


def publish(ledger: Ledger, path: Path, adapter: str = "bot") -> Version:
    new = new_job(adapter)
    ledger.jobs.submit(new, render=render)
    job = ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=30, max_losses=5)
    assert job is not None
    source = adapter_directory(path / job.id, content=job.id.encode())
    return ledger.registry.publish(job, source, manifest(job), promote=True)


def test_a_verdict_is_one_engines_and_stays(ledger: Ledger, tmp_path: Path) -> None:
    version = publish(ledger, tmp_path)
    assert ledger.verdicts.find(version, engine=ENGINE) is None
    assert ledger.verdicts.note(version, GOOD, engine=ENGINE) == GOOD
    assert ledger.verdicts.find(version, engine=ENGINE) == GOOD
    assert ledger.verdicts.find(version, engine=OTHER) is None
    assert ledger.registry.version("bot@1").quarantined is None


def test_a_quarantine_holds_for_every_engine_and_the_alias_stays(
    ledger: Ledger, tmp_path: Path
) -> None:
    publish(ledger, tmp_path)
    version = publish(ledger, tmp_path)
    revision, _ = ledger.registry.changes(since=0)
    ledger.verdicts.note(version, GOOD, engine=OTHER)
    assert ledger.verdicts.note(version, BAD, engine=ENGINE) == BAD
    assert ledger.verdicts.find(version, engine=OTHER) == BAD
    assert ledger.verdicts.note(version, GOOD, engine="a third one") == BAD
    newer, [changed] = ledger.registry.changes(since=revision)
    assert newer == revision + 1
    assert [one.quarantined for one in changed.versions] == [None, BAD.reason]
    assert changed.aliases == {"live": 2}
    assert ledger.registry.version("bot@2").quarantined == BAD.reason


def test_the_job_that_made_it_is_told_once(ledger: Ledger, tmp_path: Path) -> None:
    version = publish(ledger, tmp_path)
    for _ in range(2):
        ledger.verdicts.note(version, BAD, engine=ENGINE)
    told = [
        event
        for event in ledger.jobs.events(str(version.job_id), after=0, limit=100)
        if event.data and event.data.get("kind") == "quarantined"
    ]
    [event] = told
    assert (event.level, event.data) == (
        "error",
        {"kind": "quarantined", "version": "bot@1", "reason": BAD.reason},
    )


def test_services_that_look_at_the_same_time_agree(ledger: Ledger, tmp_path: Path) -> None:
    version = publish(ledger, tmp_path)
    with ThreadPoolExecutor(6) as pool:
        found = set(
            pool.map(lambda one: ledger.verdicts.note(version, one, engine=ENGINE), [BAD, GOOD] * 3)
        )
    assert len(found) == 1
    assert ledger.verdicts.find(version, engine=ENGINE) in found


def test_a_quarantined_version_is_not_promoted_and_a_rechecked_one_is(
    ledger: Ledger, tmp_path: Path
) -> None:
    version = publish(ledger, tmp_path)
    publish(ledger, tmp_path)
    ledger.verdicts.note(version, BAD, engine=ENGINE)
    with pytest.raises(ModelQuarantined, match="base model"):
        ledger.aliases.promote("bot", 1)
    assert ledger.registry.get("bot").aliases == {"live": 2}
    revision, _ = ledger.registry.changes(since=0)
    ledger.verdicts.recheck("bot", 1)
    _, [changed] = ledger.registry.changes(since=revision)
    assert changed.versions[0].quarantined is None
    assert ledger.verdicts.find(version, engine=ENGINE) is None
    assert ledger.aliases.promote("bot", 1).aliases == {"live": 1}


def test_after_the_live_model_a_sound_one_is_live(ledger: Ledger, tmp_path: Path) -> None:
    for _ in range(3):
        version = publish(ledger, tmp_path)
    ledger.verdicts.note(ledger.registry.version("bot@2"), BAD, engine=ENGINE)
    ledger.registry.delete_model(version)
    assert ledger.registry.get("bot").aliases == {"live": 1}


def test_a_tenant_rechecks_nobody_elses(ledger: Ledger, tmp_path: Path) -> None:
    version = publish(ledger, tmp_path)
    ledger.verdicts.note(version, BAD, engine=ENGINE)
    with pytest.raises(AdapterNotFound):
        ledger.of("others").verdicts.recheck("bot", 1)
    with pytest.raises(AdapterNotFound):
        ledger.verdicts.recheck("bot", 7)
    assert ledger.registry.version("bot@1").quarantined == BAD.reason


def test_an_import_is_quarantined_without_a_job(ledger: Ledger, tmp_path: Path) -> None:
    source = adapter_directory(tmp_path / "brought")
    version, _ = ledger.registry.bring_in("bot", source, brought(), promote=True)
    ledger.verdicts.note(version, BAD, engine=ENGINE)
    assert ledger.registry.version("bot@1").quarantined == BAD.reason


def test_with_its_files_what_was_found_of_them_goes(ledger: Ledger, tmp_path: Path) -> None:
    version = publish(ledger, tmp_path)
    ledger.verdicts.note(version, BAD, engine=ENGINE)
    ledger.registry.delete("bot")
    assert ledger.verdicts.find(version, engine=ENGINE) == BAD
    ledger.registry.purge(older_than=-1)
    ledger.checkpoints.purge(older_than=-1)
    assert ledger.verdicts.find(version, engine=ENGINE) is None
