"""`python -m bench [NAME...]`: measure, and print ratios. bench/LOG.md keeps what was found."""

import argparse
import contextlib
import importlib
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.measure import RIVALS, CannotRun, Settings
from bench.table import Table

#: The quick ones first. A benchmark is the module of that name with a function `run(settings) -> Table`; imported only
#: when it runs, since half of them load torch.
BENCHMARKS = {
    "resolve": "what a `model` means, with up to 10000 adapters: the catalog against a dict",
    "scrape": "what Prometheus reads of a service with 1000 adapters: milliseconds and bytes",
    "quota": "what a request does for its tenant's quota, against a tenant that nothing bounds",
    "traces": "what it costs a request that it may be traced: off, and a share of them told",
    "hop": "the service in front of an engine against the engine alone",
    "admit": "from an order to the first step: a running process against one started for the job",
    "train": "optimizer steps of warm jobs against PEFT, TRL and LLaMA-Factory, and against the machine's limit",
}
#: Those that take long or want other hardware run only when they are named.
ON_REQUEST = {
    "hop_engine": "the same with a real vLLM: tokens a second, first tokens, processor time",
    "cold_load": "a request whose adapter has to come in first, and what running streams notice of it",
    "engine_cpu": "an engine on a CPU as we start it, against vLLM's own way with processes and threads",
    "lora_cpu": "how vLLM multiplies by adapters on a CPU, against a product for each adapter",
    "train_e2e": "eight POST /finetune until all adapters answer, against eight runs of LLaMA-Factory's command",
    "train_gpu": "the trainer on models made from shapes, on a GPU or, with --shape tiny, on a CPU",
}
#: Fewer than this are good for trying a benchmark out, not for its log.
ENOUGH_ROUNDS = 5


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    parsed = _parse(arguments)
    if parsed.list:
        for name, what in (BENCHMARKS | ON_REQUEST).items():
            print(f"{name:12}{what}{'' if name in BENCHMARKS else ' (on request)'}")
        return 0
    if parsed.rounds < ENOUGH_ROUNDS:
        _say(f"{parsed.rounds} rounds: enough to try it out, too few to quote.")
    tables = []
    with _home(parsed.home) as home:
        for name in parsed.names or BENCHMARKS:
            _say(f"{name} ...")
            try:
                tables.append(_run(name, _settings(parsed, home)))
            except CannotRun as reason:
                _say(f"{name}: {reason}")
                return 1
            if not parsed.json:
                print(f"{tables[-1].as_text()}\n", flush=True)
    if parsed.json:
        print(json.dumps({"machine": machine(), "tables": [t.as_json() for t in tables]}, indent=2))
    else:
        print("ratio: times as fast as the peer, so above 1 ours is faster; median of the rounds.")
        print(", ".join(f"{key} {value}" for key, value in machine().items()))
    return 0


def machine() -> dict[str, str | int | float]:
    """What the figures depend on, most of all the load: much above 1 means that others were at work."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 0,
        "load": round(os.getloadavg()[0], 1),
    }


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="benchmarks; by default all but those on request"
    )
    parser.add_argument("--rounds", type=_count, default=7, help="pairs of measurements")
    parser.add_argument("--home", type=Path, help="where prepared base models lie, or will")
    parser.add_argument("--threads", type=_count, default=2, help="of everyone who trains")
    parser.add_argument("--rivals", type=Path, default=RIVALS, help="where bench-rivals put them")
    parser.add_argument("--peers", type=_names, default=(), help="train: peft,trl,llamafactory")
    parser.add_argument("--workloads", type=_names, default=(), help="train: by default all")
    parser.add_argument("--shape", default="1b", help="train_gpu: 1b, 8b or tiny")
    parser.add_argument("--list", action="store_true", help="list the benchmarks")
    parser.add_argument("--json", action="store_true", help="every measurement, as JSON")
    parsed = parser.parse_args(arguments)
    for name in parsed.names:
        if name not in BENCHMARKS | ON_REQUEST:
            known = ", ".join(BENCHMARKS | ON_REQUEST)
            parser.error(f"there is no benchmark '{name}'; there are: {known}")
    return parsed


def _settings(parsed: argparse.Namespace, home: Path) -> Settings:
    return Settings(
        rounds=parsed.rounds,
        home=home,
        threads=parsed.threads,
        rivals=parsed.rivals.expanduser().absolute(),
        peers=parsed.peers,
        workloads=parsed.workloads,
        shape=parsed.shape,
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


@contextlib.contextmanager
def _home(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given.expanduser().absolute()
        return
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as directory:
        yield Path(directory)


def _run(name: str, settings: Settings) -> Table:
    table: Table = importlib.import_module(f"bench.{name}").run(settings)
    return table


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    # Through every `finally`, so that no process under measurement is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
