"""Names of timm's models: with the tag of their weights, and those of older versions."""

from __future__ import annotations

import timm
from timm.models import get_deprecated_models

from cl_framework.errors import UserError
from cl_framework.settings.declared import no_model


def current(name: str) -> str:
    """Return today's name of a model that timm renamed; other names unchanged.

    >>> current("vit_base_patch16_224_in21k"), current("vit_base_patch16_224_augreg_in21k")
    ('vit_base_patch16_224.augreg_in21k', 'vit_base_patch16_224.augreg_in21k')
    >>> current("vit_base_patch16_224")
    'vit_base_patch16_224'
    """
    bare = name.removeprefix("timm/").removeprefix("hf_hub:timm/").removeprefix("hf-hub:timm/")
    if (now := get_deprecated_models().get(bare)) is not None:
        return now
    if timm.is_model(bare.partition(".")[0]):
        return bare
    parts = bare.split("_")  # a tag after an underscore in place of the dot
    for i in range(len(parts) - 1, 0, -1):
        architecture, tag = "_".join(parts[:i]), "_".join(parts[i:])
        if timm.is_model(architecture) and f"{architecture}.{tag}" in timm.list_pretrained(f"{architecture}.*"):
            return f"{architecture}.{tag}"
    return bare


def check_name(name: str, needs_tag: bool) -> None:
    """Refuse a name that timm does not know, or that names no weights where they are to be loaded.

    Raises:
        UserError: If so, with the names or tags that there are.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise no_model(architecture)
    tags = timm.list_pretrained(f"{architecture}.*")
    if needs_tag and name not in tags:
        problem = (
            f"has no weights tagged {tag!r}" if tag else "names no weights: the same bare name has meant different ones"
        )
        raise UserError(
            f"{name!r} {problem}. Name them with their tag: {', '.join(tags) or 'none exist; set pretrained: false'}."
        )
