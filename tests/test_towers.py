"""Folders of transformers with more or less than an encoder: CLIP, SigLIP, T5, old sentence-transformers, damaged ones.

All are tiny and their weights random: each is built from a transformers config and saved by the test itself.
"""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from cl_framework.adapters.bank import AdapterBank
from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.adapters.lora import LoRA
from cl_framework.backbones.huggingface import HuggingFace
from cl_framework.errors import UserError
from tests.test_text import SENTENCES, saved, tokenizer, x_of

transformers = pytest.importorskip("transformers")
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
VISION = {**SIZE, "image_size": 16, "patch_size": 8}
X = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "clip"
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={**SIZE, **ends, "vocab_size": 64, "max_position_embeddings": 40},
        vision_config=VISION,
        projection_dim=12,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2] * 3})
    )
    return folder, transformers.CLIPModel.from_pretrained(folder).eval()


def test_the_picture_tower_of_a_whole_clip_folder_ends_in_its_projection(clip):
    folder, whole = clip
    backbone = HuggingFace(str(folder))
    assert (backbone.reads, backbone.width) == ("pictures", 12)
    assert backbone.inputs == "pixels: mean (0.4, 0.5, 0.6), std 0.2; as preprocessor_config.json says"
    pixels = (X - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / 0.2
    with torch.no_grad():
        theirs = whole.visual_projection(whole.vision_model(pixel_values=pixels).pooler_output)
        torch.testing.assert_close(backbone(X), theirs)
    plain = HuggingFace(str(folder), mean=0, std=1)
    with torch.no_grad():
        assert torch.equal(plain(pixels), backbone(X))
    assert plain.digest() != backbone.digest()


def test_its_text_tower_ends_at_the_last_token(clip):
    folder, whole = clip
    backbone = HuggingFace(str(folder), tower="sentences")
    ids = [backbone.tokens(x_of([s]))[0] for s in SENTENCES]
    with torch.no_grad():
        z = backbone(x_of(SENTENCES))
        for row, one in zip(z, ids, strict=True):
            tokens = whole.text_model(input_ids=torch.tensor([one])).last_hidden_state
            torch.testing.assert_close(row, whole.text_projection(tokens[0, -1]), atol=1e-5, rtol=1e-4)
    assert backbone.width == 12


@pytest.mark.parametrize("tower", ["pictures", "sentences"])
def test_adapters_find_their_places_in_either_tower(tower, clip):
    backbone, x = HuggingFace(str(clip[0]), tower=tower), X if tower == "pictures" else x_of(SENTENCES)
    plain = backbone(x)
    for adapter in (Bottleneck(4), LoRA(2)):
        bank = AdapterBank(backbone, adapter)
        for p in bank.add("a"):
            torch.nn.init.normal_(p)
        with bank.using("a"):
            assert not torch.allclose(backbone(x), plain, atol=1e-3)


def test_siglip_pools_its_pictures_as_it_was_trained_and_its_sentences_are_refused(tmp_path):
    torch.manual_seed(0)
    config = transformers.SiglipConfig(text_config={**SIZE, "vocab_size": 64}, vision_config=VISION)
    transformers.SiglipModel(config).save_pretrained(tmp_path)
    whole = transformers.SiglipModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        theirs = whole.vision_model(pixel_values=X)
        torch.testing.assert_close(HuggingFace(str(tmp_path))(X), theirs.pooler_output)
        mean = HuggingFace(str(tmp_path), pooling="mean")(X)
        torch.testing.assert_close(mean, theirs.last_hidden_state.mean(1))
    with pytest.raises(UserError, match="siglip, whose sentences are scored by their padding; take its pictures"):
        HuggingFace(str(tmp_path), tower="sentences")


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_the_encoder_of_t5_is_taken_from_a_whole_folder_or_an_encoders(gated, whole, tmp_path):
    torch.manual_seed(0)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 64}
    config = transformers.T5Config(**shape, feed_forward_proj="gated-gelu" if gated else "relu", pad_token_id=0)
    (transformers.T5Model if whole else transformers.T5EncoderModel)(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    backbone = HuggingFace(str(tmp_path))
    body = transformers.T5EncoderModel.from_pretrained(tmp_path).eval()
    plain = backbone(x_of(SENTENCES))
    with torch.no_grad():
        for row, s in zip(plain, SENTENCES, strict=True):
            ids = torch.tensor(backbone.tokens(x_of([s])))
            torch.testing.assert_close(row, body(input_ids=ids).last_hidden_state[0].mean(0), atol=1e-5, rtol=1e-4)
    for adapter in (Bottleneck(4), LoRA(2)):
        bank = AdapterBank(backbone, adapter)
        for p in bank.add("a"):
            torch.nn.init.normal_(p)
        with bank.using("a"):
            assert not torch.allclose(backbone(x_of(SENTENCES)), plain, atol=1e-3)
    (site,) = [s for k, s in backbone.sites().items() if k == "encoder/block/1/block_mlp"]
    assert site.reads is body.encoder.block[1].layer[1].layer_norm or type(site.reads).__name__ == "T5LayerNorm"


@pytest.mark.parametrize("weights", ["safetensors", "bin"])
@pytest.mark.parametrize("listed", [True, False])
def test_older_folders_of_sentence_transformers_are_read(weights, listed, tmp_path):
    inner = saved(tmp_path / "0_BERT")
    plain = HuggingFace(str(saved(tmp_path / "plain")), pooling="mean")(x_of(SENTENCES))
    (inner / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    (tmp_path / "config.json").write_text('{"__version__": "0.2.0"}')
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_mean_tokens": true, "word_embedding_dimension": 16}'
    )
    if listed:
        parts = {"0_BERT": "models.BERT", "1_Pooling": "models.Pooling"}
        (tmp_path / "modules.json").write_text(
            json.dumps(
                [{"idx": i, "path": p, "type": f"sentence_transformers.{t}"} for i, (p, t) in enumerate(parts.items())]
            )
        )
    if weights == "bin":
        torch.save(load_file(inner / "model.safetensors"), inner / "pytorch_model.bin")
        (inner / "model.safetensors").unlink()
    backbone = HuggingFace(str(tmp_path))
    assert (backbone.pooling, backbone.max_tokens) == ("mean", 20)
    torch.testing.assert_close(backbone(x_of(SENTENCES)), plain)


def test_dense_layers_of_sentence_transformers_are_part_of_the_feature(tmp_path):
    saved(tmp_path)
    plain = HuggingFace(str(tmp_path), pooling="mean")(x_of(SENTENCES))
    (tmp_path / "2_Dense").mkdir()
    kind = {"in_features": 16, "out_features": 5, "activation_function": "torch.nn.modules.activation.Tanh"}
    (tmp_path / "2_Dense" / "config.json").write_text(json.dumps(kind))
    w, b = torch.randn(5, 16), torch.randn(5)
    save_file({"linear.weight": w, "linear.bias": b}, tmp_path / "2_Dense" / "model.safetensors")
    module = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (tmp_path / "modules.json").write_text(json.dumps([module]))
    backbone = HuggingFace(str(tmp_path), pooling="mean", normalize=True)
    assert backbone.width == 5
    torch.testing.assert_close(backbone(x_of(SENTENCES)), normalize((plain @ w.T + b).tanh(), dim=-1))


def test_weights_that_are_not_finite_are_refused_and_what_lacks_is_counted(tmp_path):
    file = saved(tmp_path) / "model.safetensors"
    held = load_file(file)
    held["encoder.layer.0.output.dense.bias"][3] = float("nan")
    save_file(held, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"1 of the 16 values of encoder\.layer\.0\.output\.dense\.bias are NaN"):
        HuggingFace(str(tmp_path))
    renamed = {k.replace("layer.1.attention.self.query", "layer.1.asks"): v for k, v in held.items()}
    save_file(renamed, file, {"format": "pt"})
    with pytest.raises(
        UserError,
        match=r"lack 2 tensors: encoder\.layer\.1\.attention\.self\.query\.bias.*, and hold encoder\.layer\.1\.asks",
    ):
        HuggingFace(str(tmp_path))


def test_files_that_hold_no_weights_of_floats_are_named(tmp_path):
    file = saved(tmp_path) / "model.safetensors"
    held = load_file(file)
    whole = {k: v.to(torch.int8) if k.endswith("output.dense.weight") else v for k, v in held.items()}
    save_file(whole, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"model\.safetensors holds whole numbers \(int8\) as encoder\.layer\.0"):
        HuggingFace(str(tmp_path))
    save_file({k: v[:1].contiguous() if "intermediate" in k else v for k, v in held.items()}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"are of other shapes than its config\.json says"):
        HuggingFace(str(tmp_path))
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(UserError, match=r"model\.safetensors is a pointer of Git LFS"):
        HuggingFace(str(tmp_path))


def test_a_tower_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="reads sentences, and tower is pictures; leave it out"):
        HuggingFace(str(saved(tmp_path)), tower="pictures")
