"""SQL of an undo: three states of every object in temporary tables, and what becomes of each.

`undo_departments`, `undo_users` and `undo_places` hold rows of the sources before, published and known.
`undo_objects` says of every object that it is the same, is restored, or is left as it is known.
"""

from __future__ import annotations

from sqlalchemy import text

PERSON = (
    "account, nick_name, def_did, def_did_order, avatar, email, title, work_place, leader, employer,"
    " employment_status, phone, telephone"
)
WITHOUT = "CASE WHEN coalesce(phone, '') = '' THEN '' END, CASE WHEN coalesce(telephone, '') = '' THEN '' END"
"""The keys of numbers that somebody does not have; NULL: not told yet."""
CREATE = tuple(
    map(
        text,
        (
            """
            CREATE TEMPORARY TABLE undo_departments (
                source text, did varchar(255), pid varchar(255), name varchar(255), name_key varchar(255),
                "order" integer
            ) ON COMMIT DROP
            """,
            """
            CREATE TEMPORARY TABLE undo_users (
                source text, uid varchar(255), account varchar(255), nick_name varchar(255),
                def_did varchar(255), def_did_order integer, avatar varchar(255), email varchar(80),
                title varchar(255), work_place varchar(255), leader varchar(255), employer varchar(255),
                employment_status varchar(60), phone varchar(200), telephone varchar(200),
                uid_key varchar(255), account_key varchar(255), manager varchar(255),
                phone_key varchar(64), telephone_key varchar(64)
            ) ON COMMIT DROP
            """,
            """
            CREATE TEMPORARY TABLE undo_places (
                source text, uid varchar(255), did varchar(255), "order" integer, main integer, leader boolean
            ) ON COMMIT DROP
            """,
            """
            CREATE TEMPORARY TABLE undo_objects (
                kind text, key varchar(255), state text, reason text, PRIMARY KEY (kind, key)
            ) ON COMMIT DROP
            """,
            """
            CREATE TEMPORARY VIEW undo_new_departments AS
            SELECT d.*, o.state = 'restore' AS is_restored FROM undo_departments d
            JOIN undo_objects o ON o.kind = 'departments' AND o.key = d.did
            WHERE d.source = CASE WHEN o.state = 'restore' THEN 'before' ELSE 'known' END
            """,
            """
            CREATE TEMPORARY VIEW undo_new_users AS
            SELECT u.*, o.state = 'restore' AS is_restored FROM undo_users u
            JOIN undo_objects o ON o.kind = 'users' AND o.key = u.uid
            WHERE u.source = CASE WHEN o.state = 'restore' THEN 'before' ELSE 'known' END
            """,
            """
            CREATE TEMPORARY VIEW undo_new_places AS
            SELECT p.*, o.state = 'restore' AS is_restored FROM undo_places p
            JOIN undo_objects o ON o.kind = 'users' AND o.key = p.uid
            WHERE p.source = CASE WHEN o.state = 'restore' THEN 'before' ELSE 'known' END
            """,
        ),
    )
)

