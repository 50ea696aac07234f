"""What the DingTalk app may see."""

from __future__ import annotations

from nancalacc.clients.dingtalk import DingTalkClient
from nancalacc.config import DingTalkSettings
from nancalacc.errors import ConfigurationError, GuardError, ObjectError, ObjectNotFoundError
from nancalacc.sync.mapping import whole

WHOLE_COMPANY = 1
"""The department that contains all others [dt 2]."""
DEEPEST = 100


async def check_scope(client: DingTalkClient, *, settings: DingTalkSettings) -> tuple[int, ...]:
    """Return authed_dept; raises GuardError unless all below root_dept_id may be read [dt 2.9].

    A narrowed scope would look like an organisation that people have left.
    """
    authed = (await client.scopes()).departments
    root = settings.root_dept_id
    dept_id: int | None = root
    for _ in range(DEEPEST):
        if dept_id is None:
            break
        if dept_id in authed or WHOLE_COMPANY in authed:
            return authed
        if dept_id == WHOLE_COMPANY:
            break
        try:
            dept_id = whole((await client.department(dept_id)).get("parent_id"))
        except ObjectNotFoundError:
            raise ConfigurationError(
                f"Connection {settings.conn_id!r}: department {dept_id}, at or above root_dept_id {root},"
                " does not exist in DingTalk: correct 'root_dept_id' in extra"
            ) from None
        except ObjectError:
            # A department outside the scope cannot be read; its parents cannot either.
            break
    raise GuardError(
        f"The DingTalk app of connection {settings.conn_id!r} may not read department {root} (root_dept_id)"
        f" as a whole: its scope is authed_dept {list(authed)}. Nothing is synced, because what it cannot see"
        " would be deleted: widen the scope in DingTalk's console or correct 'root_dept_id' in extra"
    )
