"""Names that libraries declare, read from their source files: classes, and timm's models. Nothing is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from cl_framework.errors import UserError, did_you_mean
from cl_framework.settings import signatures

PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".tar")
WEIGHT_FORMATS = f".safetensors, {', '.join(PICKLED)}, or .npz"
"""Endings of files of weights."""
MODEL = re.compile(r"^@register_model\s*\ndef (\w+)", re.MULTILINE)
RENAMED = re.compile(r"register_model_deprecations\(__name__, \{(.*?)\}\)", re.DOTALL)


@cache
def classes_in(module: str) -> Sequence[str]:
    """Return the public classes that a module declares or imports; none if its source is not found.

    >>> "SGD" in classes_in("torch.optim"), "StepLR" in classes_in("torch.optim.lr_scheduler"), classes_in("no.such")
    (True, True, ())
    """
    if (file := signatures.source_file(module)) is None:
        return ()
    body = signatures.tree(file).body
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = ast.literal_eval(node.value)
            break
    else:
        names = [a.asname or a.name for n in body if isinstance(n, ast.ImportFrom) for a in n.names]
    return tuple(name for name in names if name[0].isupper())


@cache
def timm_models() -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of timm's models, in this version and earlier ones."""
    spec = find_spec("timm")
    folders = [Path(place) / "models" for place in (spec.submodule_search_locations or ())] if spec else []
    texts = [file.read_text(encoding="utf-8") for folder in folders for file in sorted(folder.glob("*.py"))]
    former = (re.findall(r"['\"]([\w.]+)['\"]\s*:", block) for text in texts for block in RENAMED.findall(text))
    return frozenset(n for text in texts for n in MODEL.findall(text)), frozenset(n for some in former for n in some)


def known_to_timm(name: str) -> bool:
    """Tell whether timm may know a name: a model, one of an earlier version, or a model and a tag of its weights.

    >>> [known_to_timm(n) for n in ("vit_base_patch16_224.x", "vit_base_patch16_224_in21k", "timm/resnet18", "vit_bas")]
    [True, True, True, False]
    """
    models, former = timm_models()
    bare = name.rpartition("/")[2]
    parts = bare.partition(".")[0].split("_")
    starts = {"_".join(parts[: i + 1]) for i in range(len(parts))}
    return not models or bare in former or bool(starts & models)


def check_timm(name: str) -> None:
    """Refuse a name of no model of timm's.

    Raises:
        UserError: If it is one, with the closest there is.
    """
    if not known_to_timm(name):
        raise no_model(name.rpartition("/")[2].partition(".")[0])


def no_model(architecture: str) -> UserError:
    """Return the error for a model that timm does not have."""
    hint = did_you_mean(architecture, timm_models()[0])
    other = hint if hint.startswith("Did") else "`timm.list_models()` lists them."
    return UserError(f"timm has no model {architecture!r}. {other}")


def check_weights(path: Path) -> None:
    """Refuse a path of weights where there is nothing.

    Raises:
        UserError: If so.
    """
    if not path.expanduser().exists():
        raise UserError(f"There is no weight file {path}; give the path of a checkpoint ({WEIGHT_FORMATS}).")


def check_folder(name: str) -> None:
    """Refuse a path of a folder of transformers where there is none; any other name may be one on the hub.

    Raises:
        UserError: If so.
    """
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise UserError(
            f"There is no folder {name}; give the one that `save_pretrained` wrote, or the name of a package or on the "
            "hub."
        )
