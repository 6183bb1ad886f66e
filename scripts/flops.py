"""How much of a device's arithmetic feature extraction uses: FLOP/s of frozen passes against matrix products."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cl_framework.model import Model
from cl_framework.stream import Inputs


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
    return 2 * n**3 / _seconds(lambda: a @ b, device)


def extraction(model: Model, x: Tensor) -> dict[str, float | str]:
    """Measure frozen passes of pictures ``(n, 3, S, S)`` as the model is set up, with its oldest adapter if it has one.

    Returns:
        FLOP per image (the adapter's few aside), images and FLOP per second, the FLOP/s of matrix products in the same
        precision, and the share of these that was reached.
    """
    x, dtype = x.to(model.device), model.precision or torch.float32
    names, ids = list(model.adapters)[:1], torch.arange(len(x))
    rate = len(x) / _seconds(lambda: model.features(Inputs(lambda: x, ids), names), model.device)
    flops, top = flops_per_image(model, x[:1]), matmul_rate(model.device, dtype)
    return {
        "precision": str(dtype).removeprefix("torch."),
        "flops_per_image": flops,
        "images_per_second": rate,
        "flops_per_second": flops * rate,
        "matmul_flops_per_second": top,
        "share": flops * rate / top,
    }


def _seconds(call: Callable[[], object], device: torch.device, at_least: float = 1.0) -> float:
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
