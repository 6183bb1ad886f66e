"""Folders of transformers: location, encoder, tokenizer and settings."""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import nn

from cl_framework.backbones.hf_modules import encoder_folder, json_or_empty
from cl_framework.backbones.hf_towers import Reads, Tower, parts, tower
from cl_framework.backbones.hub import network
from cl_framework.backbones.weight_file import first_names, refuse_unusable, refuse_whole, tensors_in
from cl_framework.errors import UserError
from cl_framework.settings.declared import check_folder
from cl_framework.storage.lfs_pointers import unfetched

_WORDS = ("tokenizer.json", "vocab.*", "*.model")
OFFSET = ("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "mpnet", "longformer")
"""Families whose positions count from after the padding's id."""
BIN = "pytorch_model.bin"
_PARTS = ["*.json", "*.safetensors", "*.txt", "*.model"]


def locate_encoder(name: str, download: bool = False) -> Path:
    """Return the folder of an encoder: the folder itself, the one that a package carries, or the hub's.

    Raises:
        UserError: If there is none, or it holds no safetensors.
    """
    if (folder := Path(name).expanduser()).is_dir():
        return _checked(folder)
    check_folder(name)
    package = name.replace("-", "_")
    if package.isidentifier() and (spec := find_spec(package)) is not None:
        places = [Path(p) for p in spec.submodule_search_locations or ()]
        held = sorted({c.parent for p in places for c in p.rglob("config.json") if any(c.parent.glob("*.safetensors"))})
        if len(held) == 1:
            return held[0]
    try:
        with network(download):
            snapshot = snapshot_download(
                name, local_files_only=not download, allow_patterns=_PARTS, ignore_patterns=["onnx/*", "openvino/*"]
            )
    except (OSError, ValueError) as error:  # the hub's own errors are of these kinds
        raise UserError(
            f"Cannot find the encoder {name!r}: it is no folder, no installed package that carries weights, and not in "
            f"the hub's cache on this machine ({type(error).__name__}); give a folder, or set `download: true`."
        ) from error
    return _checked(Path(snapshot))


def _checked(folder: Path) -> Path:
    place = encoder_folder(folder)
    if not (place / "config.json").is_file():
        raise UserError(f"{folder} holds no config.json; give the folder that `save_pretrained` wrote.")
    if not any(place.glob("*.safetensors")) and not (place / BIN).is_file():
        others = first_names(sorted(p.name for p in place.glob("*.bin"))) or "no weights"
        raise UserError(f"{place} holds {others} and no *.safetensors or {BIN}; convert them with `save_pretrained`.")
    return folder


def loaded(folder: Path, reads: Reads | None = None) -> tuple[nn.Module, nn.Module, Tower]:
    """Build the encoder from a folder, without its pooling layer, in single precision.

    Args:
        folder: As `locate_encoder` returns it.
        reads: Which tower of a model of two.

    Returns:
        The network that makes tokens, what a pooled token goes through then, and how it was loaded.

    Raises:
        UserError: If transformers does not know it, its weights are not complete or not finite, or it has a decoder.
    """
    from transformers import AutoConfig, logging

    place = encoder_folder(folder)
    _check_files(place)
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with network(False), torch.random.fork_rng(devices=[]):
            config = AutoConfig.from_pretrained(place, local_files_only=True)
            chosen = tower(folder, config, reads)
            options = {} if chosen.config is None else {"config": chosen.config}
            if any(place.glob("*.safetensors")):
                options["use_safetensors"] = True
            else:
                tensors_in(place / BIN)  # refuses what asks for more than tensors
                options["use_safetensors"] = False
            body, report = chosen.kind.from_pretrained(
                place, local_files_only=True, attn_implementation="eager", output_loading_info=True, **options
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        if "ignore_mismatched_sizes" in reason:
            raise UserError(
                f"Tensors in {folder} are of other shapes than its config.json says; give the two of one model."
            ) from error
        raise UserError(f"Cannot load the encoder in {folder} ({reason}); give one that transformers knows.") from error
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    if lacking := sorted(k for k in report["missing_keys"] if not k.startswith("pooler.")):
        extra = sorted(report["unexpected_keys"])
        also = f", and hold {first_names(extra)} that it has not" if extra else ""
        raise UserError(
            f"The weights in {folder} lack {len(lacking)} tensors: {first_names(lacking)}{also}; give a complete "
            "checkpoint of an encoder."
        )
    if hasattr(body, "pooler"):
        body.pooler = None  # trained for another purpose, and random in many checkpoints
    refuse_unusable(body, str(folder))
    return (*parts(body.float(), folder), chosen)


def _check_files(place: Path) -> None:
    """Refuse files of weights that were not fetched, or hold whole numbers, of which transformers would make floats.

    Raises:
        UserError: If there is one.
    """
    for path in (*sorted(place.glob("*.safetensors")), *place.glob(BIN)):
        if unfit := unfetched(path):
            raise UserError(f"{path} is {unfit}.")
        with suppress(SafetensorError), safe_open(path, "pt") as held:  # others are read later, and refused then
            kinds = {k: held.get_slice(k).get_dtype() for k in held.keys()}  # noqa: SIM118  # it is no dictionary
            weights = {k: torch.int8 for k, d in kinds.items() if k.endswith((".weight", ".bias")) and d[0] in "IU"}
            refuse_whole(weights, path)


def config_number(folder: Path, config: Any, name: str) -> int:
    """Return a size that the config gives, such as ``hidden_size``.

    Raises:
        UserError: If it does not, as where the model is made of several.
    """
    if not isinstance(number := getattr(config, name, None), int):
        raise UserError(
            f"The config of the {config.model_type} in {folder} has no {name}; give an encoder of sentences or of "
            "pictures alone, such as BERT or ViT."
        )
    return number


def padding(config: Any) -> int:
    """Return the id of padding, 0 where none is named: it is masked anyway."""
    return int(getattr(config, "pad_token_id", None) or 0)


def tokenizer(folder: Path, room: int) -> Any:
    """Read the tokenizer that lies beside the weights; without its files transformers would create an empty one.

    Raises:
        UserError: If there is none that can be read, or it has more tokens than ``room``.
    """
    from transformers import AutoTokenizer

    if not any(p for name in _WORDS for p in folder.glob(name)):
        raise UserError(f"{folder} holds no tokenizer; add its tokenizer.json.")
    try:
        with network(False):
            loaded_tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"The tokenizer in {folder} cannot be read ({reason}); add its tokenizer.json.") from error
    if (backend := getattr(loaded_tokenizer, "backend_tokenizer", None)) is None:
        raise UserError(f"The tokenizer in {folder} is a slow one; save it again with its fast version.")
    if (held := backend.get_vocab_size()) > room:
        raise UserError(f"The tokenizer in {folder} has {held} tokens and the encoder {room}; give one that fits.")
    return backend


def most_tokens(folder: Path, config: Any) -> int:
    """Return the most tokens that the encoder takes: as sentence-transformers recorded, or else its positions."""
    room = int(getattr(config, "max_position_embeddings", None) or 512)
    room -= padding(config) + 1 if config.model_type in OFFSET else 0
    return min(int(_most(folder) or room), room)


def _most(folder: Path) -> int | None:
    """Return ``max_seq_length`` of ``sentence_bert_config.json``, or what older folders call it for each family."""
    for path in sorted(folder.glob("sentence_*_config.json")):
        settings = json_or_empty(path)
        if isinstance(settings, dict) and isinstance(most := settings.get("max_seq_length"), int):
            return most
    return None
