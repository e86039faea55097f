"""One training process on several devices: equal to one device, and nobody hangs or stays behind."""

import hashlib
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from adapters.spec import (
    Dpo,
    LoraSpec,
    OptimizerSpec,
)
from tests.integration.training.pair import Pair
from tests.integration.training.test_process import Warm, admit
from tests.integration.training.tiny import (
    make_job,
    make_loop,
    make_spec,
    of_kind,
    random_rows,
    share_of,
)
from trainer.messages import (
    Admit,
    Checkpointed,
    Drop,
    Dropped,
    Evaluated,
    Exported,
    Failed,
    Finished,
    Ready,
    Shutdown,
    Started,
    Stepped,
)
from trainer.warm import checkpoint
from trainer.warm.crew import Solo
from trainer.warm.model import BaseModel
from trainer.warm.native.library import find_kernels
from trainer.warm.parts import deal, deal_out, idle_share
from trainer.warm.rows import Sample

#: Each rank imports torch and transformers, with the niceness of training.
PATIENCE = 180.0


@pytest.fixture(scope="module")
def pair(model_dir, kernel_folder, tmp_path_factory):
    meeting = tmp_path_factory.mktemp("meeting") / "store"
    pair = Pair(model_dir, meeting, find_kernels(kernel_folder))
    yield pair
    pair.close()


# ---------------------------------------------------------------- what every crew does


@pytest.fixture(params=["solo", "ranks"])
def everywhere(request, base64):
    """Runs a function on every rank of a crew."""
    if request.param == "solo":
        return lambda function, *arguments: [function(base64, *arguments)]
    return request.getfixturevalue("pair").call


def _agree(base: BaseModel) -> Any:
    rank = base.crew.rank
    return [base.crew.agree(value) for value in ([f"from {rank}", None], not rank, "", rank + 0.5)]


def test_a_crew_agrees_on_what_its_leader_says(everywhere):
    for answers in everywhere(_agree):
        assert answers == [["from 0", None], True, "", 0.5]


def _numbers(base: BaseModel) -> tuple[int, int, list[float]]:
    tensor = torch.tensor([1.0, base.crew.rank])
    base.crew.sum_(tensor)
    return base.crew.size, base.crew.least(7 - base.crew.rank), tensor.tolist()


def test_a_crew_finds_the_least_number_and_the_sum(everywhere):
    answers = everywhere(_numbers)
    size = len(answers)
    for answer in answers:
        assert answer == (size, 8 - size, [float(size), float(sum(range(size)))])


def _fails_once(base: BaseModel, rank: int, call: int) -> tuple[bool, float]:
    """A pass that runs out of memory on one rank, at its n-th product; then one that does not."""
    calls = 0

    def breathe() -> None:
        nonlocal calls
        calls += 1
        if calls == call and base.crew.rank == rank:
            raise torch.OutOfMemoryError

    job = make_job(base, make_spec(), Path(), train=random_rows(4, seed=1))
    shares, failed = [share_of(random_rows(4, seed=1), job.adapter)], False
    base.routing.breathe, before = breathe, base.routing.breathe
    try:
        base.train(shares, 100)
    except torch.OutOfMemoryError:
        failed = True
    finally:
        base.routing.breathe = before
    job.adapter.gradient_P.zero_()
    base.train(shares, 100)
    base.crew.sum_(job.adapter.gradient_P)
    return failed, float(job.adapter.gradient_P.norm())


# The tiny model has 2 layers of 4 products: calls 1 to 8 are forward, 9 to 16 backward.
@pytest.mark.parametrize("call", [1, 3, 6, 8, 9, 12, 13, 16])
def test_a_pass_that_does_not_fit_on_one_rank_fails_on_all_and_the_next_is_right(
    pair, base64, call
):
    expected = _fails_once(base64, rank=1, call=call)[1]
    for rank in (0, 1):
        for failed, norm in pair.call(_fails_once, rank, call):
            assert failed
            assert norm == pytest.approx(expected, rel=1e-12)


# ---------------------------------------------------------------- dealing


def test_samples_are_dealt_evenly_within_the_room_of_a_rank():
    costs = [70, 60, 50, 40, 30, 20, 10]
    bins = deal_out(costs, 2, 150)
    assert sorted(at for one in bins for at in one) == list(range(7))
    assert [sum(costs[at] for at in one) for one in bins] == [140, 140]

    tight = deal_out(costs, 2, 100)
    assert len(tight) == 4  # two passes
    assert max(sum(costs[at] for at in one) for one in tight) <= 100
    assert deal_out([500, 1], 2, 100) == [[0], [1]]  # one sample may be larger than the room
    assert deal_out([5], 2, 100) == [[0], []]


