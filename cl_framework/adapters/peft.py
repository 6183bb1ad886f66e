"""Any adapter of the peft library that can do what a bank of adapters promises, around a backbone's frozen maps.

What each family can do is written down in `FAMILIES`, and tests hold every entry to it by building and training one.
What would break a promise is refused when the config is read. peft brings transformers along, so that it is imported
when the first of its adapters is built and not before.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, cast, final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from cl_framework.adapter import Adapter, Rewrite
from cl_framework.adapters.lora import Factors
from cl_framework.backbone import Role, Site
from cl_framework.errors import UserError, did_you_mean
from cl_framework.lowrank import frozen_weight

LINEAR: Final = ("query", "key", "value", "attention_out", "mlp_in", "mlp_out", "linear")


@final
class Does(NamedTuple):
    """What a family of adapters does.

    Attributes:
        adds: It adds to what a map gives, so that several may be in use at once.
        merges: It is exactly a matrix added to the weight.
        neutral: It changes nothing at birth but for rounding, as long as its start is the family's own.
        untouched: It leaves the weights of the backbone as they are; refused where not.
        routes: What it does to a sample depends on that sample alone, so that each sample may go through an adapter of
            its own; refused where not.
        apart: All it trains belongs to one map, rather than being shared among maps; refused where not.
    """

    adds: bool
    merges: bool
    neutral: bool = True
    untouched: bool = True
    routes: bool = True
    apart: bool = True


FAMILIES: Final[Mapping[str, Does]] = {
    "LORA": Does(adds=True, merges=True),
    "LORA gaussian": Does(adds=True, merges=True),
    "LORA orthogonal": Does(adds=True, merges=True),
    "LORA mica": Does(adds=True, merges=True),
    "LORA dora": Does(adds=False, merges=True),  # scales what the map gives
    "LORA pissa": Does(adds=True, merges=True, neutral=False, untouched=False),
    "LORA olora": Does(adds=True, merges=True, neutral=False, untouched=False),
    "ADAMSS": Does(adds=True, merges=False),  # has a bias
    "BEFT": Does(adds=True, merges=False),  # is a bias
    "BOFT": Does(adds=False, merges=True),  # rotates what the map gives
    "C3A": Does(adds=True, merges=True, neutral=False),
    "DEFT": Does(adds=False, merges=True),  # takes a subspace out of what the map gives
    "DELORA": Does(adds=True, merges=True),
    "FOURIERFT": Does(adds=True, merges=True, neutral=False),
    "GLORA": Does(adds=False, merges=False),  # scales what the map gives, and has a bias
    "GRALORA": Does(adds=True, merges=True),
    "HIRA": Does(adds=True, merges=True),
    "HRA": Does(adds=False, merges=True),  # reflects what the map reads
    "IA3": Does(adds=False, merges=False),  # scales what the map gives, its bias too
    "LILY": Does(adds=True, merges=False, routes=False),  # averages its routing over the batch
    "LOHA": Does(adds=True, merges=True),
    "LOKR": Does(adds=True, merges=True),
    "MISS": Does(adds=True, merges=True),
    "MISS bat": Does(adds=False, merges=True),  # multiplies blocks of the weight
    "OFT": Does(adds=False, merges=True),  # rotates what the map reads
    "PEANUT": Does(adds=True, merges=True),
    "PSOFT": Does(adds=True, merges=True),
    "PVERA": Does(adds=True, merges=True),
    "RANDLORA": Does(adds=True, merges=True),
    "ROAD": Does(adds=False, merges=False),  # rotates what the map gives, its bias too
    "SHIRA": Does(adds=False, merges=True),  # works on a copy of the weight
    "SUPERTUNING": Does(adds=False, merges=True),  # works on a copy of the weight
    "TINYLORA": Does(adds=True, merges=True, apart=False),
    "UNILORA": Does(adds=True, merges=True, neutral=False, apart=False),
    "VBLORA": Does(adds=True, merges=True, neutral=False, apart=False),
    "VERA": Does(adds=True, merges=True),
    "WAVEFT": Does(adds=True, merges=True),
}
"""What each family does. ``LORA dora`` is a `LoraConfig` with ``use_dora``; other second words say how it starts."""

FACTORED: Final = ("LORA", "LORA gaussian", "LORA orthogonal")
"""Families that are two factors, both of them trained."""

_TOKENS = "gives tokens to a language model; choose an adapter of prompts"
REFUSED: Final[Mapping[str, str]] = {
    "LORA corda": "changes the weights of the backbone",
    "LORA loftq": "changes the weights of the backbone",
    "LORA lora_ga": "changes the weights of the backbone",
    "LORA eva": "reads data before it starts",
    "ADALORA": "has to be told after each step how ranks are shared out, which nothing here does",
    "FROD": "works out a basis from all maps together",
    "LN_TUNING": "copies norms, and is no change of a linear map; choose an adapter that scales and shifts",
    "OSF": "keeps a decomposition of each whole weight; choose the strategy OSF with LoRA",
    "POLY": "has to be told the task of each sample",
    "SHADOW": "adds a network beside the backbone",
    "TRAINABLE_TOKENS": "changes the embeddings of words",
    "XLORA": "mixes finished adapters of a language model",
    **dict.fromkeys(
        ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE",
         "ADAPTION_PROMPT"), _TOKENS,
    ),
}  # fmt: skip
"""Families that cannot work here at all, and why."""

PLACES: Final = (
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "feedforward_modules",
    "target_parameters", "trainable_token_indices", "layer_replication", "rank_pattern", "alpha_pattern",
)  # fmt: skip
"""Settings of peft that choose by name what roles choose here."""

BEYOND: Final = (
    "modules_to_save", "bias", "fan_in_fan_out", "lora_bias", "use_qalora", "use_bdlora", "velora_config",
    "kasa_config", "alora_invocation_tokens", "monteclora_config", "arrow_config", "megatron_config",
    "generator_seed", "use_asa",
)  # fmt: skip
"""Settings of peft that reach beyond a change of one map, or keep state outside of it."""


class PeftConfig(Protocol):
    """A config of the peft library, such as ``peft.HRAConfig``, known without importing peft."""

    def to_dict(self) -> Any:
        """Return the settings."""


@final
class Peft(Adapter):
    """An adapter of the peft library, on the linear maps whose roles are chosen.

    ``adapter: {class_path: peft.HRAConfig, init_args: {r: 8}}`` means one with default roles.

    The maps keep their own weights, neither copied nor trained nor stored; the parts of a fused projection are maps of
    their own. Families that do more than add are used one at a time.

    Args:
        config: Settings of the family, such as ``peft.LoraConfig``; what names modules in it is left alone.
        roles: Which maps to adapt.
    """

    def __init__(self, config: PeftConfig, roles: Sequence[Role] = ("query", "value")) -> None:
        """Make sure that such adapters keep the promises of a bank.

        Raises:
            UserError: If they do not, saying what to choose.
        """
        self.family = family(config)
        if (does := FAMILIES.get(self.family)) is None or (why := _objection(does)):
            why = REFUSED.get(self.family, "was never tested here") if does is None else why
            raise UserError(f"{_title(self.family)} {why}. {_instead(self.family)}")
        if self.family == "OFT" and _is_set(config, "module_dropout"):  # seen in 0.21.2
            raise UserError("peft's OFT takes module_dropout and never applies it; leave it out.")
        for names, instead in ((PLACES, "set `roles` of the adapter `Peft`"), (BEYOND, "leave it out")):
            if found := next((n for n in names if _is_set(config, n)), None):
                raise UserError(
                    f"{type(config).__name__} sets {found} to {getattr(config, found)!r}, which is not possible here; "
                    f"{instead}."
                )
        if not roles or not set(roles) <= set(LINEAR):
            raise UserError(f"peft adapts linear maps; choose roles among {', '.join(LINEAR)}; found {list(roles)}.")
        self.config, self.roles, self.does = config, tuple(roles), does
        self.several = does.adds
        self.neutral = does.neutral and _starts_as_its_family(config)

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


def family(config: PeftConfig) -> str:
    """Return the name under which a config stands in `FAMILIES` or `REFUSED`.

    Raises:
        UserError: If it is no config of an adapter.
    """
    kind = getattr(getattr(config, "peft_type", None), "value", None)
    if not isinstance(kind, str):
        raise UserError(f"{type(config).__name__} describes no adapter of peft; choose one such as peft.LoraConfig.")
    start = getattr(config, {"LORA": "init_lora_weights", "MISS": "init_weights"}.get(kind, ""), True)
    if getattr(config, "use_dora", False):
        start = "dora"
    return f"{kind} {start.lower().partition('_niter')[0]}" if isinstance(start, str) else kind


def _objection(does: Does) -> str | None:
    if not does.untouched:
        return "changes the weights of the backbone, so that a second adapter would spoil the first"
    if not does.routes:
        return "lets what a sample gets depend on the rest of its batch"
    return None if does.apart else "shares what it trains among all maps, and adapters here are built map by map"


def _instead(name: str) -> str:
    usable = [f for f, does in FAMILIES.items() if _objection(does) is None]
    if name.startswith("LORA "):
        starts = " or ".join(f.split()[1] for f in usable if f.startswith("LORA ") and "dora" not in f)
        return f"Leave init_lora_weights out, or set it to {starts}."
    return did_you_mean("", {_title(f) for f in usable})


def _title(name: str) -> str:
    kind, _, start = name.partition(" ")
    return f"{kind} ({start})" if start else kind


def _is_set(config: PeftConfig, name: str) -> bool:
    fields = {f.name: f for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    if name not in fields:
        return False
    made = fields[name].default_factory
    usual = fields[name].default if made is dataclasses.MISSING else made()
    return bool(getattr(config, name) != usual)


def _starts_as_its_family(config: PeftConfig) -> bool:
    """Tell whether nothing in a config makes a neutral family start with a change."""
    odd = family(config) == "HRA" and (getattr(config, "r", 0) % 2 == 1 or getattr(config, "apply_GS", False))
    starts = [n for n in vars(config) if n.startswith("init_")]
    return not odd and not any(_is_set(config, n) and getattr(config, n) is False for n in starts)


def _frozen_bias(site: Site) -> Tensor | None:
    bias: Tensor | None = getattr(site.module, "bias", None)
    return None if bias is None else bias.detach()[site.columns or slice(None)]


class _Frozen(nn.Linear):
    """The map at a site as a layer of peft sees it: the backbone's own weight, wherever that is now.

    Attributes:
        answer: What to say instead of computing it, if anything.
        bare: Whether to do without the bias.
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


