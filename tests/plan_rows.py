"""A plan for the console to show, as a sync would have left it."""

from psycopg.types.json import Jsonb

from console_rows import Rows

HASH = "ab" * 32
FORMULA = "=HYPERLINK(1)"
KNOWN = {"departments": 3, "users": 40, "memberships": 45}


def plan(rows: Rows, transaction_id: str, *, attempt: int = 1, removed: int = 2) -> None:
    """One department renamed and moved, `removed` people gone, one new with a name that is a formula."""
    numbers = {"added": 0, "changed": 0, "moved": 0, "disabled": 0, "removed": 0}
    counts = {kind: {"known": known, **numbers} for kind, known in KNOWN.items()}
    counts["departments"] |= {"changed": 1, "moved": 1}
    counts["users"] |= {"added": 1, "removed": removed}
    counts["memberships"] |= {"removed": 1}
    key = (transaction_id, 1, attempt)
    examples = [{"kind": "users", "sort": "removed", "uid": "u1", "did": None, "name": "员工1"}]
    rows.execute(
        "INSERT INTO sync_plans (transaction_id, epoch, attempt, third_company_id, hash, counts, examples)"
        " VALUES (%s, %s, %s, 'tenant-1', %s, %s, %s)",
        *key,
        HASH,
        Jsonb(counts),
        Jsonb(examples),
    )
    rows.execute(
        "INSERT INTO plan_subtrees VALUES (%s, %s, %s, '200', '市场部', %s)",
        *key,
        Jsonb({"users": counts["users"]}),
    )
    changes = [
        ("departments", "changed", None, "110", "新组", "一组", "200", "100", ["name", "pid"], True),
        *(
            ("users", "removed", f"u{number}", None, None, f"员工{number}", None, "200", [], False)
            for number in range(removed)
        ),
        ("users", "added", "new", None, FORMULA, None, "110", None, [], False),
        ("memberships", "removed", "u1", "200", None, None, None, None, [], False),
    ]
    for position, change in enumerate(changes, start=1):
        rows.execute(
            "INSERT INTO plan_changes (transaction_id, epoch, attempt, position, kind, action, uid, did,"
            " name, old_name, place, old_place, fields, is_moved, is_disabled, subtree, digest)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, false, '200', 'secret')",
            *key,
            position,
            *change,
        )
    rows.execute(
        "INSERT INTO known_departments (third_company_id, did, pid, name, task_id)"
        " VALUES ('tenant-1', '200', '1', '市场部', 't'), ('tenant-1', '100', '1', '研发部', 't')"
        " ON CONFLICT DO NOTHING"
    )


def decision(rows: Rows, transaction_id: str, *, is_approved: bool, by: str | None, reason: str = "") -> None:
    rows.execute(
        "INSERT INTO plan_decisions (transaction_id, plan_hash, is_approved, decided_by, reason)"
        " VALUES (%s, %s, %s, %s, %s)",
        transaction_id,
        HASH,
        is_approved,
        by,
        reason,
    )


def everything(rows: Rows, transaction_id: str) -> None:
    """All that a running sync can show: a plan that waits for a person, calls, and a look at WPS."""
    plan(rows, transaction_id, removed=120)
    calls = {"total": 1452, "expected_seconds": 96.0, "limit_seconds": 10800, "basis": "earlier"}
    done = {
        "validate_task": {"call_plan": calls},
        "fetch_dingtalk_data": {"budget": {"planned": calls, "happened": {"total": 1460, "seconds": 101.5}}},
    }
    for step, data in done.items():
        rows.execute(
            "UPDATE saga_steps SET action_data = %s WHERE step_id = %s",
            Jsonb(data),
            f"{transaction_id}:{step}",
        )
    beyond = ["120 of 12000 users would be removed, at most 100 may be (limit users_removed)"]
    events = {
        "verification": {"verdict": "drifted", "message": "WPS differs: 2 users missing in WPS"},
        "approval_requested": {"checkpoint": "plan_changes", "hash": HASH, "beyond": beyond},
    }
    for kind, data in events.items():
        rows.execute(
            "INSERT INTO saga_events (transaction_id, event_type, event_data) VALUES (%s, %s, %s)",
            transaction_id,
            kind,
            Jsonb({"epoch": 1} | data),
        )