BEFORE = tuple(
    map(
        text,
        (
            """
            WITH latest AS (
                SELECT DISTINCT ON (did) * FROM tb_las_department_increment
                WHERE third_company_id = :company AND status = 1
                    AND id > :from_departments AND id <= :to_departments
                ORDER BY did, sync_time DESC, id DESC
            )
            INSERT INTO undo_departments (source, did, pid, name, "order")
            SELECT 'before', did, CASE pid WHEN '-1' THEN '0' ELSE pid END, name, "order"
            FROM latest WHERE update_type <> 'dept_del'
            UNION ALL
            SELECT 'before', did, pid, name, "order" FROM tb_las_department d
            WHERE third_company_id = :company AND task_id = :base AND pid <> '-1'
                AND NOT EXISTS (SELECT FROM latest WHERE latest.did = d.did)
            """,
            f"""
            WITH latest AS (
                SELECT DISTINCT ON (uid) * FROM tb_las_user_increment
                WHERE third_company_id = :company AND status = 1 AND id > :from_users AND id <= :to_users
                ORDER BY uid, sync_time DESC, id DESC
            )
            INSERT INTO undo_users (source, uid, {PERSON}, phone_key, telephone_key)
            SELECT 'before', uid, {PERSON}, {WITHOUT} FROM latest WHERE update_type <> 'user_del'
            UNION ALL
            SELECT 'before', uid, {PERSON}, {WITHOUT} FROM tb_las_user u
            WHERE third_company_id = :company AND task_id = :base
                AND NOT EXISTS (SELECT FROM latest WHERE latest.uid = u.uid)
            """,  # noqa: S608
            """
            WITH rows AS (
                SELECT * FROM tb_las_department_user_increment
                WHERE third_company_id = :company AND status = 1
                    AND id > :from_memberships AND id <= :to_memberships
            ), latest AS (
                SELECT DISTINCT ON (uid) * FROM rows WHERE update_type = 'user_dept_move'
                ORDER BY uid, sync_time DESC, id DESC
            ), moved AS (
                SELECT l.uid, e.did, e."order", CASE WHEN e.did = l.did THEN 1 ELSE 0 END AS main
                FROM latest l, jsonb_to_recordset(CAST(l.dids AS jsonb)) AS e (did text, "order" integer)
                UNION ALL
                SELECT r.uid, r.did, r."order", 0 FROM rows r JOIN latest l ON l.uid = r.uid
                WHERE r.update_type = 'user_dept_add' AND r.sync_time > l.sync_time
            )
            INSERT INTO undo_places (source, uid, did, "order", main)
            SELECT 'before', uid, did, "order", main FROM moved
            UNION ALL
            SELECT 'before', uid, did, "order", main FROM tb_las_department_user m
            WHERE third_company_id = :company AND task_id = :base
                AND NOT EXISTS (SELECT FROM latest WHERE latest.uid = m.uid)
            """,
            # Somebody who was gone before the undone sync had no memberships.
            """
            DELETE FROM undo_places p WHERE source = 'before' AND NOT EXISTS (
                SELECT FROM undo_users u WHERE u.source = 'before' AND u.uid = p.uid)
            """,
        ),
    )
)
"""The earlier snapshot, over it the increments that WPS confirmed until the undone sync began.

The company root is '-1' as the parent of an increment, and '0' in a snapshot [wps 5.2, 5.3].
"""

FILL = tuple(
    map(
        text,
        (
            """
            INSERT INTO undo_departments (source, did, pid, name, "order", name_key)
            SELECT 'published', did, pid, name, "order", NULL FROM tb_las_department
            WHERE third_company_id = :company AND task_id = :task_id AND pid <> '-1'
            UNION ALL
            SELECT 'known', did, pid, name, "order", name_key FROM known_departments
            WHERE third_company_id = :company
            """,
            f"""
            INSERT INTO undo_users
                (source, uid, {PERSON}, phone_key, telephone_key, uid_key, account_key, manager)
            SELECT 'published', uid, {PERSON}, {WITHOUT}, NULL, NULL, NULL FROM tb_las_user
            WHERE third_company_id = :company AND task_id = :task_id
            UNION ALL
            SELECT 'known', uid, {PERSON}, {WITHOUT}, uid_key, account_key, manager FROM known_users
            WHERE third_company_id = :company
            """,  # noqa: S608
            """
            INSERT INTO undo_places (source, uid, did, "order", main, leader)
            SELECT 'published', uid, did, "order", main, NULL FROM tb_las_department_user
            WHERE third_company_id = :company AND task_id = :task_id
            UNION ALL
            SELECT 'known', uid, did, "order", main, leader FROM known_memberships
            WHERE third_company_id = :company
            """,
            "CREATE INDEX ON undo_departments (did)",
            "CREATE INDEX ON undo_users (uid, source)",
            "CREATE INDEX ON undo_places (uid)",
            "ANALYZE undo_departments, undo_users, undo_places",
        ),
    )
)

UNTOLD_PHONES = text("""
    SELECT source, uid, phone, telephone FROM undo_users
    WHERE (uid, source) > (:uid, :source) AND (phone_key IS NULL OR telephone_key IS NULL)
    ORDER BY uid, source LIMIT :slice
""")
STORE_PHONE_KEYS = text("""
    UPDATE undo_users u SET phone_key = new.phone_key, telephone_key = new.telephone_key
    FROM unnest(
        CAST(:sources AS text[]), CAST(:uids AS text[]), CAST(:phones AS text[]), CAST(:telephones AS text[])
    ) AS new (source, uid, phone_key, telephone_key)
    WHERE u.source = new.source AND u.uid = new.uid
""")
FORGET_PHONE_KEYS = text("""
    UPDATE undo_users u SET phone_key = NULL, telephone_key = NULL
    FROM undo_users untold
    WHERE untold.uid = u.uid AND (untold.phone_key IS NULL OR untold.telephone_key IS NULL)
""")
"""Of whom one number cannot be told from others, none is compared."""

