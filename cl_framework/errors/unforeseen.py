"""Unforeseen errors as one sentence: too little memory, a class of another library, a fault of our own."""

from __future__ import annotations

import re
import traceback
from types import FrameType

OURS = {"cl_framework", "strategies", "scenarios"}
MEMORY = re.compile(r"DefaultCPUAllocator|out of memory|can't allocate memory|Cannot allocate|ALLOC_FAILED", re.I)
BYTES = re.compile(r"tried to allocate (\d+) bytes|tried to allocate ([\d.]+ [KMGT]i?B)", re.I)
_PARTS = {
    "pytorch_lightning.callbacks": "The callback",
    "pytorch_lightning.loggers": "The logger",
    "pytorch_lightning.profilers": "The profiler",
    "torch.optim.lr_scheduler": "The schedule",
    "torch.optim": "The optimiser",
    "pytorch_lightning.trainer": "The trainer section",
}
"""Packages whose classes a config may name, and the word for such a class."""


def error_sentence(error: BaseException) -> str:
    """Return what happened and what to do, for anything that may be raised."""
    if sentence := mendable(error):
        return sentence
    frame = _innermost(error)
    package = _package(frame)
    fault = f"{type(error).__name__}: {_message(error)}" if _message(error) else type(error).__name__
    if package in OURS:
        where = f"{frame.f_globals.get('__name__')}, line {frame.f_lineno}" if frame else "an unknown place"
        return f"This is a fault of cl_framework ({fault} in {where}); report it with what `clf --debug ...` prints."
    return f"{package} stopped with {fault}; `clf --debug ...` shows where. No file was left incomplete."


def mendable(error: BaseException) -> str | None:
    """Return the sentence for what a user can correct: memory, or a class that the config names; else None."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and MEMORY.search(str(error))):
        return _memory(error)
    if part := _part(error):
        return f"{part} cannot work here: {_message(error) or type(error).__name__}"
    return None


def _memory(error: BaseException) -> str:
    size = BYTES.search(str(error))
    asked = ""
    if size:
        asked = f" ({int(size[1]) / 1e9:,.1f} GB asked for)" if size[1] else f" ({size[2]} asked for)"
    return (
        f"There is not enough memory{asked}: lower data.batch_size, the adapter's width or rank, or a strategy's "
        "expansion, or set model.compute.checkpoint to true. No file was left incomplete; "
        "a run that had begun is as it was before this request, and `clf resume DIR` goes on."
    )


def _part(error: BaseException) -> str | None:
    """Return the part named by a config within which an error was raised, if it was."""
    part = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = type(frame.f_locals.get("self"))
        if owner.__module__.partition(".")[0] in OURS:
            continue
        modules = [c.__module__ for c in owner.__mro__]
        kind = next((w for p, w in _PARTS.items() if any(m == p or m.startswith(p + ".") for m in modules)), None)
        if kind is not None and (part is None or kind != _PARTS["pytorch_lightning.trainer"]):
            part = kind if kind == _PARTS["pytorch_lightning.trainer"] else f"{kind} {owner.__name__}"
    return part


def _innermost(error: BaseException) -> FrameType | None:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1] if frames else None


def _package(frame: FrameType | None) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] if frame else "cl_framework"


def _message(error: BaseException) -> str:
    """Return an error's message on one short line."""
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else text[:400] + " ..."
