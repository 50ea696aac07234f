"""Errors, named by what the caller should do about them.

The message of every error is written for the person who reads the failed task:
what was expected, what came, which object, what to do. It never holds a secret,
a token or a phone number.
"""


class NancalaccError(Exception):
    """Base of every error this package raises on purpose."""


class FatalError(NancalaccError):
    """Trying again cannot help: stop, and tell a person."""


class ConfigurationError(FatalError):
    """A connection, a setting or a parameter is missing or wrong."""


class SchemaError(ConfigurationError):
    """The database schema is missing or not the one this version needs."""


class RefusedError(FatalError):
    """The saga must not run at all; nothing has been done, so nothing is undone."""


class GuardError(FatalError):
    """A safety check stopped the sync before anything was published."""


class CallRefusedError(FatalError):
    """The other side answered definitely that it did not do what was asked."""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class ObjectError(FatalError):
    """One object (user or department) is the problem; others are not affected."""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class ObjectNotFoundError(ObjectError):
    """The object does not exist (any more)."""


class StatementRefusedError(FatalError):
    """The database refuses a statement, and would refuse it again; the transaction was rolled back."""


class FencedError(FatalError):
    """This attempt was overtaken by another one; whatever it wrote is rolled back."""


class IllegalTransitionError(FatalError):
    """The saga or step is not in a state that allows what was asked."""


class TransientError(NancalaccError):
    """Trying again later is expected to help."""


class RateLimitedError(TransientError):
    """The call limit is reached; `retry_after` is the pause in seconds."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BusyError(TransientError):
    """The other side is at work on an earlier request: ask again later."""


class UnknownOutcomeError(TransientError):
    """A call that changes something got no usable answer: it may have had its effect."""


class IncompleteAnswerError(TransientError):
    """A source answer is cut off, contradicts itself or does not end."""


class OrganisationChangedError(IncompleteAnswerError):
    """The departments changed while they were read, so that what was read does not fit together."""


class DatabaseError(TransientError):
    """The database refused or lost a statement; the transaction was rolled back."""
