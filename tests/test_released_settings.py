"""Published settings are those of the releases, value by value: other tests compare configs with themselves."""

from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[1] / "configs" / "experiment"

# optimizer, epochs, learning rate, batch, weight decay, width of adapters, alpha, average and final accuracy.
# The release has no setting for 5 classes of ImageNet-R at a time: that row repeats the one of 20.
EASE = {
    "ease_cifar100_inc5": ("SGD", 20, 0.025, 48, 5e-4, 64, 0.1, 91.51, 85.80),
    "ease_cifar100_inc5_in1k": ("SGD", 20, 0.025, 48, 5e-4, 64, 0.1, 90.62, 84.21),
    "ease_cub200_inc10": ("SGD", 20, 0.008, 32, 5e-4, 64, 0.05, 92.23, 86.81),
    "ease_cub200_inc10_in1k": ("SGD", 20, 0.005, 16, 5e-4, 64, 0.005, 91.13, 85.67),
    "ease_imagenet_a_inc20": ("SGD", 20, 0.05, 32, 5e-3, 64, 0.1, 65.34, 55.04),
    "ease_imagenet_a_inc20_in1k": ("SGD", 20, 0.05, 32, 5e-3, 64, 0.1, 68.89, 58.53),
    "ease_imagenet_r_inc5": ("SGD", 20, 0.05, 16, 5e-3, 64, 0.1, 78.31, 70.58),
    "ease_imagenet_r_inc20": ("SGD", 20, 0.05, 16, 5e-3, 64, 0.1, 81.74, 76.17),
    "ease_imagenet_r_inc20_in1k": ("SGD", 20, 0.05, 16, 5e-3, 64, 0.1, 82.60, 77.33),
    "ease_objectnet_inc10": ("SGD", 25, 0.05, 48, 5e-3, 64, 0.2, 70.84, 57.86),
    "ease_objectnet_inc10_in1k": ("Adam", 20, 0.03, 48, 5e-3, 64, 0.1, 69.15, 55.85),
    "ease_omnibenchmark_inc30": ("SGD", 20, 0.01, 16, 5e-4, 64, None, 81.11, 74.85),
    "ease_omnibenchmark_inc30_in1k": ("SGD", 20, 0.01, 16, 5e-4, 64, None, 80.52, 73.97),
    "ease_vtab_inc10": ("SGD", 45, 0.03, 16, 5e-3, 16, 0.1, 93.61, 93.55),
    "ease_vtab_inc10_in1k": ("SGD", 45, 0.03, 16, 5e-3, 16, 0.1, 93.35, 93.36),
}

# The same with diagonal in the place of alpha. The release has 20 classes of ObjectNet at a time, the paper's table 10.
MOS = {
    "mos_cifar100_inc5": ("SGD", 20, 0.03, 48, 5e-4, 16, False, 93.30, 89.25),
    "mos_cifar100_inc5_in1k": ("SGD", 20, 0.03, 48, 5e-4, 16, False, 93.10, 89.12),
    "mos_cub200_inc10": ("SGD", 10, 0.01, 32, 5e-4, 16, False, 93.49, 90.12),
    "mos_cub200_inc10_in1k": ("SGD", 10, 0.01, 32, 5e-4, 16, False, 92.88, 89.31),
    "mos_imagenet_a_inc20": ("SGD", 10, 0.05, 32, 5e-3, 16, True, 67.08, 56.22),
    "mos_imagenet_a_inc20_in1k": ("SGD", 10, 0.05, 32, 5e-3, 16, True, 69.39, 60.04),
    "mos_imagenet_r_inc20": ("SGD", 10, 0.05, 16, 5e-3, 16, False, 82.75, 77.83),
    "mos_imagenet_r_inc20_in1k": ("SGD", 10, 0.05, 16, 5e-3, 16, False, 83.20, 78.50),
    "mos_objectnet_inc10": ("SGD", 10, 0.05, 48, 5e-3, 16, False, 74.69, 63.62),
    "mos_objectnet_inc20": ("SGD", 10, 0.05, 48, 5e-3, 16, False, 75.21, 64.92),
    "mos_objectnet_inc20_in1k": ("SGD", 10, 0.05, 48, 5e-3, 16, False, 75.02, 65.15),
    "mos_omnibenchmark_inc30": ("SGD", 10, 0.01, 16, 5e-4, 16, False, 85.91, 80.05),
    "mos_omnibenchmark_inc20_in1k": ("SGD", 10, 0.01, 16, 5e-4, 16, False, 85.71, 79.10),
    "mos_vtab_inc10": ("SGD", 20, 0.03, 32, 5e-3, 16, False, 92.62, 92.79),
    "mos_vtab_inc10_in1k": ("SGD", 20, 0.03, 32, 5e-3, 16, False, 92.50, 93.31),
}

