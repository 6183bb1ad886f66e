"""How much of a device's arithmetic feature extraction uses: FLOP/s of frozen passes against matrix products.

    python scripts/flops.py          # ViT-B/16 with random weights: shares of several products, in rounds

Which product matters: large square ones, that of two matrices as wide as the backbone, or that of a chunk's tokens with
the first map of an MLP. Passes and products take turns and are compared in processor seconds of one thread, so that a
machine with other work tells about the same; caches that others fill still cost something.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import cl_framework.threads  # noqa: F401  # before torch

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.backbones.timm import Timm
from cl_framework.models.model import Model
from cl_framework.streams.lazy_inputs import Inputs


@torch.no_grad()
def flops_per_image(model: Model, x: Tensor) -> int:
    """Count the floating-point operations of one image's pass ``(1, 3, S, S)``, two for each multiply-add.

    Matrix products and convolutions are counted, with attention taken apart into its products.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.backbone(x.to(model.device))
    return int(counter.get_total_flops())


def matmul_rate(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """Measure the FLOP/s of products of two square matrices of ``side``: 8192 on a GPU and 2048 elsewhere, if None."""
    n = side or (8192 if device.type == "cuda" else 2048)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / seconds(lambda: a @ b, device)


def extraction(model: Model, x: Tensor) -> dict[str, float | str]:
    """Measure frozen passes of pictures ``(n, 3, S, S)`` as the model is set up, with its oldest adapter if it has one.

    Returns:
        FLOP per image (the adapter's few aside), images and FLOP per second, the FLOP/s of matrix products in the same
        precision, and the share of these that was reached.
    """
    x, dtype = x.to(model.device), model.frozen.precision or torch.float32
    names, ids = list(model.adapters)[:1], torch.arange(len(x))
    rate = len(x) / seconds(lambda: model.features(Inputs(lambda: x, ids), names), model.device)
    flops, top = flops_per_image(model, x[:1]), matmul_rate(model.device, dtype)
    return {
        "precision": str(dtype).removeprefix("torch."),
        "flops_per_image": flops,
        "images_per_second": rate,
        "flops_per_second": flops * rate,
        "matmul_flops_per_second": top,
        "share": flops * rate / top,
    }


@torch.no_grad()
def shares(model: Model, x: Tensor, rounds: int = 3) -> dict[str, list[float]]:
    """Return the share that frozen passes of ``x`` reach of the rate of each product, one number a round.

    Args:
        model: Without adapters.
        x: Pictures ``(n, 3, S, S)``.
        rounds: How often passes and products take turns.
    """
    width, tokens = model.backbone.width, len(x) * ((x.shape[-1] // 16) ** 2 + 1)
    shapes = {
        "2048 x 2048 x 2048": (2048, 2048, 2048),
        f"{width} x {width} x {width}": (width, width, width),
        f"the MLP's {tokens} x {width} x {4 * width}": (tokens, width, 4 * width),
    }
    flops, found = len(x) * flops_per_image(model, x[:1]), dict[str, list[float]]()
    for _ in range(rounds):
        rate = flops / processor_seconds(lambda: model.backbone(x))
        for name, (n, k, m) in shapes.items():
            took = processor_seconds(partial(torch.matmul, torch.randn(n, k), torch.randn(k, m)))
            found.setdefault(name, []).append(rate * took / (2 * n * k * m))
    return found


def main() -> None:
    """Print the shares of each product."""
    torch.set_num_threads(1)
    model = Model(Timm("vit_base_patch16_224", pretrained=False), Bottleneck(1))
    for product, found in shares(model, torch.rand(8, 3, 224, 224)).items():
        print(f"{product}: {', '.join(f'{100 * share:.0f} %' for share in found)}")


def processor_seconds(call: Callable[[], object], at_least: float = 1.0) -> float:
    """Return the processor seconds that one ``call`` takes, as `seconds` does."""
    call()
    began, times = time.process_time(), 0
    while time.process_time() - began < at_least:
        call()
        times += 1
    return (time.process_time() - began) / times


def seconds(call: Callable[[], object], device: torch.device, at_least: float = 1.0) -> float:
    """Return the seconds that one ``call`` takes, over as many as fill ``at_least`` seconds, after a first one."""
    call()
    _wait(device)
    began, times = time.perf_counter(), 0
    while time.perf_counter() - began < at_least:
        call()
        times += 1
        if times % 4 == 0:
            _wait(device)
    _wait(device)
    return (time.perf_counter() - began) / times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
