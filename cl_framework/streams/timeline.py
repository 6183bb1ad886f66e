"""A run's whole stream: the config's scenario, then later requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, final

import msgspec
from msgspec.structs import replace

from cl_framework.streams.events import Step
from cl_framework.streams.identifiers import hide
from cl_framework.streams.identity import Register, hidden_as
from cl_framework.streams.later import Later, LaterRequest
from cl_framework.streams.scenario import Scenario, checked_class_names
from cl_framework.streams.walk import Walk


@final
class Timeline(Scenario):
    """A scenario followed by later requests, resolved once, when its steps are first asked for.

    Args:
        first: The config's scenario.
        later: Later requests in order.
        streams: The scenarios that the learn requests describe, in order.
        key: What keyed hashes of sample ids were made with; the first scenario and the streams are given it too.
        met: The part of the stream that is resolved already; it is not resolved again.
    """

    def __init__(
        self,
        first: Scenario,
        later: Sequence[Later] = (),
        streams: Sequence[Scenario] = (),
        key: bytes | None = None,
        met: Walk | None = None,
    ) -> None:
        """Keep the parts."""
        self.first, self.later, self.streams, self.key, self._met = first, list(later), list(streams), key, met
        for stream in (first, *self.streams) if key else ():
            stream.unlock(key or b"")

    @cached_property
    def _walk(self) -> Walk:
        """The stream, resolved.

        Raises:
            UserError: If two live classes would have one name, or a request cannot be resolved.
        """
        if self._met is not None and self._met.requests == len(self.later):
            return self._met
        if self._met is None:
            walk = Walk(Register(checked_class_names(self.first), self.hidden))
            walk.begin(self.first)
        else:
            walk = self._met.longer(self.hidden)
        streams = iter(self.streams[walk.streams :])
        for spec in self.later[walk.requests :]:
            if spec.forget is not None:
                walk.forget(spec.forget, self.key)
            else:
                walk.learn(spec, next(streams))
        return walk

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]  # of later streams, found while they are walked
        """Name of each class id ever given."""
        return self._walk.register.names if self.streams else list(self.first.class_names)

    def steps(self) -> Iterator[Step]:
        """Yield the first scenario's steps, then those of each later request."""
        return iter(self._walk.steps)

    def marked(self) -> Iterator[tuple[int, Step]]:
        """Yield each step with the position of the later request it belongs to; -1 for the first scenario.

        Raises:
            UserError: If two live classes would have one name, or a request cannot be resolved.
        """
        return iter(self._walk.marked)

    @property
    def offsets(self) -> Mapping[int, int]:
        """What is added to sample ids, by the position of the learn request; nothing at -1."""
        return self._walk.offsets

    def hidden(self, name: str) -> list[str]:
        """Return the possible keyed hashes of a class name in `class_names` once the class is forgotten."""
        return hidden_as(name, self.key, [p for spec in self.later if (p := spec.as_new)])

    def forgetting(self, spec: Mapping[str, Any]) -> Timeline:
        """Return the same followed by a forget request, in which sample ids are hidden under the key.

        Args:
            spec: What to forget, field by field as `LaterRequest` has it, samples by their ids.

        Raises:
            UserError: If it asks for what was never learned, or is gone.
        """
        request = msgspec.convert(spec, LaterRequest)
        asked = Timeline(self.first, [*self.later, Later(forget=request)], self.streams, self.key, self._walk)
        walk = asked._walk  # what was never learned shows while samples still have their ids
        if self.key and request.samples:
            request = replace(request, samples=hide(map(int, request.samples), self.key))
        return Timeline(self.first, [*self.later, Later(forget=request)], self.streams, self.key, walk)

    def learning(self, spec: Mapping[str, Any], stream: Scenario) -> Timeline:
        """Return the same followed by a learn request that tells which ids it gives.

        Args:
            spec: The request, field by field as `Later` has it.
            stream: What it describes.

        Raises:
            UserError: If two live classes would have one name, or a request in the stream cannot be resolved.
        """
        later = [*self.later, msgspec.convert(spec, Later)]
        return Timeline(self.first, later, [*self.streams, stream], self.key, self._walk).settled()

    def settled(self) -> Timeline:
        """Return the same whose last learn request tells which ids it gives, so that no name is asked again.

        Raises:
            UserError: If two live classes would have one name, or a request cannot be resolved.
        """
        ids, again = self._walk.numbers[len(self.later) - 1]
        last = replace(self.later[-1], ids=ids, again=again)
        return Timeline(self.first, [*self.later[:-1], last], self.streams, self.key, self._walk)

    def relisted(self) -> Timeline:
        """Return the same whose newest stream takes its samples from a list by now, so that it is resolved again."""
        return Timeline(self.first, self.later, self.streams, self.key, self._walk.before)

    def fingerprint(self) -> str:
        """Return the hash of the first scenario's data."""
        return self.first.fingerprint()