def test_the_parts_of_all_ranks_make_up_the_whole():
    @dataclass
    class Fake(Solo):
        rank: int
        size: int

    rows = random_rows(9, seed=3)
    shares = [share_of(rows[:2]), share_of(rows[2:3]), share_of(rows[3:])]
    parts = [deal(Fake(rank, 3), shares, 60) for rank in range(3)]
    assert len({len(own) for own in parts}) == 1
    flat = [part for own in parts for part in own]
    places = torch.cat([part.at_N for part in flat])
    assert sorted(places.tolist()) == list(range(sum(row.targets for row in rows)))
    dealt = [row for part in flat if len(part.at_N) for share in part.shares for row in share.rows]
    assert {id(row) for row in dealt} == {id(row) for row in rows}


# ---------------------------------------------------------------- equal to one device


@dataclass
class Outcome:
    weights: list[torch.Tensor]
    losses: list[float]
    kinds: list[str]
    budget: int


def _pairs(count: int, seed: int) -> tuple[Sample, ...]:
    rows = random_rows(2 * count, seed=seed)
    return tuple(Sample(rows[at : at + 2]) for at in range(0, 2 * count, 2))


def _mix(base: BaseModel, work_dir: Path, options: dict[str, Any]) -> Outcome:
    """Three unlike jobs, the last of which comes late."""
    specs = [
        make_spec(lora=LoraSpec(rank=4, alpha=8.0), batch_size=3, n_epochs=3),
        make_spec(
            lora=LoraSpec(rank=16, alpha=8.0, target_modules=("q_proj", "v_proj"), dropout=0.2),
            optimizer=OptimizerSpec(learning_rate=5e-3, max_grad_norm=0.1),
            batch_size=8,
            seed=7,
        ),
        make_spec(lora=LoraSpec(rank=8, alpha=8.0), method=Dpo(beta=0.2), batch_size=2, seed=8),
    ]
    data = [random_rows(8, seed=0), random_rows(20, seed=1, longest=80), _pairs(6, seed=2)]
    held_out = [random_rows(5, seed=3), (), _pairs(3, seed=4)]
    jobs = [
        make_job(base, spec, work_dir, train=train, valid=valid, job_id=f"ftjob-{at}")
        for at, (spec, train, valid) in enumerate(zip(specs, data, held_out, strict=True))
    ]
    loop, reports = make_loop(base, *jobs[:2], budget=options.get("budget", 90))
    for active in loop._active.values():
        active.tight = options.get("tight", False)
    for _ in range(3):
        loop.turn()
    loop.admit(jobs[2])
    while not loop.idle:
        loop.turn()
    return Outcome(
        [job.adapter.weights_P for job in jobs],
        [loss for job in jobs for loss in (job.train_loss, job.state.valid_loss or 0.0)],
        sorted(type(report).__name__ for report in reports if not isinstance(report, Stepped)),
        loop.budget.tokens,
    )


@pytest.fixture(scope="module")
def solo_mix(base64, tmp_path_factory) -> Outcome:
    return _mix(base64, tmp_path_factory.mktemp("solo"), {})


@pytest.mark.parametrize("options", [{}, {"budget": 400}, {"tight": True}])
def test_jobs_on_two_ranks_end_as_on_one(pair, solo_mix, tmp_path, options):
    ours = pair.call(_mix, tmp_path, options)
    for outcome in ours:
        assert outcome.kinds == solo_mix.kinds
        assert outcome.losses == pytest.approx(solo_mix.losses, rel=1e-9)
        for weights_P, expected_P in zip(outcome.weights, solo_mix.weights, strict=True):
            assert float((weights_P - expected_P).norm() / expected_P.norm()) < 1e-9
    # Replicas stay the same to the bit, or they would drift apart.
    assert _digest(ours[0]) == _digest(ours[1])


def _digest(outcome: Outcome) -> str:
    return hashlib.sha256(b"".join(w.numpy().tobytes() for w in outcome.weights)).hexdigest()


