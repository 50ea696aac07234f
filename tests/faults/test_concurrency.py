"""Several processes' worth of actors do anything to one saga at the same time."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from nancalacc.errors import (
    CallRefusedError,
    GuardError,
    IllegalTransitionError,
    NancalaccError,
    TransientError,
    UnknownOutcomeError,
)
from nancalacc.saga.coordinator import RunView
from toy_saga import NAMES, Toy, check_ended, check_events, together

ACTORS = 4
ACTIONS = 12


def act(saga: Toy, *, seed: int) -> list[str]:
    """Do things by chance; returns the errors that are none of the engine's own or of the hook's."""
    chance = random.Random(seed)
    surprises = []

    def hook(point: str, context: Any) -> None:
        if chance.random() < 0.06:
            kind = chance.choice([TransientError, GuardError])
            if point == "publish:call":
                kind = chance.choice([CallRefusedError, UnknownOutcomeError])
            raise kind(point)

    saga.services.hook = hook
    view = RunView(green=frozenset({"validate", "fetch", "left"}))
    things: list[tuple[int, Callable[[], Any]]] = [
        (6, lambda: saga.run(chance.choice(NAMES))),
        (2, lambda: saga.run(chance.choice(NAMES), run=view)),
        (2, lambda: saga.retry(chance.choice(NAMES))),
        (1, lambda: saga.fail(chance.choice(NAMES), "failed")),
        (1, lambda: saga.skip("left")),
        (1, lambda: saga.settle(chance.choice([view, RunView()]))),
        (2, saga.conclude),
        (1, saga.cancel),
        (1, lambda: saga.compensate(chance.choice(NAMES))),
    ]
    weights, calls = zip(*things, strict=True)
    for call in chance.choices(calls, weights=weights, k=ACTIONS):
        try:
            call()
        except NancalaccError as error:
            if "changed by somebody else" in str(error) or "SQLSTATE" in str(error):
                surprises.append(repr(error))
    return surprises


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_whatever_actors_do_at_once_the_saga_can_be_ended_and_is_consistent(
    another: Callable[..., Toy], seed: int
) -> None:
    actors = [another(stale_seconds=30) for _ in range(ACTORS)]
    surprises = together(
        *(lambda actor=actor, n=n: act(actor, seed=100 * seed + n) for n, actor in enumerate(actors))
    )
    last = another()
    check_events(last.events)
    for _ in range(3):
        try:
            last.conclude()
            break
        except IllegalTransitionError:
            continue
    check_ended(last)
    assert surprises == [[]] * ACTORS
