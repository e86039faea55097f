"""Everyone against us on one workload, with trainers that train nothing."""

import pytest

from bench.contest import Stage, contest
from bench.proof import Outcome
from bench.workloads import Workload, lesson

WORKLOAD = Workload(name="w", what="2 jobs", lessons=[lesson(1, [4, 8]), lesson(2, [4])], steps=2)
DONE = ((9.0, 8.0), (2.0, 1.0))


class Products:
    """Half a second for whatever is asked; remembers it."""

    def __init__(self):
        self.asked = []

    def frozen_flop(self, tokens, targets):
        return 1e9 * tokens

    def flop(self, tokens, targets):
        return self.frozen_flop(tokens, targets) * 1.25

    def seconds(self, tokens, targets, steps):
        self.asked.append((tokens, targets, steps))
        return 0.5


def trainer(seconds, losses=DONE[0], norms=DONE[1]):
    return lambda workload: Outcome(seconds, losses, norms)


def test_every_peer_has_a_row_in_real_tokens_and_the_limit_comes_last():
    products = Products()
    stage = Stage(
        {"ours": trainer(1.0), "slow": trainer(4.0), "fast": trainer(0.8)}, {"the limit": products}
    )
    slow, fast, limit = contest(3, stage, WORKLOAD)
    assert slow.name == "w, 2 jobs: slow"
    assert slow.ours == [32.0] * 3
    assert slow.ratio.median == pytest.approx(4)
    assert fast.ratio.median == pytest.approx(0.8)
    assert "padding 1.25x" in slow.note
    assert limit.name == "w: of the limit"
    assert limit.ours == [32.5] * 3, "with the adapters' products"
    assert limit.peer == [52.0] * 3, "without"
    assert limit.ratio.median == pytest.approx(0.625), "the share of the limit"
    assert products.asked == [(13, 8, 2)] * 3, "no row's last token has to be computed with"


def test_a_peer_that_did_other_work_has_no_row_and_is_named():
    stage = Stage(
        {"ours": trainer(1.0), "liar": trainer(0.1, losses=(9.0, 9.0))}, {"the limit": Products()}
    )
    with pytest.raises(AssertionError, match="loss 1") as refused:
        contest(1, stage, WORKLOAD)
    assert refused.value.__notes__ == ["w: liar"]


def test_we_are_checked_where_there_is_no_peer():
    stage = Stage({"ours": trainer(1.0, norms=(0.0, 1.0))}, {"the limit": Products()})
    with pytest.raises(AssertionError, match="gradient norm 0 is 0"):
        contest(1, stage, WORKLOAD)