# Epochs, learning rate, batch and weight decay of APER's logs: what most have, and what others have.
DATA = (
    "cifar100_inc5", "cub200_inc10", "imagenet_a_inc10", "imagenet_r_inc5", "objectnet_inc10", "omnibenchmark_inc30",
    "vtab_inc10",
)  # fmt: skip
USUAL = (20, 0.01, 48, 5e-4)
OTHER = {
    "aper_imagenet_r_inc5": (20, 0.05, 24, 5e-3),
    "aper_finetune_cifar100_inc5": (20, 0.01, 48, 0.05),
    **{f"aper_finetune_{data}": (5, 0.01, 128, 5e-4) for data in DATA[1:6]},
    "aper_finetune_vtab_inc10": (5, 0.01, 48, 0.05),
    **{f"aper_vpt_deep_{data}": (5, 0.05, 16, 5e-4) for data in (*DATA[:4], DATA[6])},
}
APER = {
    "aper": "90.61/85.14 92.21/86.73 60.59/48.85 71.90/63.73 67.18/55.25 80.77/74.29 85.98/84.35",
    "aper_ssf": "87.85/82.01 91.73/86.26 62.98/51.74 68.88/60.45 68.91/56.25 80.52/74.02 86.38/82.34",
    "aper_finetune": "87.56/81.27 91.79/86.43 61.06/49.11 70.95/62.77 61.60/48.61 71.54/63.96 87.24/84.14",
    "aper_vpt_deep": "88.91/82.65 91.23/85.96 60.85/48.85 68.68/60.22 68.15/55.28 81.13/74.29 89.13/85.87",
    "aper_vpt_shallow": "88.23/81.80 92.09/86.73 58.25/47.07 64.72/56.70 64.63/52.75 79.31/73.30 85.20/82.78",
}


def said(name):
    """The config, and the parts that all have: training as (optimizer, epochs, rate, batch, decay), and the figures."""
    it = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    optimizer = it["model"]["optimizer"]
    kind, args = optimizer["class_path"].removeprefix("torch.optim."), optimizer["init_args"]
    assert args.get("momentum", 0.9) == 0.9
    training = (kind, it["trainer"]["max_epochs"], args["lr"], it["data"]["batch_size"], args["weight_decay"])
    return it, training, (it["published"]["average_incremental_accuracy"], it["published"]["final_accuracy"])


@pytest.mark.parametrize("name", [*EASE, *MOS])
def test_ease_and_mos(name):
    *training, width, own, average, final = (EASE | MOS)[name]
    it, trained, figures = said(name)
    assert trained == tuple(training)
    assert figures == (average, final)
    model, stream = it["model"], it["data"]["scenario"]["init_args"]
    assert model["adapter"]["init_args"] == {"width": width, "scale": 0.1, "dropout": 0.1}
    assert model["schedule"] == "cosine"
    tag = ".augreg_in21k_ft_in1k" if name.endswith("in1k") else ".augreg_in21k"
    assert model["backbone"]["init_args"]["name"] == f"vit_base_patch16_224{tag}"
    assert f"_inc{stream['increment']}" in name
    assert stream["order_seed"] == (None if "vtab" in name else 1993)
    if own is None:  # what the release calls EASE there
        assert model["strategy"] == "APER"
        return
    strategy = model["strategy"]["init_args"]
    if name in EASE:
        plain = {"use_init_ptm": True, "beta": 1.0} if name == "ease_cub200_inc10_in1k" else {}
        assert strategy == {"alpha": own, "complement": "all_later_as_released", **plain}
    else:
        assert (strategy["merge"], strategy["contrast"]) == ("reference_inplace", 0.1)
        assert strategy.get("diagonal", False) is own
        assert strategy["draws"] == 5 * training[3]


