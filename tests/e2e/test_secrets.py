"""After a run, neither secrets nor phone numbers are anywhere but where they belong."""

import json

import pytest

from e2e.company import STEPS, Company
from otlp import Receiver

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(300)]


def test_no_secret_and_no_phone_number_in_logs_spans_records_or_xcom(company: Company, stack_spans: Receiver):
    company.sandbox.faults.add("errcode", path="user/list", code="-1", times=1)
    good = company.run()
    company.sandbox.faults.add("errcode", path="full/sync", code="400", text="bad", times=None)
    bad = company.run()
    company.sandbox.faults.clear()
    assert (company.state(good), company.state(bad)) == ("success", "failed")

    options = company.sandbox.options
    forbidden = [options.app_secret, options.client_secret, options.phone_salt_secret, "access_token="]
    forbidden += [str(user.mobile) for user in company.sandbox.organisation.users.values()]
    texts = {str(path): path.read_text(errors="replace") for path in company.stack.home.rglob("*.log")}
    assert any("run_id=" in path for path in texts), "no task logs were found"
    for table in ("saga_transactions", "saga_steps", "saga_events", "task", "staged_users", "known_users"):
        texts[table] = json.dumps(company.rows(f"SELECT * FROM {table}"), default=str, ensure_ascii=False)
    for run_id in (good, bad):
        for task_id in [*STEPS, "settle_saga", "saga_outcome"]:
            texts[f"xcom of {task_id}"] = json.dumps(company.stack.api.xcoms("full_sync", run_id, task_id))
    assert all(stack_spans.spans(company.saga(run_id)["transaction_id"]) for run_id in (good, bad))
    texts["spans"] = b"".join(stack_spans.bodies).decode(errors="replace")
    found = [(where, word) for where, text in texts.items() for word in forbidden if word in text]
    assert found == []