def _one_row(base: BaseModel, work_dir: Path) -> tuple[torch.Tensor, int]:
    """A rank has nothing to do in any pass."""
    job = make_job(base, make_spec(batch_size=1), work_dir, train=random_rows(2, seed=1))
    idle = sum(
        not len(part.at_N) for part in deal(base.crew, [job.take(99, at_least_one=True)], 99)
    )
    job.restart_step()
    loop, _ = make_loop(base, job)
    while not loop.idle:
        loop.turn()
    return job.adapter.weights_P, idle


def test_a_rank_without_rows_takes_part_all_the_same(pair, base64, tmp_path):
    expected_P, _ = _one_row(base64, tmp_path / "solo")
    ours = pair.call(_one_row, tmp_path / "ranks")
    assert [idle for _, idle in ours] == [0, 1]
    for weights_P, _ in ours:
        torch.testing.assert_close(weights_P, expected_P, rtol=0, atol=1e-9)


def test_the_idle_share_weighs_nothing(base64):
    batch = base64.assemble([idle_share()])
    hidden_ND = base64.hidden(batch)[batch.predicts_N].detach().requires_grad_()
    assert batch.wanted.weights_N.tolist() == [0.0]
    assert torch.isfinite(hidden_ND).all()


def _bytes_here(base: BaseModel) -> tuple[int, int]:
    """Of the decoder layers on this rank, and of the whole ones."""
    weights = [parameter.detach() for parameter in base.decoder.layers.parameters()]
    local = [w.to_local() if hasattr(w, "to_local") else w for w in weights]
    return sum(w.nbytes for w in local), sum(w.numel() * w.itemsize for w in weights)


def test_each_rank_holds_half_of_the_layers(pair, base64):
    _, whole = _bytes_here(base64)
    for here, total in pair.call(_bytes_here):
        assert total == whole
        assert here == pytest.approx(whole / 2, rel=0.01)


def _full_disk(base: BaseModel, work_dir: Path) -> tuple[list[str], list[str], list[str]]:
    """One job's folder is a file, where only the leader would notice."""
    rows = random_rows(8, seed=1)
    broken = make_job(base, make_spec(), work_dir, train=rows, valid=rows, job_id="broken")
    healthy = make_job(base, make_spec(n_epochs=1), work_dir, train=rows, job_id="healthy")
    if base.crew.rank == 0:
        work_dir.mkdir()
        (work_dir / "broken").write_text("not a folder")
    loop, reports = make_loop(base, broken, healthy)
    while not loop.idle:
        loop.turn()
    return (
        [f"{report.job_id} {report.code}" for report in of_kind(reports, Failed)],
        [report.job_id for report in of_kind(reports, Finished)],
        [report.job_id for report in of_kind(reports, Evaluated)],
    )


def test_a_disk_that_is_full_for_the_leader_fails_the_job_on_all_ranks(pair, tmp_path):
    for failed, finished, evaluated in pair.call(_full_disk, tmp_path / "work"):
        assert failed == ["broken storage_error"]
        assert finished == ["healthy"]
        assert evaluated == ["broken"]


def _shrinks(base: BaseModel, work_dir: Path) -> tuple[torch.Tensor, int]:
    """Rank 1 runs out of memory, again and again, at different products."""
    calls = 0

    def breathe() -> None:
        nonlocal calls
        calls += 1
        if calls in {5, 30, 60} and base.crew.rank == 1:
            raise torch.OutOfMemoryError

    job = make_job(base, make_spec(batch_size=8), work_dir, train=random_rows(16, seed=2))
    loop, _ = make_loop(base, job, budget=256)
    base.routing.breathe, before = breathe, base.routing.breathe
    try:
        while not loop.idle:
            loop.turn()
    finally:
        base.routing.breathe = before
    return job.adapter.weights_P, loop.budget.tokens


def test_running_out_of_memory_on_one_rank_halves_the_budget_of_all(pair, base64, tmp_path):
    expected_P, _ = _shrinks(base64, tmp_path / "solo")  # where nothing fails
    ours = pair.call(_shrinks, tmp_path / "ranks")
    assert ours[0][1] == ours[1][1] < 256
    for weights_P, _ in ours:
        torch.testing.assert_close(weights_P, expected_P, rtol=0, atol=1e-9)


