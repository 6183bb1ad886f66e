"""Properties of the adapter families of peft: a table that tests check, and refusals that follow from it.

Seen in peft 0.21.2. A family in neither table is refused until it has been tried.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol, final

from cl_framework.errors import UserError, did_you_mean


@final
class FamilyTraits(NamedTuple):
    """Properties of a family of adapters.

    Attributes:
        adds: It adds to what a map gives, so that several may be in use at once.
        merges: It is exactly a matrix added to the weight.
        neutral: It changes nothing at birth but for rounding, as long as its start is the family's own.
        untouched: It leaves the weights of the backbone unchanged; else refused.
        routes: Its effect on a sample depends on that sample alone, so that each sample may pass an adapter of its own;
            else refused.
        apart: All it trains belongs to one map, nothing is shared among maps; else refused.
    """

    adds: bool
    merges: bool
    neutral: bool = True
    untouched: bool = True
    routes: bool = True
    apart: bool = True


FAMILIES: Final[Mapping[str, FamilyTraits]] = {
    "LORA": FamilyTraits(adds=True, merges=True),
    "LORA gaussian": FamilyTraits(adds=True, merges=True),
    "LORA orthogonal": FamilyTraits(adds=True, merges=True),
    "LORA mica": FamilyTraits(adds=True, merges=True),
    "LORA dora": FamilyTraits(adds=False, merges=True),  # scales what the map gives
    "LORA pissa": FamilyTraits(adds=True, merges=True, neutral=False, untouched=False),
    "LORA olora": FamilyTraits(adds=True, merges=True, neutral=False, untouched=False),
    "ADAMSS": FamilyTraits(adds=True, merges=False),  # has a bias
    "BEFT": FamilyTraits(adds=True, merges=False),  # is a bias
    "BOFT": FamilyTraits(adds=False, merges=True),  # rotates what the map gives
    "C3A": FamilyTraits(adds=True, merges=True, neutral=False),
    "DEFT": FamilyTraits(adds=False, merges=True),  # takes a subspace out of what the map gives
    "DELORA": FamilyTraits(adds=True, merges=True),
    "FOURIERFT": FamilyTraits(adds=True, merges=True, neutral=False),
    "GLORA": FamilyTraits(adds=False, merges=False),  # scales what the map gives, and has a bias
    "GRALORA": FamilyTraits(adds=True, merges=True),
    "HIRA": FamilyTraits(adds=True, merges=True),
    "HRA": FamilyTraits(adds=False, merges=True),  # reflects what the map reads
    "IA3": FamilyTraits(adds=False, merges=False),  # scales what the map gives, its bias too
    "LILY": FamilyTraits(adds=True, merges=False, routes=False),  # averages its routing over the batch
    "LOHA": FamilyTraits(adds=True, merges=True),
    "LOKR": FamilyTraits(adds=True, merges=True),
    "MISS": FamilyTraits(adds=True, merges=True),
    "MISS bat": FamilyTraits(adds=False, merges=True),  # multiplies blocks of the weight
    "OFT": FamilyTraits(adds=False, merges=True),  # rotates what the map reads
    "PEANUT": FamilyTraits(adds=True, merges=True),
    "PSOFT": FamilyTraits(adds=True, merges=True),
    "PVERA": FamilyTraits(adds=True, merges=True),
    "RANDLORA": FamilyTraits(adds=True, merges=True),
    "ROAD": FamilyTraits(adds=False, merges=False),  # rotates what the map gives, its bias too
    "SHIRA": FamilyTraits(adds=False, merges=True),  # works on a copy of the weight
    "SUPERTUNING": FamilyTraits(adds=False, merges=True),  # works on a copy of the weight
    "TINYLORA": FamilyTraits(adds=True, merges=True, apart=False),
    "UNILORA": FamilyTraits(adds=True, merges=True, neutral=False, apart=False),
    "VBLORA": FamilyTraits(adds=True, merges=True, neutral=False, apart=False),
    "VERA": FamilyTraits(adds=True, merges=True),
    "WAVEFT": FamilyTraits(adds=True, merges=True),
}
"""Properties of families. ``LORA dora`` is a `LoraConfig` with ``use_dora``; other second words say how it starts."""

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


def family_objection(config: PeftConfig) -> str | None:
    """Return why such adapters break a condition of a bank, and what to choose; None if they do not."""
    name = family(config)
    if (does := FAMILIES.get(name)) is None or (why := _broken(does)):
        why = REFUSED.get(name, "was never tested here") if does is None else why
        return f"{_title(name)} {why}. {_instead(name)}"
    if name == "OFT" and _is_set(config, "module_dropout"):
        return "peft's OFT takes module_dropout and never applies it; leave it out."
    for names, instead in ((PLACES, "set `roles` of the adapter `Peft`"), (BEYOND, "leave it out")):
        if setting := next((n for n in names if _is_set(config, n)), None):
            value = getattr(config, setting)
            return f"{type(config).__name__} sets {setting} to {value!r}, which is not possible here; {instead}."
    return None


def _broken(does: FamilyTraits) -> str | None:
    if not does.untouched:
        return "changes the weights of the backbone, so a second adapter would corrupt the first"
    if not does.routes:
        return "makes a sample's features depend on the rest of its batch"
    return None if does.apart else "shares what it trains among all maps, and adapters here are built map by map"


def _instead(name: str) -> str:
    usable = [f for f, does in FAMILIES.items() if _broken(does) is None]
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
    factory = fields[name].default_factory
    usual = fields[name].default if factory is dataclasses.MISSING else factory()
    return bool(getattr(config, name) != usual)


def starts_as_its_family(config: PeftConfig) -> bool:
    """Tell whether nothing in a config makes a neutral family start with a change."""
    odd = family(config) == "HRA" and (getattr(config, "r", 0) % 2 == 1 or getattr(config, "apply_GS", False))
    starts = [n for n in vars(config) if n.startswith("init_")]
    return not odd and not any(_is_set(config, n) and getattr(config, n) is False for n in starts)
