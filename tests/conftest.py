"""What all tests share."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# `fast` in the inner loop, `thorough` where time is not short. Both draw the same examples on every
# run: a failure that comes and goes cannot be told from one that was repaired.
settings.register_profile(
    "fast",
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", settings.get_profile("fast"), max_examples=5000)
settings.load_profile(os.environ.get("TAGVISOR_HYPOTHESIS", "fast"))

# A shell starts background jobs with SIGINT ignored, and Python then leaves it so: tests that press
# Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def keyboard() -> Iterator[None]:
    """For tests that press Ctrl-C: nothing but the code under test can swallow it.

    A KeyboardInterrupt that lands in a callback of the garbage collector is reported as unraisable
    and lost. Hypothesis registers such a callback for the rest of the run.
    """
    callbacks = gc.callbacks[:]
    gc.callbacks.clear()
    yield
    gc.callbacks[:] = callbacks