def _pauses(base: BaseModel, work_dir: Path) -> tuple[list[int], list[int], torch.Tensor]:
    """Trains for a while, keeps the job, drops it, and goes on from what was kept."""
    spec, rows = make_spec(n_epochs=4), random_rows(12, seed=2)
    job = make_job(base, spec, work_dir, train=rows)
    loop, reports = make_loop(base, job, budget=32, export_seconds=0.0)
    while job.state.step < 4:
        loop.turn()
    loop.turn()
    loop.keep("ftjob-1")
    loop.drop("ftjob-1")
    kept = [one.step for one in of_kind(reports, Checkpointed)]
    resumed = make_job(base, spec, work_dir, train=rows)
    kept.append(checkpoint.resume(resumed))
    loop, more = make_loop(base, resumed, budget=32, export_seconds=0.0)
    while not loop.idle:
        loop.turn()
    exported = of_kind(reports, Exported) + of_kind(more, Exported)
    assert all((one.adapter_dir / "adapter_config.json").exists() for one in exported)
    return kept, [one.manifest.result.steps for one in exported], resumed.adapter.weights_P


def test_ranks_pause_and_export_together(pair, base64, tmp_path):
    alone = _pauses(base64, tmp_path / "solo")
    assert alone[0][0] == alone[0][1] >= 4
    for kept, exported, weights_P in pair.call(_pauses, tmp_path / "ranks"):
        assert kept[0] == kept[1] >= 4
        assert exported == alone[1] == [3, 6, 9]
        torch.testing.assert_close(weights_P, alone[2], rtol=0, atol=1e-9)


# ---------------------------------------------------------------- the process


@pytest.fixture
def start(model_dir, tmp_path):
    """Starts warm processes of so many ranks and ends them."""
    started: list[Warm] = []

    def start(ranks: int) -> Warm:
        trainer = {"threads": 1, "checkpoint_seconds": 0.1}
        models = [{"id": "tiny", "source": str(model_dir)}]
        config = {"ledger": {"home": str(tmp_path), "base_models": models}, "trainer": trainer}
        home = tmp_path / f"home-{ranks}"
        home.mkdir()
        (home / "graft.yaml").write_text(json.dumps(config))
        started.append(Warm(home, ",".join(["cpu"] * ranks)))
        started[-1].connection.settimeout(PATIENCE)
        return started[-1]

    yield start
    for warm in started:
        warm.close()


def _followers(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


def _gone(pid: int) -> bool:
    """Dead; whoever inherited it may not have buried it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while not _gone(pid):
        assert time.monotonic() < deadline, f"{pid} still runs"
        time.sleep(0.05)


def _adapter(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "adapter_model.safetensors")


def test_ranks_obey_orders_die_together_and_continue_in_another_number(start, tmp_path):
    before = _train_until_a_rank_dies(start(ranks=3), tmp_path)
    _go_on_until_told_to_stop(start(ranks=2), tmp_path, *before)


def _train_until_a_rank_dies(warm: Warm, tmp_path: Path) -> tuple[Path, Admit, int]:
    assert isinstance(warm.next(), Ready)
    followers = _followers(warm.process.pid)
    assert len(followers) == 2

    warm.order(admit(tmp_path, "straight", n_epochs=6))
    straight = warm.until(Finished)
    assert {type(report) for report in straight} >= {Started, Stepped, Evaluated, Checkpointed}

    warm.order(admit(tmp_path, "dropped", n_epochs=10_000))
    warm.until(Stepped)
    warm.order(Drop(job_id="dropped"))
    assert warm.until(Dropped)[-1] == Dropped(job_id="dropped")

    order = admit(tmp_path, "resumed", n_epochs=6)
    warm.order(order)
    kept = warm.until(Checkpointed)[-1].step
    os.kill(followers[1], signal.SIGKILL)
    assert warm.process.wait(10) == 3
    for follower in followers:  # also the one that nobody killed: its leader died without a word
        _wait_until_gone(follower)
    return straight[-1].adapter_dir, order, kept


def _go_on_until_told_to_stop(
    warm: Warm, tmp_path: Path, straight: Path, order: Admit, kept: int
) -> None:
    assert isinstance(warm.next(), Ready)
    (follower,) = _followers(warm.process.pid)
    warm.order(order)
    resumed = warm.until(Finished)
    assert resumed[0].resumed_from_step >= kept
    expected, ours = _adapter(straight), _adapter(resumed[-1].adapter_dir)
    for name, tensor in expected.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-3, atol=1e-5)

    warm.order(admit(tmp_path, "kept", n_epochs=10_000))
    warm.until(Stepped)
    warm.order(Shutdown())
    assert warm.process.wait(PATIENCE) == 0
    _wait_until_gone(follower)
    assert list((tmp_path / "kept" / "checkpoints").glob("step-*"))
