"""Checkpoints as people have them: any prefix, any head, another image size; what does not fit is named."""

import argparse
import json
import zipfile

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from cl_framework.backbones.timm import Timm
from cl_framework.errors import UserError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def body():
    """A tiny ViT with random weights and a head of five classes."""
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=5, img_size=32).eval()


@pytest.fixture(scope="module")
def features(body):
    with torch.no_grad():
        return body.forward_head(body.forward_features(X), pre_logits=True)


def loaded(path, content, **options):
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return Timm("test_vit", weights=str(path), image_size=32, **{"mean": 0, "std": 1, **options})


def under(prefix, state):
    return {prefix + k: v for k, v in state.items()}


WRAPS = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"state_dict": under("module.", s), "epoch": 3, "args": argparse.Namespace(lr=0.1)},
    "model": lambda s: {"model": under("model.", s), "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
    "lightning": lambda s: {"state_dict": under("model.backbone.", s), "pytorch-lightning_version": "2.0.0"},
    "dino": lambda s: {
        "student": under("module.backbone.", {k: v + 1 for k, v in s.items()}),
        "teacher": under("backbone.", s),
    },
    "compiled": lambda s: under("_orig_mod.module.encoder.", s),
    "ema": lambda s: {"state_dict": {k: v + 1 for k, v in s.items()}, "state_dict_ema": s},
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_prefixes_and_nesting_come_off(wrap, body, features, tmp_path):
    backbone = loaded(tmp_path / "mine.pth", WRAPS[wrap](body.state_dict()))
    assert torch.equal(backbone(X), features)
    assert backbone.name == "test_vit@mine.pth"


def test_safetensors_are_read_and_what_was_left_out_is_said(body, features, tmp_path):
    backbone = loaded(tmp_path / "mine.safetensors", {**under("module.", body.state_dict()), "queue": torch.zeros(3)})
    assert torch.equal(backbone(X), features)
    (note,) = backbone.notes
    assert "under `module.`" in note
    assert "left out: queue (1 tensor)" in note
    assert "its head of 5 classes is left out, and kept for the scenario `Pretrained`" in note


@pytest.mark.parametrize("prefix", ["", "module.", "model.backbone."])
def test_the_head_is_kept_as_the_classifier_that_pretrained_begins_with(prefix, body, features, tmp_path):
    state = under(prefix, body.state_dict())
    if prefix == "model.backbone.":  # a head beside the backbone, as training code often has it
        state = {k: v for k, v in state.items() if ".head." not in k}
        state |= {"model.fc.weight": body.head.weight.data, "model.fc.bias": body.head.bias.data}
    head = loaded(tmp_path / "mine.pth", {"state_dict": state}).classifier()
    with torch.no_grad():
        torch.testing.assert_close(features @ head["weight"].T + head["bias"], body(X))


def test_positions_are_resampled_as_timm_does(tmp_path):
    torch.manual_seed(0)
    larger = timm.create_model("test_vit", num_classes=0, img_size=64).eval()
    backbone = loaded(tmp_path / "mine.pth", larger.state_dict())
    same = timm.create_model("test_vit", num_classes=0, img_size=64).eval()
    same.load_state_dict(larger.state_dict())
    same.set_input_size((32, 32))
    with torch.no_grad():
        torch.testing.assert_close(backbone(X), same(X))
    assert "pos_embed resampled from 1 x 17 x 64 to 1 x 5 x 64" in backbone.notes[0]


@pytest.fixture
def jax(body, tmp_path):
    """Write the weights of the tiny ViT as Google names and lays out theirs, in an .npz file."""
    state, out, heads, width = body.state_dict(), {}, body.blocks[0].attn.num_heads, 64
    out["embedding/kernel"] = state["patch_embed.proj.weight"].permute(2, 3, 1, 0)
    out["embedding/bias"] = state["patch_embed.proj.bias"]
    out["cls"], out["Transformer/posembed_input/pos_embedding"] = state["cls_token"], state["pos_embed"]
    for ours, theirs in (("norm", "Transformer/encoder_norm"), ("head", "head")):
        kind = "scale" if ours == "norm" else "kernel"
        out[f"{theirs}/{kind}"] = state[f"{ours}.weight"] if ours == "norm" else state[f"{ours}.weight"].T
        out[f"{theirs}/bias"] = state[f"{ours}.bias"]
    for i in range(len(body.blocks)):
        at, of = f"Transformer/encoderblock_{i}/", f"blocks.{i}."
        for n, name in ((1, "LayerNorm_0"), (2, "LayerNorm_2")):
            out[f"{at}{name}/scale"], out[f"{at}{name}/bias"] = state[f"{of}norm{n}.weight"], state[f"{of}norm{n}.bias"]
        maps = zip(state[f"{of}attn.qkv.weight"].chunk(3), state[f"{of}attn.qkv.bias"].chunk(3), strict=True)
        for name, (w, b) in zip(("query", "key", "value"), maps, strict=True):
            out[f"{at}MultiHeadDotProductAttention_1/{name}/kernel"] = w.T.reshape(width, heads, -1)
            out[f"{at}MultiHeadDotProductAttention_1/{name}/bias"] = b.reshape(heads, -1)
        project = state[f"{of}attn.proj.weight"].T.reshape(heads, -1, width)
        out[f"{at}MultiHeadDotProductAttention_1/out/kernel"] = project
        out[f"{at}MultiHeadDotProductAttention_1/out/bias"] = state[f"{of}attn.proj.bias"]
        for r in (0, 1):
            out[f"{at}MlpBlock_3/Dense_{r}/kernel"] = state[f"{of}mlp.fc{r + 1}.weight"].T
            out[f"{at}MlpBlock_3/Dense_{r}/bias"] = state[f"{of}mlp.fc{r + 1}.bias"]
    held = {k: v.numpy() for k, v in out.items()}
    np.savez(tmp_path / "google.npz", **held)
    return tmp_path / "google.npz", held


def test_npz_as_google_released_vits(jax, body, features):
    backbone = Timm("test_vit", weights=str(jax[0]), image_size=32, mean=0, std=1)
    assert torch.equal(backbone(X), features)
    assert torch.equal(backbone.classifier()["weight"], body.head.weight.data)


def test_an_npz_of_another_depth_is_refused_and_none_is_read_into_a_family_without_a_reader(jax):
    path, held = jax
    extra = {k.replace("encoderblock_0", "encoderblock_9"): v for k, v in held.items()}
    np.savez(path, **held, **{k: v for k, v in extra.items() if k not in held})
    with pytest.raises(UserError, match=r"google\.npz does not hold a test_vit \(\d+ blocks in place of \d+\)"):
        Timm("test_vit", weights=str(path), image_size=32)
    with pytest.raises(UserError, match=r"timm reads no \.npz into resnet18; give its weights as \.safetensors"):
        Timm("resnet18", weights=str(path), image_size=32)


def test_missing_and_unexpected_tensors_are_listed_and_counted(body, tmp_path):
    state = {k.replace("fc1", "w1"): v for k, v in body.state_dict().items()}
    count = sum("fc1" in k for k in body.state_dict())
    with pytest.raises(
        UserError,
        match=rf"lacks {count} of the \d+ tensors of test_vit: blocks\.0\.mlp\.fc1\.weight, .* and {count - 3} more, "
        r"and holds blocks\.0\.mlp\.w1\.weight.*; name the architecture",
    ):
        loaded(tmp_path / "mine.pth", state)


def test_weights_of_another_architecture_are_refused_by_shape_or_by_name(body, tmp_path):
    wide = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, depth=2).state_dict()
    with pytest.raises(UserError, match=r"cls_token is 1 x 1 x 192 in .*mine\.pth and 1 x 1 x 64 in test_vit, and \d+"):
        loaded(tmp_path / "mine.pth", wide)
    with pytest.raises(
        UserError, match=r"None of the 122 tensors of .*mine\.pth \(conv1\.weight, .* belongs to test_vi"
    ):
        loaded(tmp_path / "mine.pth", timm.create_model("resnet18").state_dict())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of TorchScript
