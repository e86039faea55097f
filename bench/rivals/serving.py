"""The rival's side: train on command, and time the steps. Runs in the rival's environment, never in ours."""

import argparse
import socket
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from bench.rivals.orders import Order, Reply, decode_order, encode


class StepClock(TrainerCallback):
    """Notes when each step of a transformers Trainer ends, and what it logs of it."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []
        self.grad_norms: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """The optimizer has stepped."""
        self.ends.append(time.perf_counter())

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        """Once for each step; the summary at the end has no gradient norm."""
        if logs and "grad_norm" in logs:
            self.losses.append(float(logs["loss"]))
            self.grad_norms.append(float(logs["grad_norm"]))

    def reply(self, order: Order) -> Reply:
        """From the end of the last untimed step to the end of the last one."""
        assert len(self.ends) == len(self.losses) == order.total_steps, "other steps than ordered"
        return Reply(
            seconds=self.ends[-1] - self.ends[order.untimed_steps - 1],
            losses=self.losses,
            grad_norms=self.grad_norms,
        )


def serve(train: Callable[[Order, StepClock], None]) -> None:
    """Until the other side hangs up. An empty line says that everything is imported."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parsed = parser.parse_args()
    torch.set_num_threads(parsed.threads)
    with socket.socket(fileno=parsed.fd) as connection, connection.makefile("rb") as lines:
        connection.sendall(b"\n")
        for line in lines:
            order = decode_order(line)
            clock = StepClock()
            train(order, clock)
            connection.sendall(encode(clock.reply(order)))
