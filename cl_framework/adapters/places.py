"""Check that a backbone has sites for adapters of a kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from cl_framework.backbones.base import Backbone, Role, Site


def lacking(adapter: str, needs: Collection[Role], sites: Mapping[str, Site], backbone: Backbone) -> str | None:
    """Return why a backbone has no site for an adapter, and what to do; None if it has.

    Args:
        adapter: Name of the adapter.
        needs: Roles of which at least one must exist.
        sites: The sites that it rewrites.
        backbone: The backbone of the sites.
    """
    if sites and not set(needs) - {s.role for s in sites.values()}:
        return None
    roles, named = sorted({s.role for s in backbone.sites().values()}), ", ".join(sorted(needs))
    return (
        f"{adapter} finds no place {f'for {named} ' if named else ''}in {backbone.name}, which has "
        f"{', '.join(roles) or 'none'}; choose other roles or another adapter, or a strategy that trains none such as "
        "SimpleCIL."
    )