COMPARE = text("""
    WITH places AS (
        SELECT source, uid,
            jsonb_agg(jsonb_build_array(did, coalesce("order", 0), coalesce(main, 0)) ORDER BY did) AS listed
        FROM undo_places GROUP BY source, uid
    ), contents AS (
        SELECT source, 'departments' AS kind, did AS key,
            jsonb_build_array(coalesce(pid, ''), name, coalesce("order", 0)) AS content
        FROM undo_departments
        UNION ALL
        SELECT u.source, 'users', u.uid, jsonb_build_array(
            account, nick_name, coalesce(def_did, ''), coalesce(def_did_order, 0), coalesce(avatar, ''),
            coalesce(email, ''), coalesce(title, ''), coalesce(work_place, ''), coalesce(u.leader, ''),
            coalesce(employer, ''), coalesce(employment_status, ''), p.listed, phone_key, telephone_key)
        FROM undo_users u LEFT JOIN places p ON p.source = u.source AND p.uid = u.uid
    ), objects AS (
        SELECT kind, key,
            max(md5(content::text)) FILTER (WHERE source = 'before') AS before,
            max(md5(content::text)) FILTER (WHERE source = 'published') AS published,
            max(md5(content::text)) FILTER (WHERE source = 'known') AS known
        FROM contents GROUP BY kind, key
    )
    INSERT INTO undo_objects
    SELECT kind, key,
        CASE WHEN before IS NOT DISTINCT FROM published OR known IS NOT DISTINCT FROM before THEN 'same'
            WHEN known IS NOT DISTINCT FROM published THEN 'restore' ELSE 'left' END,
        CASE WHEN before IS DISTINCT FROM published AND known IS DISTINCT FROM before
            AND known IS DISTINCT FROM published THEN 'changed_since' END
    FROM objects
""")
"""Phone numbers by their keys: equal ones are encrypted differently [wps 5.4]."""

ANALYZE = text("ANALYZE undo_objects")
MISSING_KEYS = (
    text("""
        SELECT did, name FROM undo_departments d
        JOIN undo_objects o ON o.kind = 'departments' AND o.key = d.did AND o.state = 'restore'
        WHERE d.source = 'before' AND d.name_key IS NULL LIMIT :slice
    """),
    text("""
        SELECT uid, uid AS folded, account FROM undo_users u
        JOIN undo_objects o ON o.kind = 'users' AND o.key = u.uid AND o.state = 'restore'
        WHERE u.source = 'before' AND u.uid_key IS NULL LIMIT :slice
    """),
)
STORE_KEYS = (
    text("UPDATE undo_departments SET name_key = :key_0 WHERE did = :id AND source = 'before'"),
    text(
        "UPDATE undo_users SET uid_key = :key_0, account_key = :key_1 WHERE uid = :id AND source = 'before'"
    ),
)

NEEDS = tuple(
    map(
        text,
        (
            # What stays, or comes back, keeps the departments it is in.
            """
            WITH used AS (
                SELECT pid AS did FROM undo_new_departments UNION SELECT did FROM undo_new_places
            )
            UPDATE undo_objects o SET state = 'left', reason = 'needed'
            FROM used
            WHERE o.kind = 'departments' AND o.state = 'restore' AND o.key = used.did
                AND NOT EXISTS (SELECT FROM undo_departments b WHERE b.source = 'before' AND b.did = o.key)
            """,
            """
            UPDATE undo_objects o SET state = 'left', reason = 'parent_gone'
            FROM undo_new_departments d
            WHERE o.kind = 'departments' AND o.key = d.did AND d.is_restored AND d.pid <> '0'
                AND NOT EXISTS (SELECT FROM undo_new_departments p WHERE p.did = d.pid)
            """,
            """
            UPDATE undo_objects o SET state = 'left', reason = 'department_gone'
            FROM undo_new_places p
            WHERE o.kind = 'users' AND o.key = p.uid AND p.is_restored
                AND NOT EXISTS (SELECT FROM undo_new_departments d WHERE d.did = p.did)
            """,
        ),
    )
)
CLASHES = tuple(
    map(
        text,
        (
            """
            WITH RECURSIVE reached AS (
                SELECT did FROM undo_new_departments WHERE pid = '0'
                UNION
                SELECT d.did FROM undo_new_departments d JOIN reached r ON r.did = d.pid
            )
            UPDATE undo_objects o SET state = 'left', reason = 'ring'
            FROM undo_new_departments d
            WHERE o.kind = 'departments' AND o.key = d.did AND d.is_restored
                AND NOT EXISTS (SELECT FROM reached r WHERE r.did = d.did)
            """,
            """
            UPDATE undo_objects o SET state = 'left', reason = 'name_taken'
            FROM undo_new_departments d JOIN undo_new_departments other
                ON other.pid = d.pid AND other.name_key = d.name_key AND other.did <> d.did
            WHERE o.kind = 'departments' AND o.key = d.did AND d.is_restored AND NOT other.is_restored
            """,
            """
            UPDATE undo_objects o SET state = 'left', reason = 'account_taken'
            FROM undo_new_users u JOIN undo_new_users other
                ON other.account_key = u.account_key AND other.uid <> u.uid
            WHERE o.kind = 'users' AND o.key = u.uid AND u.is_restored AND NOT other.is_restored
            """,
            """
            UPDATE undo_objects o SET state = 'left', reason = 'email_taken'
            FROM undo_new_users u JOIN undo_new_users other
                ON lower(other.email) = lower(u.email) AND other.uid <> u.uid
            WHERE o.kind = 'users' AND o.key = u.uid AND u.is_restored AND NOT other.is_restored
                AND u.email <> ''
            """,
            """
            UPDATE undo_objects o SET state = 'left', reason = 'mobile_taken'
            FROM undo_new_users u JOIN undo_new_users other
                ON other.phone_key = u.phone_key AND other.uid <> u.uid
            WHERE o.kind = 'users' AND o.key = u.uid AND u.is_restored AND NOT other.is_restored
                AND u.phone_key <> ''
            """,
            """
            UPDATE undo_objects o SET state = 'left', reason = 'account_taken'
            FROM undo_new_users u JOIN undo_new_users other
                ON other.uid_key = u.uid_key AND other.uid <> u.uid
            WHERE o.kind = 'users' AND o.key = u.uid AND u.is_restored AND NOT other.is_restored
            """,
        ),
    )
)
"""Two that both come back were distinct before: one of a pair that clashes is always there now."""

