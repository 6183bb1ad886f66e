"""Chains of adapters: each experience trains its own on top of all earlier ones, which are frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from cl_framework.adapters.low_rank import LowRank, factors
from cl_framework.methods.base import Plan
from cl_framework.methods.competition import Compete, holding, in_turn, other_classes
from cl_framework.methods.losses import classify_among
from cl_framework.methods.parameter_importance import batches
from cl_framework.models.model import Model
from cl_framework.streams.events import Experience
from cl_framework.streams.samples import Batch, Samples


def extend(model: Model, event: Experience) -> tuple[list[str], dict[str, LowRank]]:
    """Add the adapter of an experience and its classes' rows of the head, and activate the whole chain.

    Returns:
        The names of the adapters before it, and its own updates by site.
    """
    model.ready(event.name, event.classes)
    links = model.adapters.learned
    model.adapters.active = tuple(links)
    return [name for name in links if name != event.name], factors(model.adapters, event.name)


def chain_plan(
    model: Model,
    event: Experience,
    params: Sequence[nn.Parameter],
    compete: Compete = "current",
    penalty: Callable[[], Tensor] | None = None,
    after_step: Callable[[Model], None] | None = None,
    edit_gradients: Callable[[Model], None] | None = None,
) -> Plan:
    """Return the training of the newest adapter's ``params`` and the head on an experience.

    Args:
        model: With the chain active, as `extend` leaves it.
        event: What to train on.
        params: Those of the adapter that may change.
        compete: Which classes' scores the cross-entropy sees. With ``current`` the rows of earlier classes get no
            gradient, and are also kept from weight decay.
        penalty: Added to the loss.
        after_step: Called after each step.
        edit_gradients: Called between backward and step.
    """
    rivals = model.classes if compete == "all" else event.classes
    hold = None if compete == "all" else holding(model, event.classes)

    def loss(model: Model, batch: Batch) -> Tensor:
        fit = classify_among(model, model(batch.x), batch.y, rivals)
        return fit if penalty is None else fit + penalty()

    trained, met = [*params, *model.head.parameters()], other_classes(model, event) if compete == "all" else ()
    after = in_turn(hold, after_step)
    return Plan(event.data, trained, loss, edit_gradients=edit_gradients, after_step=after, against=met)


def same_input(model: Model) -> dict[str, list[str]]:
    """Return the sites that adapters rewrite, grouped by the module that reads for them, under the first of each group.

    The parts of a fused query-key-value map read the same input.
    """
    first: dict[nn.Module, str] = {}
    groups: dict[str, list[str]] = {}
    for name, site in model.adapters.sites.items():
        groups.setdefault(first.setdefault(site.reads or site.module, name), []).append(name)
    return groups


@torch.no_grad()
def input_moments(model: Model, samples: Samples, batch: int = 64) -> dict[str, Tensor]:
    """Return the mean of ``x x^T`` over all tokens that reach each group of sites, ``(width_in, width_in)``.

    One pass over ``samples`` as they are read, under the adapters in use; sums are in double precision.
    """
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(same_input(model), 0)

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            x = given[0].detach().flatten(0, -2).double()
            sums[name] = x.T @ x + sums.get(name, 0)
            counts[name] += len(x)

        return add

    sites = model.adapters.sites
    hooks = [(sites[n].reads or sites[n].module).register_forward_pre_hook(watch(n)) for n in counts]
    try:
        for read in batches(samples, batch, model.device):
            model.features(read.x)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / counts[name] for name, total in sums.items()}
