"""Base of scenarios that are made from another one."""

from __future__ import annotations

from abc import ABC
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from cl_framework.errors import UserError
from cl_framework.streams import (
    Experience,
    Inventory,
    Samples,
    Scenario,
    Step,
    Survey,
    Watch,
    checked_class_names,
    checked_steps,
    sample_list,
)


class Derived(Scenario, ABC):
    """A scenario made from another one: data, names and files are the other's.

    Attributes:
        stream: The other scenario, of experiences only.
    """

    stream: Scenario

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]  # the stream's, read on first use
        """Name of each class id."""
        return checked_class_names(self.stream)

    def fingerprint(self) -> str:
        """Return a hash of the data behind the stream."""
        return self.stream.fingerprint()

    def read(self, files: Sequence[str]) -> Tensor:
        """Read input files as the stream would."""
        return self.stream.read(files)

    def inputs(self, given: Any) -> Tensor:
        """Make inputs as the stream would."""
        return self.stream.inputs(given)

    def exam(self, data: str, names: Mapping[str, int]) -> tuple[Samples, dict[str, int]]:
        """Return other data as the stream would."""
        return self.stream.exam(data, names)

    def unlock(self, key: bytes) -> None:
        """Pass on the key of hashed sample ids."""
        self.stream.unlock(key)

    def skip_unreadable(self) -> None:
        """Leave out what cannot be read of the stream."""
        self.stream.skip_unreadable()

    def survey(self, watch: Watch) -> Survey:
        """Look at the data behind the stream."""
        return self.stream.survey(watch)

    def listing(self, watch: Watch) -> sample_list.ListedSource | None:
        """List the samples of the stream."""
        return self.stream.listing(watch)

    def relist(self, listed: sample_list.ListedSource, key: bytes | None) -> None:
        """Let the stream take its samples from a list."""
        self._work_out_again()
        self.stream.relist(listed, key)

    def renew(self, met: Collection[str]) -> Inventory:
        """Let the stream compare its list with what is there."""
        self._work_out_again()
        return self.stream.renew(met)

    def _work_out_again(self) -> None:
        """Delete what was computed from other samples."""
        for kind in type(self).__mro__:
            for computed in [name for name, value in vars(kind).items() if isinstance(value, cached_property)]:
                self.__dict__.pop(computed, None)

    def lessons(self) -> list[Step]:
        """Return the steps of the stream.

        Raises:
            UserError: If one of them is a forget request: it was resolved without the other requests.
        """
        steps = list(checked_steps(self.stream))
        if any(not isinstance(s.event, Experience) for s in steps):
            raise UserError(
                f"{type(self).__name__} takes a stream of experiences only, and {type(self.stream).__name__} forgets "
                "already; nest them the other way round, or list all forget requests in one Mixed."
            )
        return steps
