"""What it costs a request that its tenant's requests and tokens are counted."""

from adapters.settings import Quota
from bench.measure import Settings, interleave, seconds, spread
from bench.table import Row, Table
from service.rates import Rates, foresee

CALLS = 20_000
#: Never reached.
PLENTY = 1_000_000_000
BODY = {"model": "support-bot", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 64}


def run(settings: Settings) -> Table:
    """Against a tenant that nothing bounds."""
    bounded = Rates(Quota(requests_per_minute=PLENTY, tokens_per_minute=PLENTY))
    free = Rates(Quota())
    pairs = interleave(settings.rounds, lambda: _microseconds(bounded), lambda: _microseconds(free))
    ours, peer = [mine for mine, _ in pairs], [other for _, other in pairs]
    added = spread([mine - other for mine, other in pairs])
    note = f"adds {added.median:.2f} us ({added.low:.2f}..{added.high:.2f})"
    return Table(
        name="quota",
        what=(
            f"microseconds of what a request does for its tenant's quota: estimate, take from both buckets, settle, six "
            f"headers. {CALLS} calls a round, no request around them. The peer is a tenant that nothing bounds"
        ),
        rows=[
            Row(
                name="requests and tokens bounded; peer: nothing bounded",
                unit="us",
                better="lower",
                ours=ours,
                peer=peer,
                note=note,
            )
        ],
    )


def _microseconds(rates: Rates) -> float:
    """Of one request."""

    def all_calls() -> None:
        for _ in range(CALLS):
            foreseen = foresee(BODY, 160)
            rates.admit(foreseen)
            rates.settle(foreseen, "ok", 12, 40)
            rates.headers()

    return 1e6 * seconds(all_calls) / CALLS
