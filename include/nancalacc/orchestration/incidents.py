"""Finds incidents and tells people of them: after a run that ended badly, and in every recovery.

The tables alone decide what is to be told, so it does not matter who noticed first, whether that
process lives on, or whether a saga was undone by its run or by `saga_recovery`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from nancalacc.clients.transport import AnswerLostError
from nancalacc.errors import FatalError, RateLimitedError, UnknownOutcomeError
from nancalacc.orchestration.incident_messages import Message, message_of
from nancalacc.saga.execution import message_of as reason_of
from nancalacc.store import incidents
from nancalacc.store.database import Database
from nancalacc.store.incidents import Incident

log = logging.getLogger(__name__)

MOST_MESSAGES = 15
"""Of one pass; a DingTalk robot takes 20 a minute. The next pass sends the rest."""
LONGEST_PASS_SECONDS = 60.0

Deliver = Callable[[Message], None]
"""Sends a message, or raises: UnknownOutcomeError and AnswerLostError when it may have arrived."""


def tell(
    database: Database,
    *,
    deliver: Deliver,
    address: Callable[[Incident], str],
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Find what is new and send what is due; returns how many messages arrived.

    Raises DatabaseError. A message that cannot be sent is tried again by a later pass.
    """
    with database.transaction() as connection:
        found = incidents.find(connection)
    if found:
        log.info("New incidents: %s", found)
    arrived = 0
    deadline = clock() + LONGEST_PASS_SECONDS
    for _ in range(MOST_MESSAGES):
        if clock() >= deadline:
            break
        with database.transaction() as connection:
            incident = incidents.take(connection)
        if incident is None:
            break
        try:
            deliver(message_of(incident, console=address(incident)))
        except Exception as error:  # noqa: BLE001 - a notifier of others raises what it likes
            _not_sent(database, incident, error)
            if isinstance(error, RateLimitedError):
                break
        else:
            with database.transaction() as connection:
                incidents.sent(connection, incident)
            log.info("Incident %s (%s) is told", incident.id, incident.kind.value)
            arrived += 1
    return arrived


def _not_sent(database: Database, incident: Incident, error: Exception) -> None:
    perhaps = isinstance(error, UnknownOutcomeError | AnswerLostError | TimeoutError)
    reason = reason_of(error)
    log.log(
        logging.ERROR if isinstance(error, FatalError) else logging.WARNING,
        "Incident %s (%s) %s: %s. It is tried again",
        incident.id,
        incident.kind.value,
        "may not have been told" if perhaps else "is not told",
        reason,
    )
    with database.transaction() as connection:
        incidents.not_sent(connection, incident, error=reason, perhaps=perhaps)


def tell_incidents() -> None:
    """What `saga_outcome` and `saga_recovery` do at their end: tell what there is to tell; never raises.

    Does nothing without NANCALACC_NOTIFY_CONN_ID.
    """
    from nancalacc.config import Settings
    from nancalacc.orchestration.hooks import open_database
    from nancalacc.orchestration.links import console_address
    from nancalacc.orchestration.notifiers import notifier_class

    def address(incident: Incident) -> str:
        if incident.transaction_id is None:
            return console_address(view="inbox", inbox="dead")
        return console_address(saga=incident.transaction_id)

    try:
        settings = Settings.from_env()
        if not settings.notify_conn_id:
            return

        def deliver(message: Message) -> None:
            # Not by calling the notifier: what others wrote is no template.
            notifier = notifier_class(settings.notifier)
            notifier(conn_id=settings.notify_conn_id, title=message.title, text=message.text).notify({})

        with open_database() as database:
            tell(database, deliver=deliver, address=address)
    except Exception as error:  # noqa: BLE001 - a run must not fail because nobody could be told
        log.error("Nobody is told of incidents: %s", reason_of(error))
