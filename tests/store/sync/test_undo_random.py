"""Undo over random organisations: what may go back does, everything else stays, and all of it fits."""

import pytest

from nancalacc.config import AccountSource
from random_organisations import RandomOrganisation
from store.sync.batches import Batches
from store.sync.test_undo import SHOWN, Undo, content, many_may_go  # noqa: F401 - an automatic fixture
from store.sync.test_verify import see

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CASES = [(1, AccountSource.USERID), (2, AccountSource.JOB_NUMBER), (3, AccountSource.USERID)]


def objects(directory) -> dict:
    """Departments and people by kind and id; not leaders, who go when the other one goes."""
    found = content(directory)
    return {("departments", key): value for key, value in found["departments"].items() if key != "0"} | {
        ("users", key): tuple(part for name, part in zip(SHOWN, value, strict=True) if name != "leader")
        for key, value in found["users"].items()
    }


@pytest.mark.parametrize("seed, source", CASES)
def test_undone_at_once_wps_is_as_before_whatever_came_by_events(sync, sandbox, seed: int, source):
    sync.company.change("wps", account_source=source.value)
    sync.complete()
    batches = Batches(sync)
    changing = RandomOrganisation(sandbox.organisation, seed=seed, kept=frozenset({100}))
    batches.observe()
    for _ in range(15):
        changing.change()
    batches.drain()
    before = content(sandbox.directory)
    sandbox.organisation.observer = None
    for _ in range(30):
        changing.change()
    wrong = sync.complete()
    undo = Undo(sync, wrong.transaction_id).complete()
    assert undo.left == set()
    assert content(sandbox.directory) == before
    assert see(sync).differences.number == 0


@pytest.mark.parametrize("seed, source", CASES)
def test_undone_later_every_object_is_as_before_or_as_it_is(sync, sandbox, seed: int, source):
    sync.company.change("wps", account_source=source.value)
    sync.complete()
    changing = RandomOrganisation(sandbox.organisation, seed=seed, kept=frozenset({100}))
    for _ in range(20):
        changing.change()
    sync.complete()
    before = objects(sandbox.directory)
    for _ in range(30):
        changing.change()
    wrong = sync.complete()
    published = objects(sandbox.directory)
    for _ in range(30):
        changing.change()
    sync.complete()
    present = objects(sandbox.directory)
    undo = Undo(sync, wrong.transaction_id).complete()
    now = objects(sandbox.directory)
    left = {(kind, key) for kind, key, _ in undo.left}
    for each in before.keys() | published.keys() | present.keys():
        was, became, is_, ended = (state.get(each) for state in (before, published, present, now))
        stays = each in left or was == became
        assert ended == (is_ if stays else was), each
    assert see(sync).differences.number == 0
