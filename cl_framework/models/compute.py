"""Options that compute passes and steps in less time or memory, with equal results up to rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cl_framework.adapters.bank import AdapterBank
from cl_framework.backbones.base import Backbone
from cl_framework.errors import UserError
from cl_framework.feature_cache.store import CHUNK

SHAPES = 64
"""Most compiled versions of a network; torch runs uncompiled beyond them, and its own limit is 8."""
_AS_WRITTEN = ContextVar("as written", default=False)
KERNELS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)  # those that are fused on every device


@dataclass(frozen=True)  # not @final, which jsonargparse takes for a class without a default
class Compute:
    """The ``model.compute:`` section of a config. For bf16 see ``trainer.precision: bf16-mixed``.

    Args:
        attention: ``fused`` is torch's one kernel for all of attention (`scaled_dot_product_attention`), which needs no
            memory for its weights; ``plain`` multiplies matrix by matrix, faster on a CPU at few tokens; ``auto``
            leaves it to the backbone.
        compile: Let `torch.compile` make kernels of the backbone and its adapters: true, or one of its backends. It
            takes a minute or so at the start, once for training (any batch size) and once for frozen passes; a new task
            is but other weights. Only another number of adapters in one pass is compiled anew.
        checkpoint: Keep of each block only what it was given, and compute the block again in the backward pass: for
            large backbones, where memory is short. A training step takes about half as long again.
        fused: Have the optimiser step in one kernel, unless its own ``fused`` or ``foreach`` says otherwise; None does
            so on a GPU, since on a CPU the step is short and its last bits would change.
    """

    attention: Literal["auto", "fused", "plain"] = "auto"
    compile: bool | str = False
    checkpoint: bool = False
    fused: bool | None = None

    def prepare(self, backbone: Backbone, bank: AdapterBank) -> None:
        """Set up a backbone whose sites are hooked by ``bank``.

        Raises:
            UserError: If the backbone cannot be computed so, or two choices exclude each other.
        """
        if self.attention != "auto" and not backbone.attend(self.attention):
            raise UserError(
                f"{backbone.name} has only one way to compute attention; leave model.compute.attention at auto."
            )
        if self.compile and (backend := self._backend) not in (known := torch.compiler.list_backends(exclude_tags=())):
            raise UserError(f"There is no compiler {backend!r} here; set model.compute.compile to one of {known}.")
        if self.checkpoint and self.compile:
            raise UserError("A compiled network is not computed block by block; choose compute.compile or .checkpoint.")
        if self.checkpoint and not backbone.blocks():
            raise UserError(f"{backbone.name} has no blocks to compute again; set model.compute.checkpoint to false.")
        if self.checkpoint:
            for block in backbone.blocks():
                block.forward = _recomputed(block, bank)
        if self.compile:
            body: Any = getattr(backbone, "body", backbone)  # around it may lie Python's work, such as a tokenizer
            body.forward = _compiled(body, self._backend)
            backbone.divisible = False

    @property
    def _backend(self) -> str:
        return "inductor" if isinstance(self.compile, bool) else self.compile

    def fuse(self, optimizer: torch.optim.Optimizer) -> None:
        """Turn a fresh optimiser's fused kernel on, where it has one and was not told how to step."""
        for group in optimizer.param_groups if isinstance(optimizer, KERNELS) else ():
            wanted = all(p.is_cuda for p in group["params"]) if self.fused is None else self.fused
            if wanted and group["fused"] is None and not group["foreach"]:
                group["fused"] = True


AS_EVER = Compute()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Compute uncompiled for the duration of the block: a compiled backward pass cannot be batched."""
    token = _AS_WRITTEN.set(True)
    try:
        yield
    finally:
        _AS_WRITTEN.reset(token)


def _recomputed(block: nn.Module, bank: AdapterBank) -> Callable[..., Any]:
    """Return the forward pass of ``block`` that keeps its input only.

    The backward pass comes when other adapters may be in use, or the query of another pass: both are brought back.
    """
    plain = block.forward

    def forward(*given: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*given, **options)
        return checkpoint(
            plain, *given, use_reentrant=False, context_fn=lambda: (nullcontext(), _Again(bank)), **options
        )

    return forward


@final
class _Again:
    """A context to enter as often as there are backward passes."""

    def __init__(self, bank: AdapterBank) -> None:
        self.back = bank.hooks.again()

    def __enter__(self) -> None:
        self.now = self.back()
        self.now.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.now.__exit__(*error)


def _compiled(body: nn.Module, backend: str) -> Callable[..., Any]:
    """Return the forward pass of ``body``, compiled together with whatever hooks its modules.

    Frozen passes have one size, hence kernels of that size; training meets a last batch of any size, and must not be
    compiled for each.
    """
    import torch._dynamo as dynamo  # takes seconds

    dynamo.config.cache_size_limit = max(dynamo.config.cache_size_limit, SHAPES)
    options: Any = {"fallback_random": True} if backend == "inductor" else None  # random numbers as in uncompiled code
    plain = body.forward
    frozen, training = (torch.compile(plain, backend=backend, dynamic=d, options=options) for d in (False, None))

    def forward(*given: Any, **named: Any) -> Any:
        if _AS_WRITTEN.get():
            return plain(*given, **named)
        tensors = [x for x in (*given, *named.values()) if isinstance(x, torch.Tensor)]
        if not torch.is_grad_enabled() and all(len(x) == CHUNK for x in tensors):
            return frozen(*given, **named)
        for x in tensors:
            dynamo.maybe_mark_dynamic(x, 0)
        return training(*given, **named)

    return forward
