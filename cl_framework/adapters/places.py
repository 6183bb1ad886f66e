"""Whether a backbone has places for adapters of a kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from cl_framework.backbones.base import Backbone, Role, Site


def lacking(adapter: str, needs: Collection[Role], sites: Mapping[str, Site], backbone: Backbone) -> str | None:
    """Return why a backbone has no place for an adapter, and what to do; None if it has all that is needed.

    Args:
        adapter: What the adapter is called.
        needs: Roles without any of which it would do something else than it says.
        sites: The places that it rewrites.
        backbone: Of which they are.
    """
    if sites and not set(needs) - {s.role for s in sites.values()}:
        return None
    roles, named = sorted({s.role for s in backbone.sites().values()}), ", ".join(sorted(needs))
    return (
        f"{adapter} finds no place {f'for {named} ' if named else ''}in {backbone.name}, which has "
        f"{', '.join(roles) or 'none'}; choose other roles or another adapter, or a strategy that trains none such as "
        "SimpleCIL."
    )
