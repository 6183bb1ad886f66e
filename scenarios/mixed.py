"""A stream with forget requests at any place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from cl_framework.errors import UserError
from cl_framework.streams import Scenario, Step
from scenarios.derived import Derived
from scenarios.requests import Request, with_requests


@final
class Mixed(Derived, Scenario):
    """Puts your forget requests anywhere into a stream; choose it for real sequences of requests.

    Puts forget requests into a stream; those at the same place stand in the order given.

    Args:
        stream: A scenario of experiences only.
        requests: What to forget, and when; they are named ``forget-0``, ``forget-1``, ... as they happen.

    Raises:
        UserError: If it is given no list of requests; on first use, if a request names what is not there, or a place
            that does not exist.
    """

    def __init__(self, stream: Scenario, requests: list[Request]) -> None:
        """Keep both."""
        given: object = requests
        if not isinstance(given, list | tuple) or not all(isinstance(each, Request) for each in given):
            raise UserError("Mixed takes a list of requests, as in Mixed(stream, [Request(after=1, classes=[2])]).")
        self.stream, self.requests = stream, requests
        self._key: bytes | None = None

    def unlock(self, key: bytes) -> None:
        """Take the key of hashed sample ids in the config of a run."""
        super().unlock(key)
        self._key = key

    def steps(self) -> Iterator[Step]:
        """Yield the stream's steps, and each request at its place."""
        return iter(with_requests(self.lessons(), self.requests, self.class_names, self._key))
