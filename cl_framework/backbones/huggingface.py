"""Any transformers encoder, of sentences or of pictures, frozen, with its sites resolved by role."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from cl_framework.backbones.base import Backbone, Site
from cl_framework.backbones.hf_attention import (
    bears_more_tokens,
    by_sample,
    let_tokens_be_added,
    looks_back_only,
    to_add,
)
from cl_framework.backbones.hf_checkpoint import config_number, loaded, locate_encoder, most_tokens, padding, tokenizer
from cl_framework.backbones.hf_modules import encoder_folder, pooling_of, width_after
from cl_framework.backbones.hf_sites import blocks, encoder_sites
from cl_framework.backbones.hf_towers import Reads
from cl_framework.backbones.pixels import Channels, as_folder_says, pixels
from cl_framework.errors import UserError
from cl_framework.functional.picture_check import check_layout, check_pixels

STEP = 8  # lengths of passes in tokens: few enough to fill chunks, close enough to waste little


@final
class HuggingFace(Backbone):
    """A transformers encoder without its head, for text or pictures; choose it for BERT, MiniLM or ViT.

    Encoders are such as BERT, RoBERTa, ModernBERT, DeBERTa-v3, MiniLM or ViT.

    A sentence comes as its UTF-8 bytes and is cut into tokens here: the tokenizer belongs to the weights, so no stream
    can be given the wrong one. Padding is masked, and frozen passes hold sentences of one length, rounded up to a
    multiple of 8 tokens: a feature depends on its own sentence alone, bit for bit. Decoders are refused; of T5 the
    encoder is taken, of CLIP one tower with its projection, of SigLIP the tower of pictures.

    Args:
        name: A folder with ``config.json`` and ``*.safetensors``, or one of sentence-transformers, an installed package
            that carries one, or a name on the Hugging Face hub.
        pooling: Average the tokens (``mean``) or take the first (``cls``); None follows ``1_Pooling/config.json``, as
            sentence-transformers writes it, and else the family: T5 averages, CLIP and SigLIP pool as they were
            trained, others take the first.
        normalize: Scale features to length one.
        max_tokens: Where sentences are cut off, special tokens included; None, or more than it has positions for, is
            what the encoder was made for.
        download: Allow the hub to fetch what is not on this machine.
        tower: Which tower of CLIP; None takes that of pictures.
        mean: Subtracted from each pixel in [0, 1], one number or three; None follows ``preprocessor_config.json``.
        std: Divides each pixel after that, one number or three; None follows ``preprocessor_config.json``.

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
        tower: Reads | None = None,
        mean: Channels | None = None,
        std: Channels | None = None,
    ) -> None:
        """Load the network and its tokenizer, and freeze."""
        super().__init__()
        folder = locate_encoder(name, download)
        self.name = name if not Path(name).is_dir() else Path(name).resolve().name
        self.body, self.finish, loading = loaded(folder, tower)
        self.requires_grad_(False).eval()
        self.pooled = nn.Identity()  # where the token stream can be met between the encoder and the pooling
        self.pooling, self.normalize = pooling or pooling_of(folder) or loading.pooling, normalize
        if loading.pooling == "own" != self.pooling:
            self.finish = nn.Sequential()  # it pools, and something else was asked for
        config: Any = self.body.config
        stream, folder = config_number(folder, config, "hidden_size"), encoder_folder(folder)
        self.width = width_after(self.finish, stream)
        self.reads: Literal["sentences", "pictures"] = "pictures" if _sees(self.body) else "sentences"
        self.smooth = self.reads == "pictures"
        if tower not in (None, self.reads):
            raise UserError(f"{self.name} reads {self.reads}, and tower is {tower}; leave it out.")
        if self.reads == "sentences":
            room = config_number(folder, config, "vocab_size")
            self.tokenizer, most = tokenizer(folder, room), most_tokens(folder, config)
            self.max_tokens = most if max_tokens is None else min(max_tokens, most)
            if self.max_tokens <= (special := int(self.tokenizer.num_special_tokens_to_add(False))):
                raise UserError(
                    f"max_tokens is {self.max_tokens}, and {special} of them are special tokens of {self.name}, which "
                    f"leaves no room for words; give more than {special}, or leave it out."
                )
            self.padding = padding(config)
            self.tokenizer.enable_truncation(self.max_tokens)
            self.tokenizer.no_padding()
            ids = torch.tensor([[i for i in range(room) if i != self.padding][-4:]])
            self.grows = not loading.causal and _grows(folder, self.body, ids)
            sites = encoder_sites(self.body, self.pooled, stream, self.grows)
            self._sites = by_sample(self.body, sites, ids.expand(3, -1))
        else:
            self.pixels = pixels(as_folder_says(folder), mean, std)
            self.inputs = self.pixels.told
            self.grows = let_tokens_be_added(self.body)
            self._sites = encoder_sites(self.body, self.pooled, stream, self.grows)

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``(n, width)`` of sentences ``(n, bytes)`` uint8 or of pictures ``(n, 3, side, side)``.

        Raises:
            UserError: If it is given the other kind.
        """
        self.check(x)
        if self.reads == "pictures":
            tokens = self.pooled(self.body(pixel_values=self.pixels(x)).last_hidden_state)
            return self._finish(tokens, tokens.new_ones(tokens.shape[:2]))
        ids, mask = (t.to(x.device) for t in self._padded(self.tokens(x)))
        output = self.body(input_ids=ids, attention_mask=to_add(mask) if self.grows else mask)
        return self._finish(self.pooled(output.last_hidden_state), mask)

    def check(self, x: Tensor) -> None:
        """Refuse pictures where it reads sentences and the reverse, and pictures of another layout or size."""
        if self.reads == "pictures":
            check_layout(self.name, x, "choose `data.scenario.transform` to fit", _side(self.body))
        elif x.dtype != torch.uint8 or x.dim() != 2:
            raise UserError(
                f"{self.name} reads sentences and was given {str(x.dtype).removeprefix('torch.')} pictures; give "
                "sentences (`--data.scenario.dataset json:FILE`), or set `--model.backbone` to one that reads pictures."
            )

    def check_values(self, x: Tensor) -> None:
        """Refuse pictures that are not in [0, 1]."""
        if self.reads == "pictures":
            check_pixels(self.name, x)

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
        """Compute attention in one kernel or product by product, unless its attention is of another kind."""
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
        if self.pooling == "cls":
            z = tokens[:, 0]
        elif self.pooling == "mean":
            z = mean_of(tokens, mask)
        else:  # the last, where it is not for `finish` to pool
            z = tokens if self.pooling == "own" else tokens[torch.arange(len(mask)), mask.sum(1) - 1]
        z = self.finish(z)
        return nn.functional.normalize(z, dim=-1) if self.normalize else z


def mean_of(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean ``(n, width)`` of the tokens ``(n, tokens, width)`` that ``mask`` ``(n, tokens)`` leaves.

    >>> mean_of(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
    tensor([[2.]])
    """
    weight = mask[..., None].to(tokens.dtype)
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


def _grows(folder: Path, body: nn.Module, ids: Tensor) -> bool:
    """Try an encoder of sentences on a few token ids; return whether its attention accepts added tokens."""
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


def _side(body: nn.Module) -> int | None:
    """Return the size of the pictures it takes; None where it resamples its positions to any size, as DINOv2 does."""
    side = getattr(body.config, "image_size", None)
    fixed = "interpolate_pos_encoding" in signature(body.forward).parameters
    return side if fixed and isinstance(side, int) else None


def _sees(body: nn.Module) -> bool:
    return getattr(body, "main_input_name", "input_ids") == "pixel_values"
