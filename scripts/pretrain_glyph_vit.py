"""Pre-train glyph_vit on drawings of characters that no stream contains.

    python scripts/pretrain_glyph_vit.py --steps 7000         # an hour or so on two cores, minutes on a GPU
    python scripts/pretrain_glyph_vit.py --resume             # after a kill: continues from the last saved step

Every step draws fresh pictures from a seed made of `--seed` and the step, so a resumed run sees the same pictures.
Writes the weights, the pre-training head, and a JSON record of settings and accuracy into `cl_framework/backbones/`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import time
from pathlib import Path
from typing import cast

import cl_framework.threads  # noqa: F401  # before torch

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cl_framework.backbones.glyph import WIDTH, glyph_vit
from scenarios.data.glyphs import pretraining, turned
from scenarios.drawing.atlas import Atlas
from scenarios.drawing.drawing import PLAIN, Style, draw_characters

ROOT = Path(__file__).parents[1]
OUT = ROOT / "cl_framework" / "backbones"
SAVED = ROOT / ".pretrain"


class Pretraining(nn.Module):
    """The ViT with normalised stem convolutions, and a cosine head over the pre-training classes."""

    def __init__(self, classes: int) -> None:
        """Build both; the normalisation is folded into the convolutions when training is over."""
        super().__init__()
        self.body = glyph_vit()
        stem = self.stem
        for i, m in enumerate(list(stem)):
            if isinstance(m, nn.Conv2d):
                stem[i] = nn.Sequential(m, nn.BatchNorm2d(m.out_channels))
        self.head = nn.Parameter(torch.randn(classes, WIDTH) * 0.02)
        self.scale = nn.Parameter(torch.tensor(16.0).log())

    @property
    def stem(self) -> nn.Sequential:
        """The convolutions before the blocks."""
        return cast("nn.Sequential", self.body.patch_embed.net)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(n, classes)``: scaled cosines."""
        return self.scale.exp() * normalize(self.body(x).float(), dim=-1) @ normalize(self.head, dim=-1).T

    def folded(self) -> dict[str, Tensor]:
        """Return the weights of the plain architecture."""
        plain = glyph_vit()
        state = {k: v for k, v in self.body.state_dict().items() if not k.startswith("patch_embed.net.")}
        for i, m in enumerate(self.stem):
            if isinstance(m, nn.Sequential):
                conv = fuse_conv_bn_eval(cast("nn.Conv2d", m[0]).eval(), cast("nn.BatchNorm2d", m[1]).eval())
                state |= {f"patch_embed.net.{i}.{k}": v for k, v in conv.state_dict().items()}
        plain.load_state_dict(state)
        return {k: v.detach().contiguous() for k, v in plain.state_dict().items()}


def mild(style: Style, share: float) -> Style:
    """Shrink every distortion to ``share`` of its size: a ViT that starts on hard pictures stays at chance."""
    low, high = style.scale
    return dataclasses.replace(
        style,
        rotate=style.rotate * share,
        shear=style.shear * share,
        shift=style.shift * share,
        elastic=style.elastic * share,
        coarse=style.coarse * share,
        scale=(1 - (1 - low) * share, 1 + (high - 1) * share),
    )


def batch(a: Atlas, size: int, seed: int, style: Style) -> tuple[Tensor, Tensor]:
    """Draw one batch: classes uniformly, then a face of each."""
    g = torch.Generator().manual_seed(seed)
    order = torch.argsort(a.character, stable=True)
    counts = torch.bincount(a.character)
    y = torch.randint(0, len(counts), (size,), generator=g)
    first = counts.cumsum(0) - counts
    which = order[first[y] + (torch.rand(size, generator=g) * counts[y]).long()]
    return draw_characters(a, which, style, g).float() / 255, y


def main() -> None:
    """Train, saving every few hundred steps, then fold, measure and write."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=7000)
    p.add_argument("--batch", type=int, default=256)
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--resume", action="store_true", help="continue from the last saved step")
    p.add_argument("--export-only", action="store_true", help="write the weights of the last saved step")
    args = p.parse_args()
    torch.manual_seed(args.seed)
    a = turned(pretraining())
    classes = int(a.character.max()) + 1
    model = Pretraining(classes).to(args.device)
    decay = [q for q in model.parameters() if q.ndim > 1]
    rest = [q for q in model.parameters() if q.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], lr=args.lr
    )
    first = restore(model, optimizer) if args.resume or args.export_only else 0
    warm = min(400, args.steps // 10 + 1)
    began, seconds = time.perf_counter(), 0.0
    with Progress(
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    ) as bar:
        task = bar.add_task("", total=args.steps, completed=first, said="")
        hits, seen = torch.zeros(()), 0
        for step in range(first, 0 if args.export_only else args.steps):
            share = min(1.0, 0.3 + step / (0.25 * args.steps))
            x, y = batch(a, args.batch, args.seed * 10**9 + step, mild(PLAIN, share))
            x, y = x.to(args.device), y.to(args.device)
            rate = min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / args.steps))
            for group in optimizer.param_groups:
                group["lr"] = args.lr * rate
            model.train()
            with torch.autocast(args.device, torch.bfloat16):
                logits = model(x)
            loss = cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            hits, seen = hits + (logits.argmax(1) == y).sum().cpu(), seen + len(y)
            if (step + 1) % 25 == 0:
                bar.update(task, completed=step + 1, said=f"loss {loss.item():.3f}  accuracy {hits / seen:.3f}")
                print(
                    f"{step + 1} loss {loss.item():.4f} accuracy {hits / seen:.4f} {time.perf_counter() - began:.0f}s",
                    flush=True,
                )
                hits, seen = torch.zeros(()), 0
            if (step + 1) % 250 == 0 or step + 1 == args.steps:
                save(model, optimizer, step + 1)
        seconds = time.perf_counter() - began
    export(model, a, vars(args) | {"classes": classes, "minutes": round(seconds / 60, 1)})


def save(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write weights and moments whole or not at all."""
    SAVED.mkdir(exist_ok=True)
    tensors = {f"model.{k}": v.contiguous().cpu() for k, v in model.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v).cpu() for k, v in state.items()}
    save_file(tensors, SAVED / "new.safetensors", {"step": str(step)})
    (SAVED / "new.safetensors").replace(SAVED / "state.safetensors")


def restore(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the last saved step and return its number."""
    from safetensors import safe_open

    tensors = load_file(SAVED / "state.safetensors")
    with safe_open(str(SAVED / "state.safetensors"), "pt") as f:
        step = int(f.metadata()["step"])
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for k, v in tensors.items():
        if k.startswith("optimizer."):
            _, i, name = k.split(".", 2)
            state.setdefault(int(i), {})[name] = v
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step


@torch.no_grad()
def export(model: Pretraining, a: Atlas, record: dict[str, object]) -> None:
    """Fold, measure on fresh drawings, and write weights, head and record."""
    model.eval().cpu()
    hits = [model(x).argmax(1) == y for x, y in (batch(a, 256, 10**12 + i, PLAIN) for i in range(20))]
    record["accuracy"] = round(float(torch.cat(hits).float().mean()), 4)
    weights = {k: v.clone() for k, v in model.folded().items()}
    save_file(weights, OUT / "glyph_vit.safetensors")
    save_file(
        {"weight": normalize(model.head, dim=-1).detach(), "scale": model.scale.exp().detach()},
        OUT / "glyph_vit_head.safetensors",
    )
    for name in ("glyph_vit", "glyph_vit_head"):
        record[name] = hashlib.sha256((OUT / f"{name}.safetensors").read_bytes()).hexdigest()
    (OUT / "glyph_vit.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
