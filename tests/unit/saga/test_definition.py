from dataclasses import replace

import pytest

from nancalacc.errors import ConfigurationError
from nancalacc.saga.checkpoint import Checkpoint
from nancalacc.saga.definition import SagaDefinition, Step, StepKind, step_id_of, transaction_id_of


def step(name: str, *depends_on: str, kind: StepKind = StepKind.COMPENSABLE) -> Step:
    return Step(name, lambda context: {}, depends_on=depends_on, kind=kind)


PIVOT, RETRIABLE = StepKind.PIVOT, StepKind.RETRIABLE


@pytest.mark.parametrize(
    "steps, complaint",
    [
        ((), "no steps"),
        ((step("a"), step("a")), "two steps named 'a'"),
        ((step(""),), "1 to 27 characters"),
        ((step("x" * 28),), "1 to 27 characters"),
        ((step("a", "b"),), "depends on 'b'"),
        ((step("a", "b"), step("b")), "not an earlier step"),
        ((step("a", "a"),), "not an earlier step"),
        ((step("a", kind=PIVOT), step("b", "a", kind=PIVOT)), "two pivots"),
        ((step("a", kind=RETRIABLE),), "is retriable"),
        ((replace(step("a", kind=PIVOT), skippable=True),), "cannot be skippable"),
        ((step("a", kind=PIVOT), step("b", "a")), "is compensable"),
    ],
)
def test_a_definition_that_contradicts_itself_is_refused(steps: tuple[Step, ...], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        SagaDefinition("toy", steps)


def checkpoint(name: str, after: tuple[str, ...], before: tuple[str, ...]) -> Checkpoint:
    return Checkpoint(name, lambda look: None, lambda look, key, answer: None, after=after, before=before)


@pytest.mark.parametrize(
    "checkpoints, complaint",
    [
        ((checkpoint("", ("a",), ("b",)),), "1 to 64 characters"),
        ((checkpoint("x" * 65, ("a",), ("b",)),), "1 to 64 characters"),
        ((checkpoint("a", ("a",), ("b",)),), "no other's"),
        ((checkpoint("x", ("a",), ("b",)), checkpoint("x", ("a",), ("b",))), "no other's"),
        ((checkpoint("x", (), ("b",)),), "between two steps"),
        ((checkpoint("x", ("a",), ()),), "between two steps"),
        ((checkpoint("x", ("c",), ("b",)),), "'b' must depend on everything .*: c"),
        ((checkpoint("x", ("a",), ("nowhere",)),), "no step 'nowhere'"),
    ],
)
def test_a_checkpoint_that_stands_nowhere_is_refused(
    checkpoints: tuple[Checkpoint, ...], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        SagaDefinition("toy", (step("a"), step("b", "a"), step("c", "a")), checkpoints)


def test_a_checkpoint_is_found_by_its_name() -> None:
    stands = checkpoint("x", ("a",), ("b",))
    definition = SagaDefinition("toy", (step("a"), step("b", "a")), (stands,))
    assert definition.checkpoint("x") is stands
    with pytest.raises(ConfigurationError, match="no checkpoint 'y'"):
        definition.checkpoint("y")


def test_the_longest_step_name_gives_a_step_id_that_fits_the_column() -> None:
    SagaDefinition("toy", (step("x" * 27),))
    assert len(step_id_of(transaction_id_of(dag_id="d", run_id="r"), "x" * 27)) == 64


def test_an_unknown_step_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="no step 'c'; it has a, b"):
        SagaDefinition("toy", (step("a"), step("b", "a")))["c"]


def test_predecessors_are_all_that_must_be_done_before_in_order() -> None:
    definition = SagaDefinition(
        "toy", (step("a"), step("b", "a"), step("c", "a"), step("d", "c"), step("e", "b"))
    )
    assert [each.name for each in definition.predecessors("d")] == ["a", "c"]
    assert [each.name for each in definition.predecessors("a")] == []
    assert definition.position("d") == 4


def test_a_transaction_id_is_the_same_for_the_same_run_and_no_other() -> None:
    one = transaction_id_of(dag_id="full_sync", run_id="manual__1")
    assert one == "170a74f9-84dc-5969-a171-31b59719ad1a"
    assert one == transaction_id_of(dag_id="full_sync", run_id="manual__1")
    assert one != transaction_id_of(dag_id="full_sync", run_id="manual__2")
    assert one != transaction_id_of(dag_id="incremental_sync", run_id="manual__1")
