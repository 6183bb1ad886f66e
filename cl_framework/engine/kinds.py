"""Parts of a learner that were given as classes, or are of another kind, are refused by name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from cl_framework.backbones.base import Backbone
from cl_framework.errors import UserError
from cl_framework.methods.base import Strategy, Unlearner

_KINDS: Mapping[str, tuple[type, str]] = {
    "backbone": (Backbone, "GlyphViT()"),
    "strategy": (Strategy, "EASE()"),
    "unlearner": (Unlearner, "DropAdapter()"),
}


def check_kinds(parts: Mapping[str, object]) -> None:
    """Make sure that each part is an object of its kind; any object will do as an adapter, which peft may know.

    Args:
        parts: What was given, by role; None where a part may be left out.

    Raises:
        UserError: If one is not, or its class never initialised it as a module.
    """
    for role, part in parts.items():
        kind, example = _KINDS.get(role, (object, "Bottleneck(16)"))
        if isinstance(part, type):
            raise UserError(f"The {role} is the class {part.__name__}; give an object of it, as in {example}.")
        if not isinstance(part, kind) and (part is not None or role != "unlearner"):
            raise UserError(f"The {role} is {type(part).__name__}, no {kind.__name__}; give one, as in {example}.")
        if isinstance(part, nn.Module) and "_modules" not in vars(part):
            name = type(part).__name__
            raise UserError(f"{name}.__init__ does not call super().__init__(); call it there first.")
