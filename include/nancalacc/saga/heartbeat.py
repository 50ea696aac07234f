"""Heart-beats of the attempts under way in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import Context, copy_context


class HeartBeats:
    """Calls the beat of every attempt at an interval, from one thread, as if the attempt's own did.

    The thread begins with the first attempt and ends by itself when there are none: starting
    and joining one for each attempt would take longer than all the rest of an empty step.
    """

    def __init__(self, *, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._beats: dict[Callable[[], None], Context] = {}
        self._running = False

    def add(self, beat: Callable[[], None]) -> None:
        """Call `beat` at every interval from now on; it must not raise."""
        with self._lock:
            self._beats[beat] = copy_context()
            if not self._running:
                threading.Thread(target=self._run, name="heart-beats", daemon=True).start()
                self._running = True

    def remove(self, beat: Callable[[], None]) -> None:
        """Call it no more; returns when none is being made."""
        with self._lock:
            del self._beats[beat]

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(self._seconds)
            with self._lock:
                if not self._beats:
                    self._running = False
                    return
                for beat, context in self._beats.items():
                    context.run(beat)
