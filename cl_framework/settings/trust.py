"""Trust in dotted paths of a config: known kinds of classes, and what the user trusts beyond them.

Importing a module runs its code, and naming a function may call it. A config may be untrusted, so every dotted path in
it is checked before anything is imported. Needs no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cl_framework.errors import UserError

VARIABLE, OPTION = "CLF_TRUST", "--trust"
EXPORTED = ("GlyphViT", "Timm", "HuggingFace", "Bottleneck", "LoRA", "SSF", "VPT", "PromptPool", "Full", "Peft")
"""Backbones and adapters that ``cl_framework`` itself exports: the parser names them by that shorter path."""
_KINDS = (
    "cl_framework.backbones",
    "cl_framework.adapters",
    "cl_framework.evaluation.Published",  # the path that the parser gives it, and the file it lies in
    "cl_framework.evaluation.published.Published",
    *(f"cl_framework.{name}" for name in EXPORTED),
    "strategies",
    "scenarios",
    "torch.optim",
    "torchvision.transforms",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.cli.ReduceLROnPlateau",
    "pytorch_lightning.loggers",
    "pytorch_lightning.profilers",
    "peft",
)
"""Packages and classes that any config may name; packages of installed plugins are added."""
_earlier: set[str] = set()


@contextmanager
def given(args: Sequence[str]) -> Iterator[list[str]]:
    """Trust what ``--trust NAME`` among the arguments of a verb names while the block runs.

    Yields:
        The other arguments.

    Raises:
        UserError: If a name is missing or is no dotted path.
    """
    rest, names, words = list[str](), [os.environ.get(VARIABLE, "")], iter(args)
    for word in words:
        if word == OPTION or word.startswith(f"{OPTION}="):
            names.append(word.partition("=")[2] or next(words, "--"))
        else:
            rest.append(word)
    before, os.environ[VARIABLE] = os.environ.get(VARIABLE), ",".join(filter(None, names))
    try:
        trusted()
        yield rest
    finally:
        del os.environ[VARIABLE]
        os.environ.update({} if before is None else {VARIABLE: before})


def trusted() -> list[str]:
    """Return the dotted paths that the user trusts, a package standing for all in it.

    Raises:
        UserError: If one is no dotted path.
    """
    names = [name for name in os.environ.get(VARIABLE, "").replace(",", " ").split() if name]
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")) or name.split(".")[0] == "jsonargparse":
            raise UserError(
                f"{OPTION} takes the name of a package, module or class, such as my_package.Mine; found {name!r}."
            )
    return names


def allowed(packages: Sequence[str] = ()) -> list[str]:
    """Return all dotted paths that a config may name; ``packages`` are those of installed plugins."""
    return [*dict.fromkeys((*_KINDS, *packages, *trusted()))]


def require(path: str, packages: Sequence[str] = ()) -> None:
    """Refuse a dotted path in a config that is not of a known kind and not trusted.

    >>> require("torch.optim.SGD")
    >>> require("a.B")
    Traceback (most recent call last):
    cl_framework.errors.UserError: The config names a.B, which may run any code; to trust it, add --trust a.B.

    Raises:
        UserError: Saying how to trust it.
    """
    if not _within(path, allowed(packages)):
        raise UserError(refusal(path))


def require_home(target: object, path: str, packages: Sequence[str] = ()) -> None:
    """Refuse an object whose module is of no known kind: known modules import others, such as ``import_module``.

    Raises:
        UserError: Saying how to trust it, unless the user trusts the path itself.
    """
    if _within(path, trusted()):
        return
    named = target if hasattr(target, "__qualname__") else type(target)
    require(f"{named.__module__}.{getattr(named, '__qualname__', '')}", packages)


def _within(path: str, names: Sequence[str]) -> bool:
    """Return whether a dotted path is one of ``names`` or lies below one."""
    return any(path == name or path.startswith(f"{name}.") for name in names)


def refusal(path: str) -> str:
    """Return the sentence about a path that is not trusted."""
    return f"The config names {path}, which may run any code; to trust it, add {OPTION} {path}."


def enforce(packages: Sequence[str] = ()) -> None:
    """Restrict the imports of the config parser to allowed paths."""
    import jsonargparse

    now = allowed(packages)
    ended = sorted(path for path in _earlier if not _within(path, now))  # the narrower path would decide otherwise
    jsonargparse.set_parsing_settings(import_path_denylist=["*", *ended], import_path_allowlist=now)
    _earlier.update(now)
