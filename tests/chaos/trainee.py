"""Real LoRA training of the tiny model, in processes that are forked from one that has loaded everything.

A line on standard input names a folder and a seed; the forked process trains there, continuing what lies there, and
writes each step's loss down as it is made. Every bit of it: the loss in hexadecimal.
"""

import os
import signal
import sys
from pathlib import Path


def train(base, folder: Path, seed: int) -> None:
    from tests.integration.training.tiny import (
        make_job,
        make_loop,
        make_spec,
        of_kind,
        random_rows,
        run_to_end,
    )
    from trainer.messages import Finished
    from trainer.warm.checkpoint import resume

    spec = make_spec(n_epochs=12, seed=seed)
    train, valid = random_rows(24, seed=seed), random_rows(4, seed=seed + 1)
    job = make_job(base, spec, folder, train=train, valid=valid)
    resume(job)
    losses = (folder / "losses").open("a", buffering=1)
    finish_step = job.finish_step

    def note():
        done = finish_step()
        if done is not None:
            losses.write(f"{job.state.step} {done.loss.hex()}\n")
        return done

    job.finish_step = note
    loop, reports = make_loop(base, job, checkpoint_seconds=0.01)
    run_to_end(loop)
    [finished] = of_kind(reports, Finished)
    (folder / "finished").write_text(str(finished.adapter_dir))


def main() -> None:
    import torch

    torch.set_num_threads(1)
    from tests.chaos.toy import die_with_parent
    from tests.integration.training.tiny import make_base, write_model

    model = Path(sys.argv[1])
    write_model(model)
    base = make_base(model)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        folder, seed = line.split()
        pid = os.fork()
        if pid == 0:
            die_with_parent()
            try:
                train(base, Path(folder), int(seed))
            finally:
                os._exit(0)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
