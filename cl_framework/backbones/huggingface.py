"""Any transformers encoder, of sentences or of pictures, frozen, with its sites resolved by role."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, final

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import Tensor, nn

from cl_framework.backbone import Backbone, Site
from cl_framework.backbones.attending import bears_more_tokens, by_sample, let_tokens_be_added, looks_back_only, to_add
from cl_framework.backbones.encoder import blocks, encoder_sites
from cl_framework.backbones.timm import network
from cl_framework.errors import UserError

STEP = 8  # lengths of passes in tokens: few enough to fill chunks, close enough to waste little
WORDS = ("tokenizer.json", "vocab.*", "*.model")
PARTS = ["*.json", "*.safetensors", "*.txt", "*.model"]


@final
class HuggingFace(Backbone):
    """A transformers encoder such as BERT, RoBERTa, DistilBERT, MiniLM or ViT, without its head.

    A sentence comes as its UTF-8 bytes and is cut into tokens here: the tokenizer belongs to the weights, so no stream
    can be given the wrong one. Padding is masked, and frozen passes hold sentences of one length, rounded up to a
    multiple of 8 tokens: a feature depends on its own sentence alone, bit for bit.

    Args:
        name: A folder with ``config.json`` and ``*.safetensors``, an installed package that carries one, or a name on
            the Hugging Face hub.
        pooling: Average the tokens (``mean``) or take the first (``cls``); None follows ``1_Pooling/config.json``, as
            sentence-transformers writes it, and else takes the first.
        normalize: Scale features to length one.
        max_tokens: Where sentences are cut off, special tokens included; None, or more than it has positions for, is
            what the encoder was made for.
        download: Allow the hub to fetch what is not on this machine.

    Raises:
        UserError: If there is no such encoder here, its weights are not complete or not safetensors, it is of a kind
            that makes no features or a decoder, or ``max_tokens`` leaves no room for words.
    """

    def __init__(
        self,
        name: str,
        pooling: Literal["mean", "cls"] | None = None,
        normalize: bool = False,
        max_tokens: int | None = None,
        download: bool = False,
    ) -> None:
        """Load the network and its tokenizer, and freeze."""
        super().__init__()
        folder = located(name, download)
        self.name = name if not Path(name).is_dir() else Path(name).resolve().name
        self.body = _load(folder)
        self.body.requires_grad_(False).eval()
        self.pooled = nn.Identity()  # where the token stream can be met between the encoder and the pooling
        self.pooling, self.normalize = pooling or _pooling(folder), normalize
        config: Any = self.body.config
        self.width = _number(folder, config, "hidden_size")
        self.reads: Literal["sentences", "pictures"] = "pictures" if _sees(self.body) else "sentences"
        self.smooth = self.reads == "pictures"
        if self.reads == "sentences":
            room = _number(folder, config, "vocab_size")
            self.tokenizer, most = _tokenizer(folder, room), _most_tokens(folder, config)
            self.max_tokens = most if max_tokens is None else min(max_tokens, most)
            if self.max_tokens <= (special := int(self.tokenizer.num_special_tokens_to_add(False))):
                raise UserError(
                    f"max_tokens is {self.max_tokens}, and {special} of them are special tokens of {self.name}, which "
                    f"leaves no room for words; give more than {special}, or leave it out."
                )
            self.padding = _padding(config)
            self.tokenizer.enable_truncation(self.max_tokens)
            self.tokenizer.no_padding()
            ids = torch.tensor([[i for i in range(room) if i != self.padding][-4:]])
            self.grows = _grows(folder, self.body, ids)
            found = encoder_sites(self.body, self.pooled, self.width, self.grows)
            self._sites = by_sample(self.body, found, ids.expand(3, -1))
        else:
            self.grows = let_tokens_be_added(self.body)
            self._sites = encoder_sites(self.body, self.pooled, self.width, self.grows)

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``(n, width)`` of sentences ``(n, bytes)`` uint8 or of pictures ``(n, 3, side, side)``.

        Raises:
            UserError: If it is given the other kind.
        """
        if (x.dtype == torch.uint8 and x.dim() == 2) != (self.reads == "sentences"):
            found = "sentences" if self.reads == "pictures" else f"{str(x.dtype).removeprefix('torch.')} pictures"
            raise UserError(f"{self.name} reads {self.reads} and was given {found}; choose other data or backbone.")
        if self.reads == "pictures":
            tokens = self.pooled(self.body(pixel_values=x).last_hidden_state)
            return self._finish(tokens, tokens.new_ones(tokens.shape[:2]))
        ids, mask = (t.to(x.device) for t in self._padded(self.tokens(x)))
        found = self.body(input_ids=ids, attention_mask=to_add(mask) if self.grows else mask)
        return self._finish(self.pooled(found.last_hidden_state), mask)

    def tokens(self, x: Tensor) -> list[list[int]]:
        """Return the token ids of each of the sentences ``(n, bytes)``."""
        sentences = [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in x.cpu().numpy()]
        return [encoding.ids for encoding in self.tokenizer.encode_batch(sentences)]

    def lengths(self, x: Tensor) -> Tensor:
        """Return how many tokens each sentence takes, rounded up."""
        if self.reads == "pictures":
            return super().lengths(x)
        return torch.tensor([self._rounded(len(ids)) for ids in self.tokens(x)], dtype=torch.int64)

    def sites(self) -> Mapping[str, Site]:
        """Return the sites of every block."""
        return self._sites

    def blocks(self) -> Sequence[nn.Module]:
        """Return its blocks."""
        return list(blocks(self.body).values())

    def attend(self, how: Literal["fused", "plain"]) -> bool:
        """Compute attention in one kernel or product by product, if it is not of a kind of its own."""
        return self.grows and let_tokens_be_added(self.body, how)

    def digest(self) -> str:
        """Return the SHA-256 of all weights by name, and of the tokenizer."""
        words = self.tokenizer.to_str() if self.reads == "sentences" else ""
        return hashlib.sha256((super().digest() + words).encode()).hexdigest()

    def _rounded(self, count: int) -> int:
        return min(-(-count // STEP) * STEP, self.max_tokens)

    def _padded(self, tokens: list[list[int]]) -> tuple[Tensor, Tensor]:
        longest = self._rounded(max((len(ids) for ids in tokens), default=1))
        ids = torch.full((len(tokens), longest), self.padding, dtype=torch.int64)
        mask = torch.zeros(len(tokens), longest, dtype=torch.int64)
        for i, row in enumerate(tokens):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[i, : len(row)] = 1
        return ids, mask

    def _finish(self, tokens: Tensor, mask: Tensor) -> Tensor:
        z = tokens[:, 0] if self.pooling == "cls" else mean_of(tokens, mask)
        return nn.functional.normalize(z, dim=-1) if self.normalize else z


def mean_of(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean ``(n, width)`` of the tokens ``(n, tokens, width)`` that ``mask`` ``(n, tokens)`` leaves.

    >>> mean_of(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
    tensor([[2.]])
    """
    weight = mask[..., None].to(tokens.dtype)
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


def located(name: str, download: bool = False) -> Path:
    """Return the folder of an encoder: the folder itself, the one that a package carries, or the hub's.

    Raises:
        UserError: If there is none, or it holds no safetensors.
    """
    if (folder := Path(name).expanduser()).is_dir():
        return _checked(folder)
    package = name.replace("-", "_")
    if package.isidentifier() and (spec := find_spec(package)) is not None:
        places = [Path(p) for p in spec.submodule_search_locations or ()]
        held = sorted({c.parent for p in places for c in p.rglob("config.json") if any(c.parent.glob("*.safetensors"))})
        if len(held) == 1:
            return held[0]
    try:
        with network(download):
            found = snapshot_download(
                name, local_files_only=not download, allow_patterns=PARTS, ignore_patterns=["onnx/*", "openvino/*"]
            )
    except (OSError, ValueError) as error:  # the hub's own errors are of these kinds
        raise UserError(
            f"Cannot find the encoder {name!r}: it is no folder, no installed package that carries weights, and not in "
            f"the hub's cache on this machine ({type(error).__name__}); give a folder, or set `download: true`."
        ) from error
    return _checked(Path(found))


def _checked(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no config.json; give the folder that `save_pretrained` wrote.")
    if not any(folder.glob("*.safetensors")):
        others = ", ".join(sorted(p.name for p in folder.glob("*.bin"))) or "no weights"
        raise UserError(
            f"{folder} holds {others} and no *.safetensors; pickled weights can run code and are not read: convert "
            "them with `save_pretrained`."
        )
    return folder


def _load(folder: Path) -> nn.Module:
    """Build the encoder from a folder, without its pooling layer, in single precision."""
    from transformers import AutoConfig, AutoModel, logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with network(False), torch.random.fork_rng(devices=[]):
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            if getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", False):
                raise UserError(f"{folder} holds a {config.model_type}, which has a decoder; give an encoder.")
            body, told = AutoModel.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                attn_implementation="eager",
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"Cannot load the encoder in {folder} ({reason}); give one that transformers knows.") from error
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    if lacking := sorted(k for k in told["missing_keys"] if not k.startswith("pooler.")):
        raise UserError(f"The weights in {folder} lack {lacking[0]}; give a complete checkpoint of an encoder.")
    if hasattr(body, "pooler"):
        body.pooler = None  # trained for another purpose, and random in many checkpoints
    whole: nn.Module = body.float()
    return whole


def _grows(folder: Path, body: nn.Module, ids: Tensor) -> bool:
    """Try an encoder of sentences on a few token ids; return whether its attention bears that tokens are added."""
    kind = getattr(body.config, "model_type", "model")
    try:
        causal = looks_back_only(body, ids)
    except (AttributeError, AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder} holds a {kind}, which makes no features of token ids alone ({type(error).__name__}); give an "
            "encoder of sentences such as BERT."
        ) from error
    if causal:
        raise UserError(
            f"{folder} holds a {kind}, a decoder whose tokens see only those before them, so that a sentence has no "
            "feature at its first token; give an encoder such as BERT."
        )
    return bears_more_tokens(body, ids)


def _number(folder: Path, config: Any, name: str) -> int:
    if not isinstance(found := getattr(config, name, None), int):
        raise UserError(
            f"The config of the {config.model_type} in {folder} has no {name}; give an encoder of sentences or of "
            "pictures alone, such as BERT or ViT."
        )
    return found


def _padding(config: Any) -> int:
    return int(getattr(config, "pad_token_id", None) or 0)


def _sees(body: nn.Module) -> bool:
    return getattr(body, "main_input_name", "input_ids") == "pixel_values"


def _tokenizer(folder: Path, room: int) -> Any:
    """Read the tokenizer that lies beside the weights; without its files transformers would make up an empty one."""
    from transformers import AutoTokenizer

    if not any(p for name in WORDS for p in folder.glob(name)):
        raise UserError(f"{folder} holds no tokenizer; add its tokenizer.json.")
    try:
        with network(False):
            found = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"The tokenizer in {folder} cannot be read ({reason}); add its tokenizer.json.") from error
    if (backend := getattr(found, "backend_tokenizer", None)) is None:
        raise UserError(f"The tokenizer in {folder} is a slow one; save it again with its fast version.")
    if (held := backend.get_vocab_size()) > room:
        raise UserError(f"The tokenizer in {folder} has {held} tokens and the encoder {room}; give one that fits.")
    return backend


def _most_tokens(folder: Path, config: Any) -> int:
    """Return how many tokens the encoder was made for: what sentence-transformers recorded, or else has positions."""
    room = int(getattr(config, "max_position_embeddings", None) or 512)
    room -= _padding(config) + 1 if config.model_type in OFFSET else 0
    return min(int(_json(folder / "sentence_bert_config.json").get("max_seq_length") or room), room)


OFFSET = ("roberta", "xlm-roberta", "camembert", "mpnet")  # positions count from after the padding's id


def _pooling(folder: Path) -> Literal["mean", "cls"]:
    said = _json(folder / "1_Pooling" / "config.json")
    modes = [said.get("pooling_mode"), *(k.removeprefix("pooling_mode_") for k, v in said.items() if v is True)]
    chosen = [m for m in modes if m in ("mean", "cls", "mean_tokens", "cls_token")]
    if said and len(chosen) != 1:
        raise UserError(f"{folder} pools in a way that is not known here; set `pooling` to mean or cls.")
    return "mean" if chosen and chosen[0].startswith("mean") else "cls"


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); mend or remove it.") from error
    return found if isinstance(found, dict) else {}
