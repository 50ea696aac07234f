"""Batches beside a WPS whose windows end all the time [wps 5.3]."""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from databases import Databases
from nancalacc.sandbox.consumer import ConsumerRules
from nancalacc.sandbox.dingtalk import DingTalkRules
from nancalacc.sandbox.organisation import Placement, User, organisation_of_size
from nancalacc.sandbox.postgres import Postgres
from nancalacc.sandbox.server import SandboxOptions, running_sandbox
from store.sync.batches import Batches
from store.sync.conftest import FullSync

COMPANIES, BATCHES = 12, 17
"""Two hundred batches in all; those of one company follow each other."""
WINDOW_SECONDS = 0.1
OPTIONS = SandboxOptions(dingtalk=DingTalkRules(calls_per_second=0), consumer=ConsumerRules(full_delay=0))
LONGEST_COMMIT = 1.0
"""Seconds from the beginning of a publication to its commit in which no row may come too late for WPS."""
SLOW_COMMITS = f"""
    CREATE TABLE stalls ();
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN
        PERFORM pg_sleep(random() / 2);
        IF clock_timestamp() - now() > interval '{LONGEST_COMMIT} s' THEN
            INSERT INTO stalls DEFAULT VALUES;
        END IF;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER UPDATE OF sync_time ON tb_las_user_increment
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow();
"""
"""Commits of publications take their time; one that took too long, as this machine stood still, is noted."""


@dataclass
class Company:
    """A company with a DingTalk, a WPS and a database of its own."""

    sync: FullSync
    batches: Batches
    confirmed: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> None:
        """A full sync, then batches one after the other, each of rows that need one another."""
        self.sync.complete()
        organisation = self.sync.sandbox.organisation
        self.batches.observe()
        for number in range(BATCHES):
            # Else every batch would begin just after a second of which WPS was waited for.
            time.sleep(random.random())
            dept_id = 600 + number
            organisation.add_department(f"新{number}", dept_id=dept_id, parent_id=1)
            if number % 8 == 0:
                organisation.add_department(f"下{number}", dept_id=700 + number, parent_id=dept_id)
                dept_id = 700 + number
            organisation.add_user(User(f"w{number}", "新人", (Placement(dept_id),)))
            run = self.batches.run()
            self.confirmed.append(run.records["confirm_increments"].action_data)


@contextmanager
def company(url: str) -> Iterator[Company]:
    organisation = organisation_of_size(1, departments=1)
    with running_sandbox(organisation=organisation, database_url=url, options=OPTIONS) as sandbox:
        sync = FullSync(url, sandbox)
        batches = Batches(sync)
        # Rows that WPS is only slow to come to are not stamped anew.
        sync.settings = replace(
            sync.settings, busy_wait_seconds=120, renotify_seconds=10, confirm_seconds=300
        )
        sync.execute(SLOW_COMMITS)
        try:
            yield Company(sync, batches)
        finally:
            sync.database.close()


@pytest.fixture
def companies(postgres: Postgres, databases: Databases) -> Iterator[list[Company]]:
    with ExitStack() as stack:
        found = []
        for _ in range(COMPANIES):
            name = databases.take()
            stack.callback(databases.give_back, name)
            found.append(stack.enter_context(company(postgres.url(name))))
        yield found


@contextmanager
def ending_windows(companies: list[Company]) -> Iterator[None]:
    """Windows of every WPS end all the time, whoever asks; they do not make it refuse who does ask."""
    is_over = threading.Event()

    def end_windows() -> None:
        due = time.monotonic()
        while not is_over.wait(max(0.0, due - time.monotonic())):
            due = time.monotonic() + WINDOW_SECONDS
            for each in companies:
                each.sync.sandbox.consumer.run_increments()

    with ThreadPoolExecutor(1) as executor:
        ending = executor.submit(end_windows)
        try:
            yield
        finally:
            is_over.set()
            ending.result()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_beside_two_hundred_batches_no_row_is_missed_and_none_comes_too_early(companies: list[Company]):
    """A row committed in time is stamped once: WPS never comes back to one that it has missed."""
    with ending_windows(companies), ThreadPoolExecutor(COMPANIES) as executor:
        list(executor.map(Company.run, companies))

    for each in companies:
        assert len(each.confirmed) == BATCHES
        assert [tally["refused"] for tally in each.confirmed if tally["refused"]] == []
        missed = [tally for tally in each.confirmed if tally["stamped_again"]]
        assert len(missed) <= each.sync.value("SELECT count(*) FROM stalls")
        assert each.batches.difference() == ()
        assert len(each.sync.sandbox.consumer.runs) > 3 * BATCHES