class _LowRank(_Matrix):
    """peft's LoRA, whose factors are there to see."""

    @property
    def a(self) -> nn.Parameter:
        return self.layer.lora_A["default"].weight  # type: ignore[no-any-return]

    @property
    def b(self) -> nn.Parameter:
        return self.layer.lora_B["default"].weight  # type: ignore[no-any-return]

    @property
    def scale(self) -> float:
        return float(self.layer.scaling["default"])

    def delta(self) -> Tensor:
        """Return ``scale * b @ a``."""
        return self.scale * self.b @ self.a

    @torch.no_grad()
    def rescale(self, by: float) -> None:
        """Multiply the correction by a number: in one factor, for in both a sign would cancel."""
        self.b.mul_(by)


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
        found: Tensor = self.map(x)
        return found


def _layer(site: Site, config: PeftConfig) -> Any:
    """Let peft wrap a copy of the map at ``site``, then put the map itself in the copy's place."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    place, told = _Place(site), cast("Any", copy.deepcopy(config))
    told.target_modules = ["map"]
    if hasattr(told, "feedforward_modules"):  # Liu et al. 2022, Sec. 3.3: between the maps of an MLP, inputs are scaled
        told.feedforward_modules = ["map"] if site.role == "mlp_out" else []
    copied = place.map
    before = {k: v.clone() for k, v in copied.state_dict().items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about models that are not transformers' own
            PEFT_TYPE_TO_TUNER_MAPPING[told.peft_type](place, told, "default")
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"peft cannot adapt the {site.role} map of {site.width_in} to {site.width_out} with "
            f"{type(config).__name__}: {' '.join(str(error).split()).rstrip('.')}. Change that setting."
        ) from error
    layer: Any = place.map
    if layer is copied or any(not torch.equal(v, copied.state_dict()[k]) for k, v in before.items()):
        raise UserError(
            f"{type(config).__name__}, as it is set, changes the weights of the backbone; leave its start as it is."
        )
    del layer._modules["base_layer"]
    layer.__dict__["base_layer"] = _Frozen(site)
    for part in layer.modules():  # what peft keeps frozen is no parameter here, for whoever trains trains them all
        for name, p in list(part._parameters.items()):
            if p is not None and not p.requires_grad:
                del part._parameters[name]
                part.register_buffer(name, p.data)
    return layer.cpu()