@pytest.mark.parametrize("variant", APER)
def test_aper(variant):
    for data, both in zip(DATA, APER[variant].split(), strict=True):
        name = f"{variant}_{data}"
        it, training, figures = said(name)
        assert training == ("SGD", *OTHER.get(name, USUAL))
        assert figures == tuple(map(float, both.split("/")))
        assert it["model"]["strategy"] == "APER"
        if "vpt" in variant:
            expected = {"deep": "deep" in variant, "tokens": 5, "start": "zero_as_released"}
            assert it["model"]["adapter"]["init_args"] == expected


def test_inflora():
    for name, epochs, threshold, *figures in (
        ("inflora_cifar100_inc10", 20, 0.95, 92.07, 86.95),
        ("inflora_imagenet_r_inc20", 50, 0.98, 82.35, 75.97),
    ):
        it, training, found = said(name)
        assert training == ("Adam", epochs, 5e-4, 128, 0.0)
        assert it["model"]["schedule"] == "quarter_cosine"
        assert it["model"]["adapter"]["init_args"] == {"rank": 10, "roles": ["key", "value"]}
        expected = {"threshold": threshold, "threshold_end": 1.0, "horizon": 10}
        assert it["model"]["strategy"]["init_args"] == expected
        assert found == tuple(figures)
        transform = it["data"]["scenario"]["init_args"]["transform"]
        assert transform["class_path"] == "Pilot"
        cifar = {"margin": False} if "cifar" in name else {"reduce": False}  # CIFAR's pictures are small already
        assert transform["init_args"] == {**cifar, "least": 0.08, "tests": "bilinear"}
        assert it["published"]["tolerance"] == 1.0


RANPAC = {"cifar100_inc10": 92.2, "cub200_inc20": 90.3, "imagenet_a_inc20": 62.4, "imagenet_r_inc20": 77.9,
          "omnibenchmark_inc30": 79.9, "vtab_inc10": 92.2}  # fmt: skip


def test_ranpac():
    assert {p.stem for p in FOLDER.glob("ranpac_*.yaml")} == {f"ranpac_{data}" for data in RANPAC}
    for data, final in RANPAC.items():
        it = yaml.safe_load((FOLDER / f"ranpac_{data}.yaml").read_text())
        assert it["model"]["strategy"]["init_args"] == {"expansion": 10000, "ridge": "published"}
        assert it["published"]["final_accuracy"] == final


def test_l2p():
    """Test batches as large as those of training, in the order of classes; prompts start at the class token's place."""
    for path in FOLDER.glob("l2p_*.yaml"):
        it = yaml.safe_load(path.read_text())
        batch, pool = it["data"]["batch_size"], it["model"]["adapter"]["init_args"]
        assert batch == (16 if "cifar" in path.stem else 32)
        expected = {"choice": "batch_by_class_as_released", "start": "class_position_as_released"}
        assert pool == {**expected, **({} if batch == 16 else {"votes": 32})}


def test_no_setting_of_theirs_is_left_out():
    names = {*EASE, *MOS, *(f"{v}_{d}" for v in APER for d in DATA)}
    assert names == {p.stem for p in FOLDER.glob("*.yaml") if p.stem.split("_")[0] in {"ease", "mos", "aper"}}
