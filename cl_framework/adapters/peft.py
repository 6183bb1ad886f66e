"""Adapters of the peft library on a backbone's frozen maps, where they meet the conditions of a bank.

`peft_families` records the properties of each family, and tests build and train one of each. Families that break a
condition are refused when the config is read. peft imports transformers, so it is imported when the first of its
adapters is built.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from cl_framework.adapters.base import Adapter, Rewrite
from cl_framework.adapters.lora import Factors
from cl_framework.adapters.low_rank import LowRank, frozen_weight
from cl_framework.adapters.peft_families import (
    FACTORED,
    FAMILIES,
    PeftConfig,
    family,
    family_objection,
    starts_as_its_family,
)
from cl_framework.backbones.base import LINEAR_ROLES, Role, Site
from cl_framework.errors import UserError


@final
class Peft(Adapter):
    """Uses an adapter of the peft library on chosen linear maps; choose it for families missing here.

    An adapter of the peft library, on the linear maps whose roles are chosen.

    ``adapter: {class_path: peft.HRAConfig, init_args: {r: 8}}`` means one with default roles.

    The maps keep their own weights, neither copied nor trained nor stored; the parts of a fused projection are maps of
    their own. Families that do more than add are active one at a time.

    Args:
        config: Settings of the family, such as ``peft.LoraConfig``; what names modules in it is left alone.
        roles: Which maps to adapt.
    """

    def __init__(self, config: PeftConfig, roles: Sequence[Role] = ("query", "value")) -> None:
        """Require that such adapters meet the conditions of a bank.

        Raises:
            UserError: If they do not, naming what to choose.
        """
        if (why := family_objection(config)) is not None:
            raise UserError(why)
        if not roles or not set(roles) <= set(LINEAR_ROLES):
            raise UserError(
                f"peft adapts linear maps; choose roles among {', '.join(LINEAR_ROLES)}; found {list(roles)}."
            )
        self.config, self.roles, self.family = config, tuple(roles), family(config)
        self.does = FAMILIES[self.family]
        self.several = self.does.adds
        self.neutral = self.does.neutral and starts_as_its_family(config)

    def build(self, site: Site) -> Rewrite | None:
        """Wrap the layer that peft makes of a map whose role was chosen."""
        if site.role not in self.roles:
            return None
        if self.family in FACTORED:
            return _LowRank(site, self.config, self.does.adds)
        return (_Matrix if self.does.merges else _Tuned)(site, self.config, self.does.adds)

    def restore(self, site: Site, state: Mapping[str, Tensor]) -> Rewrite | None:
        """Build a correction by two factors where that is what is stored, as a merge leaves it."""
        if state.keys() == {"a", "b"} and site.role in self.roles:
            return Factors(site.width_in, site.width_out, len(state["a"]))
        return self.build(site)


def _frozen_bias(site: Site) -> Tensor | None:
    bias: Tensor | None = getattr(site.module, "bias", None)
    return None if bias is None else bias.detach()[site.columns or slice(None)]


class _Frozen(nn.Linear):
    """The map at a site as a layer of peft sees it: the backbone's own weight, wherever that is now.

    Attributes:
        answer: Output to return instead of computing it, if any.
        bare: Whether to leave out the bias.
    """

    def __init__(self, site: Site) -> None:
        nn.Module.__init__(self)  # without parameters of its own
        self.site, self.in_features, self.out_features = site, site.width_in, site.width_out
        self.answer: Tensor | None = None
        self.bare = False

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return frozen_weight(self.site)

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        return None if self.bare else _frozen_bias(self.site)

    def forward(self, x: Tensor) -> Tensor:
        # Some layers of peft add to this in place, so that they are given a copy.
        return linear(x, self.weight, self.bias) if self.answer is None else self.answer.clone()


class _Tuned(Rewrite):
    """A layer of peft. What it trains is its own; the map it wraps stays with the backbone."""

    layer: Any
    map: _Frozen

    def __init__(self, site: Site, config: PeftConfig, adds: bool) -> None:
        super().__init__()
        self.layer, self.adds = _layer(site, config), adds
        self.__dict__["map"] = self.layer.base_layer  # a module, but no part of this one

    def forward(self, given: Tensor, out: Tensor) -> Tensor:
        """Add to ``out``, or replace it by what the changed map makes of ``given``."""
        self.map.answer = out if self.adds else None
        try:
            changed: Tensor = self.layer(given)
        finally:
            self.map.answer = None
        return changed


class _Matrix(_Tuned):
    def delta(self) -> Tensor:
        """Return what is added to the weight, ``(width_out, width_in)``: the answer to each unit vector."""
        weight, training = self.map.weight, self.training
        units = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
        self.eval()  # without dropout
        self.map.bare = True
        try:
            nothing = torch.zeros_like(weight).T
            changed = self.forward(units, nothing).T
            return changed if self.adds else changed - weight
        finally:
            self.map.bare = False
            self.train(training)


class _LowRank(LowRank, _Matrix):
    """peft's LoRA, whose factors are accessible."""

    @property
    def a(self) -> nn.Parameter:  # type: ignore[override]
        return self.layer.lora_A["default"].weight  # type: ignore[no-any-return]

    @property
    def b(self) -> nn.Parameter:  # type: ignore[override]
        return self.layer.lora_B["default"].weight  # type: ignore[no-any-return]

    @property
    def scale(self) -> float:  # type: ignore[override]
        return float(self.layer.scaling["default"])


class _Place(nn.Module):
    """A model of one map, for peft to find: a copy of the map at a site."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        weight, bias = frozen_weight(site), _frozen_bias(site)
        with torch.device("meta"):  # so that no start is drawn
            self.map = nn.Linear(site.width_in, site.width_out, bias=bias is not None)
        self.map.weight = nn.Parameter(weight.cpu().clone(), requires_grad=False)
        if bias is not None:
            self.map.bias = nn.Parameter(bias.cpu().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.map(x)
        return out


def _layer(site: Site, config: PeftConfig) -> Any:
    """Let peft wrap a copy of the map at ``site``, then put the map itself in the copy's place."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    place, own_config = _Place(site), cast("Any", copy.deepcopy(config))
    own_config.target_modules = ["map"]
    if hasattr(
        own_config, "feedforward_modules"
    ):  # Liu et al. 2022, Sec. 3.3: between the maps of an MLP, inputs are scaled
        own_config.feedforward_modules = ["map"] if site.role == "mlp_out" else []
    copied = place.map
    before = {k: v.clone() for k, v in copied.state_dict().items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about models that are not transformers' own
            PEFT_TYPE_TO_TUNER_MAPPING[own_config.peft_type](place, own_config, "default")
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"peft cannot adapt the {site.role} map of {site.width_in} to {site.width_out} with "
            f"{type(config).__name__}: {' '.join(str(error).split()).rstrip('.')}. Change that setting."
        ) from error
    layer: Any = place.map
    if layer is copied or any(not torch.equal(v, copied.state_dict()[k]) for k, v in before.items()):
        raise UserError(
            f"{type(config).__name__} as configured changes the weights of the backbone; leave its start as it is."
        )
    del layer._modules["base_layer"]
    layer.__dict__["base_layer"] = _Frozen(site)
    for part in layer.modules():  # what peft freezes is no parameter here: all parameters are trained
        for name, p in list(part._parameters.items()):
            if p is not None and not p.requires_grad:
                del part._parameters[name]
                part.register_buffer(name, p.data)
    return layer.cpu()