def test_a_pickled_model_is_refused_by_name_and_told_what_to_save(body, tmp_path):
    torch.save(body, tmp_path / "mine.pth")
    with pytest.raises(
        UserError,
        match=r"is a pickled model or holds pickled objects \(timm\..* more\).*torch\.save\(model\.state_dict\(\)",
    ):
        Timm("test_vit", weights=str(tmp_path / "mine.pth"), image_size=32)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    with pytest.raises(UserError, match="is a TorchScript program; save its weights alone"):
        Timm("test_vit", weights=str(tmp_path / "script.pt"), image_size=32)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_at_load_by_tensor(value, body, tmp_path):
    state = {k: v.clone() for k, v in body.state_dict().items()}
    state["blocks.1.mlp.fc1.bias"][:2] = value
    with pytest.raises(
        UserError, match=r"test_vit@mine\.pth: 2 of the \d+ values of blocks\.1\.mlp\.fc1\.bias are NaN"
    ):
        loaded(tmp_path / "mine.pth", state)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mine.pth", None, r"There is no weight file .*mine\.pth; give the path of a checkpoint"),
        ("mine.pth", b"not a checkpoint", r"mine\.pth cannot be read as \.pth \(.*\); copy it again"),
        ("mine.safetensors", b"no", r"mine\.safetensors cannot be read as \.safetensors"),
        ("mine.npz", b"no", r"mine\.npz cannot be read as \.npz"),
        ("mine.pth", b"", r"mine\.pth is empty; copy it again"),
        ("mine.pth", POINTER, r"mine\.pth is a pointer of Git LFS in place of the file: fetch it with `git lfs pull`"),
        ("mine.h5", b"no", r"mine\.h5 ends in \.h5; a weight file is \.safetensors"),
    ],
)
def test_a_bad_weight_file_is_named(name, content, message, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Timm("test_vit", weights=str(path), image_size=32)


def test_a_truncated_file_and_one_without_tensors_are_told_apart(body, tmp_path):
    torch.save(body.state_dict(), tmp_path / "mine.pth")
    content = (tmp_path / "mine.pth").read_bytes()
    (tmp_path / "mine.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cannot be read as \.pth"):
        Timm("test_vit", weights=str(tmp_path / "mine.pth"), image_size=32)
    with zipfile.ZipFile(tmp_path / "mine.npz", "w"):
        pass
    for content in ({"epoch": 3}, [1, 2]):
        with pytest.raises(UserError, match="holds no tensor"):
            loaded(tmp_path / "empty.pth", content)


def test_a_folder_in_place_of_a_file_is_told_with_the_files_in_it(body, tmp_path):
    with pytest.raises(UserError, match=r"is a folder; give a file \(\.safetensors"):
        Timm("test_vit", weights=str(tmp_path), image_size=32)
    save_file(body.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"is a folder; give the file in it: .*model\.safetensors\."):
        Timm("test_vit", weights=str(tmp_path), image_size=32)


def test_an_npz_with_the_names_of_the_network_is_read_as_any_file(body, features, tmp_path):
    np.savez(tmp_path / "mine.npz", **{f"model.{k}": v.numpy() for k, v in body.state_dict().items()})
    backbone = Timm("test_vit", weights=str(tmp_path / "mine.npz"), image_size=32, mean=0, std=1)
    assert torch.equal(backbone(X), features)


def test_whole_numbers_are_no_weights(body, tmp_path):
    state = {k: (127 * v).to(torch.int8) if "fc1.weight" in k else v for k, v in body.state_dict().items()}
    with pytest.raises(UserError, match=r"holds whole numbers \(int8\) as blocks\.0\.mlp\.fc1\.weight, .* quantised"):
        loaded(tmp_path / "mine.pth", state)


def test_a_mean_that_is_none_of_pixels_between_0_and_1_is_refused(body, tmp_path):
    with pytest.raises(UserError, match=r"mean is 123\.7, and pixels are from 0 to 1; divide `mean` and `std` by 255"):
        loaded(tmp_path / "mine.pth", body.state_dict(), mean=123.7, std=58.4)


def test_the_normalisation_beside_a_file_is_followed_else_that_of_the_architecture(body, tmp_path):
    backbone = loaded(tmp_path / "mine.pth", body.state_dict(), mean=None, std=None)
    assert (
        "mean 0.5, std 0.5; as timm records for test_vit; set `mean` and `std` if mine.pth differs" in backbone.inputs
    )
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.4] * 3, "std": [0.2] * 3}}))
    backbone = loaded(tmp_path / "mine.pth", body.state_dict(), mean=None, std=None)
    assert backbone.inputs == "pixels: mean 0.4, std 0.2; as the config.json beside mine.pth says"
