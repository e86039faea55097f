"""The token budget over passes that fit, passes that do not, and memory that comes and goes."""

import pytest

from trainer.warm.budget import FIRST, PATIENCE, SMALLEST, USABLE, TokenBudget
from trainer.warm.meters import GIB, Blind


class Memory:
    """A device on which a token takes so many bytes. Obeys Meter."""

    def __init__(self, free, per_token=1000):
        self.left, self.per_token = free, per_token
        self.tokens = self.released = 0

    def begin(self):
        self.began = True

    def took(self):
        return self.tokens * self.per_token

    def free(self):
        return self.left

    def release(self):
        self.released += 1


def spend(budget, memory, tokens=None):
    memory.tokens = budget.tokens if tokens is None else tokens
    with budget.spent(memory.tokens):
        pass


def test_probing_doubles_up_to_the_most():
    memory = Memory(free=10**12)
    budget = TokenBudget(5000, memory)
    seen = [budget.tokens]
    for _ in range(6):
        spend(budget, memory)
        seen.append(budget.tokens)
    assert seen == [FIRST, 512, 1024, 2048, 4096, 5000, 5000]


def test_probing_stops_at_what_will_fit_by_what_a_token_took():
    memory = Memory(free=1_000_000)
    budget = TokenBudget(100_000, memory)
    for _ in range(20):
        spend(budget, memory)
        assert budget.tokens * memory.per_token <= USABLE * memory.left
    assert budget.tokens == USABLE * 1000


def test_small_passes_do_not_raise_what_has_not_been_tried():
    memory = Memory(free=10**12)
    budget = TokenBudget(5000, memory)
    for _ in range(10):
        spend(budget, memory, tokens=100)
    assert budget.tokens == FIRST


def test_it_shrinks_when_others_take_memory_and_comes_back():
    memory = Memory(free=10**9)
    budget = TokenBudget(8192, memory)
    for _ in range(6):
        spend(budget, memory)
    assert budget.tokens == 8192
    memory.left = 2_000_000
    spend(budget, memory)
    assert budget.tokens == USABLE * 2000
    memory.left = 0
    spend(budget, memory)
    assert budget.tokens == SMALLEST
    memory.left = 10**9
    for _ in range(12):
        spend(budget, memory)
    assert budget.tokens == 8192


def test_a_pass_that_fails_halves_it_and_counts_for_nothing():
    memory = Memory(free=10**9)
    budget = TokenBudget(1024, memory)
    spend(budget, memory)
    known = budget.bytes_per_token
    memory.per_token = 10**6
    with pytest.raises(MemoryError), budget.spent(512):
        raise MemoryError
    assert budget.bytes_per_token == known
    budget.failed(512)
    assert (budget.tokens, memory.released) == (256, 1)
    budget.failed(100)  # it failed at less than the budget
    assert budget.tokens == 50
    for _ in range(9):
        budget.failed(budget.tokens)
    assert budget.tokens == SMALLEST


def test_after_patience_it_rises_by_quarters_up_to_the_most():
    budget = TokenBudget(1000, Blind())
    assert budget.tokens == 1000
    budget.failed(1000)
    seen = []
    for _ in range(4 * PATIENCE):
        with budget.spent(budget.tokens):
            pass
        seen.append(budget.tokens)
    assert seen[PATIENCE - 2] == 500
    assert seen[PATIENCE - 1 :: PATIENCE] == [625, 781, 976, 1000]


def test_one_odd_pass_is_forgotten():
    memory = Memory(free=10**7)
    budget = TokenBudget(4096, memory)
    memory.per_token = 100_000
    spend(budget, memory)
    assert budget.tokens == USABLE * 100
    memory.per_token = 1000
    for _ in range(300):
        spend(budget, memory)
    assert budget.tokens == 4096


def test_after_a_lasting_squeeze_only_passes_of_few_tokens_remain_and_still_it_recovers():
    """Passes below TELLING teach nothing about a token, so that what is known of it has to fade by itself."""
    memory = Memory(free=10**6)
    budget = TokenBudget(4096, memory)
    memory.per_token = 100_000
    spend(budget, memory)
    assert budget.tokens == SMALLEST
    memory.per_token = 100
    for _ in range(600):
        spend(budget, memory)
    assert budget.tokens == 4096


def test_without_a_meter_it_is_what_it_was_set_to():
    budget = TokenBudget(777, Blind())
    for _ in range(3):
        with budget.spent(100):
            pass
    assert (budget.tokens, budget.numbers()) == (777, "")


def test_an_error_message_has_numbers():
    assert TokenBudget(777, Memory(free=int(1.5 * GIB))).numbers() == " 1.5 GiB are free."
