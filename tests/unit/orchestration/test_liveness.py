"""The file whose age says whether a listener is alive."""

import os
import time

import pytest

from nancalacc.errors import FatalError
from nancalacc.orchestration.liveness import LONGEST_SILENCE, require_alive


def test_a_fresh_file_means_alive(tmp_path):
    path = tmp_path / "alive"
    path.touch()

    require_alive(path)


def test_an_old_file_says_how_old(tmp_path):
    path = tmp_path / "alive"
    path.touch()
    before = time.time() - LONGEST_SILENCE - 60
    os.utime(path, (before, before))

    with pytest.raises(FatalError, match=r"9\d s ago; 30 s are allowed"):
        require_alive(path)


def test_no_file_means_not_running(tmp_path):
    with pytest.raises(FatalError, match="not running, or was never connected"):
        require_alive(tmp_path / "missing")
