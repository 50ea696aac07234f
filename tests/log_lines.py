"""What is logged, with the fields that each line carries in the thread that writes it."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog


@dataclass(frozen=True)
class Line:
    """A line of the log."""

    text: str
    fields: dict[str, Any]


@pytest.fixture
def lines() -> Iterator[list[Line]]:
    """The lines of our loggers, as they come."""
    found: list[Line] = []

    class Capturing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(Line(record.getMessage(), structlog.contextvars.get_contextvars()))

    ours, handler = logging.getLogger("nancalacc"), Capturing()
    level = ours.level
    ours.setLevel(logging.INFO)
    ours.addHandler(handler)
    try:
        yield found
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level)