STAGE = tuple(
    map(
        text,
        (
            """
            INSERT INTO staged_departments (transaction_id, epoch, attempt, did, pid, name, name_key, "order")
            SELECT :transaction_id, :epoch, :attempt, did, pid, name, name_key, "order"
            FROM undo_new_departments
            """,
            """
            INSERT INTO staged_memberships (transaction_id, epoch, attempt, uid, did, "order", main, leader)
            SELECT :transaction_id, :epoch, :attempt, uid, did, "order", coalesce(main, 0), leader
            FROM undo_new_places
            """,
            # NULL in staging means "not read": what was empty before is to be empty again. Numbers that are
            # not told from others stay as WPS has them: it could not read them either.
            """
            INSERT INTO staged_users (
                transaction_id, epoch, attempt, uid, uid_key, account, account_key, nick_name, def_did,
                def_did_order, avatar, email, title, work_place, leader, manager, employer,
                employment_status, phone, telephone, phone_key)
            SELECT :transaction_id, :epoch, :attempt, u.uid, u.uid_key, u.account, u.account_key, u.nick_name,
                u.def_did, u.def_did_order,
                coalesce(u.avatar, CASE WHEN k.avatar IS NOT NULL THEN '' END),
                coalesce(u.email, CASE WHEN k.email IS NOT NULL THEN '' END),
                coalesce(u.title, CASE WHEN k.title IS NOT NULL THEN '' END),
                coalesce(u.work_place, CASE WHEN k.work_place IS NOT NULL THEN '' END),
                coalesce(u.leader, CASE WHEN k.leader IS NOT NULL THEN '' END),
                u.manager,
                coalesce(u.employer, CASE WHEN k.employer IS NOT NULL THEN '' END),
                u.employment_status,
                CASE WHEN u.phone_key IS NULL THEN k.phone
                    ELSE coalesce(u.phone, CASE WHEN k.phone IS NOT NULL THEN '' END) END,
                CASE WHEN u.telephone_key IS NULL THEN k.telephone
                    ELSE coalesce(u.telephone, CASE WHEN k.telephone IS NOT NULL THEN '' END) END,
                nullif(u.phone_key, '')
            FROM undo_new_users u
            LEFT JOIN undo_users k ON k.source = 'known' AND k.uid = u.uid
            """,
        ),
    )
)
KEEP_LEFT = (
    text("DELETE FROM undo_left WHERE transaction_id = :transaction_id"),
    text("""
        INSERT INTO undo_left (transaction_id, kind, key, reason)
        SELECT :transaction_id, kind, key, reason FROM undo_objects WHERE state = 'left'
    """),
)
RESTORED = text(
    "SELECT kind, count(*) AS number FROM undo_objects WHERE state = 'restore' GROUP BY 1 ORDER BY 1"
)
LEFT = text("SELECT reason, count(*) AS number FROM undo_objects WHERE state = 'left' GROUP BY 1 ORDER BY 1")
EXAMPLES = text("""
    SELECT kind, key, reason FROM undo_left WHERE transaction_id = :id ORDER BY kind, key LIMIT :limit
""")
