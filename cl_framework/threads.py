"""CPU threads: how idle ones wait, which OpenMP decides when torch is loaded, and how many a backbone gets.

OpenMP threads that wait for work spin by default. Two processes that share cores then spend most of their time in the
way of each other, so threads sleep here instead. This module imports nothing that loads OpenMP.
"""

from __future__ import annotations

import os

from cl_framework.errors import UserError

PASSIVE = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
"""How waiting threads are made to sleep: in any OpenMP runtime, and in those of LLVM and Intel."""
CHOSEN = (*PASSIVE, "GOMP_SPINCOUNT", "KMP_LIBRARY")
"""Variables with which a user has already decided how threads wait."""
SMALL = 20_000_000
"""Parameters below which a backbone gets one thread: handing out its small products costs processor seconds."""

MOST_THREADS = 1024
"""Threads beyond which OpenMP runs out of memory and takes the process down without a word that could be caught."""
VARIABLES = ("CLF_THREADS", "OMP_NUM_THREADS")
"""Variables that say how many threads there are, the first one set counts."""


def let_idle_ones_sleep() -> None:
    """Set the wait policy in the environment, unless a user did; it counts for what loads torch after this."""
    if not any(name in os.environ for name in CHOSEN):
        os.environ.update(PASSIVE)


def wanted(parameters: int, cores: int, asked: int | None = None) -> int:
    """Return how many threads to compute with.

    What a config asks for counts most, then ``CLF_THREADS``, then ``OMP_NUM_THREADS``, then the backbone's size.

    Args:
        parameters: Of the backbone.
        cores: Threads for a large backbone.
        asked: What the config says, if anything.

    Raises:
        UserError: If a variable holds something else than a number from 1 to `MOST_THREADS`.
    """
    if asked is not None:
        return asked
    for name in VARIABLES:
        if value := os.environ.get(name):
            first = value.partition(",")[0].strip()  # OMP_NUM_THREADS may list one number for each level of nesting
            if not first.isdecimal() or not 1 <= int(first) <= MOST_THREADS:
                raise UserError(f"{name} must be a whole number from 1 to {MOST_THREADS}; found {value!r}.")
            return int(first)
    return 1 if parameters < SMALL else cores
