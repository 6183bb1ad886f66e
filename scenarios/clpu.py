"""Continual learning with private unlearning: tasks to keep, tasks on trial, and requests to forget these."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, NamedTuple, TypeAlias, final

from cl_framework.errors import UserError
from cl_framework.streams import Experience, Scenario, Step
from scenarios.derived import Derived
from scenarios.requests import Request, position, with_requests

Act: TypeAlias = Literal["learn", "keep", "forget"]


class Order(NamedTuple):
    """One request of the list: what to do, with which task of the stream."""

    act: Act
    task: int


@final
class CLPU(Derived, Scenario):
    """Learns tasks to keep or on trial, and forgets those on trial; choose it for the CLPU protocol.

    A list of requests: ``R`` learns a task to keep it, ``T`` learns one on trial, ``F`` forgets it.

    Liu et al., "Continual learning and private unlearning", CoLLAs 2022. Only a task on trial may be forgotten.
    ``R`` for a task on trial keeps it from then on; here it was learned like any other, so that this request brings
    nothing to learn. Tasks of the stream that no request names are left out. The paper tests each task by itself; here
    no task label is given, as everywhere.

    Args:
        stream: A scenario of experiences only.
        requests: What happens, in order; the default is the paper's, for five tasks.

    Raises:
        UserError: If a request is impossible at its place; on first use, if the stream has no such task.
    """

    def __init__(self, stream: Scenario, requests: str = "R0 T1 T2 R3 R1 F2 T4 F4") -> None:
        """Read the list."""
        self.stream, self.requests = stream, requests
        self.orders = orders(requests)

    def steps(self) -> Iterator[Step]:
        """Yield the requested tasks, and the requests to forget."""
        tasks = self.lessons()
        names = [s.event.name for s in tasks]
        steps: list[Step] = []
        requests: list[Request] = []
        for act, task in self.orders:
            name, step = names[position(task, names)], tasks[task]
            if act == "forget":
                requests.append(Request(len(steps), experiences=[name]))
            else:
                steps.append(step if act == "learn" else nothing(f"keep-{name}", step))
        return iter(with_requests(steps, requests, self.class_names))


def nothing(name: str, like: Step) -> Step:
    """Return a step that brings no class and no sample."""
    event = like.event
    assert isinstance(event, Experience)
    empty = replace(event, name=name, classes=(), data=event.data.of(()), reference=event.reference.of(()))
    return Step(replace(empty, inherited={}, relearned={}), like.exam.of(()))


def orders(requests: str) -> list[Order]:
    """Read a list of requests.

    >>> [order.act for order in orders("R0 T1 R1 T2 F2")]
    ['learn', 'learn', 'keep', 'learn', 'forget']

    Raises:
        UserError: If something is no request, a task is learned twice, or one is forgotten that is not on trial.
    """
    read: list[Order] = []
    state: dict[int, str] = {}
    for word in requests.split():
        if not re.fullmatch(r"[RTF]\d+", word):
            raise UserError(f"CLPU cannot read the request {word!r}; write R, T or F and a task, as in R0 T1 F1.")
        kind, task = word[0], int(word[1:])
        acts: dict[tuple[str, str], Act] = {
            ("R", "unknown"): "learn",
            ("T", "unknown"): "learn",
            ("R", "on trial"): "keep",
            ("F", "on trial"): "forget",
        }
        before = state.get(task, "unknown")
        if (act := acts.get((kind, before))) is None:
            raise UserError(
                f"CLPU cannot carry out {word}: task {task} is {before} by then; F takes a task on trial, R and T one "
                "that is unknown, and R also one on trial."
            )
        state[task] = {"R": "kept", "T": "on trial", "F": "forgotten"}[kind]
        read.append(Order(act, task))
    if not any(order.act == "learn" for order in read):
        raise UserError("CLPU needs requests, such as R0 T1 F1.")
    return read
