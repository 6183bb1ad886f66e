"""Adapters of the peft library: what the table says each family does is what it does, and the rest is refused."""

import ast
from pathlib import Path

import peft
import pytest
import torch
import yaml
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING as TUNERS
from peft.utils.peft_types import PeftType
from rich.console import Console
from torch import nn
from torch.nn.functional import linear

from cl_framework.adapters.bank import AdapterBank
from cl_framework.adapters.lora import LoRA
from cl_framework.adapters.low_rank import Correction, LowRank
from cl_framework.adapters.peft import Peft
from cl_framework.adapters.peft_families import FAMILIES, REFUSED, family
from cl_framework.backbones.timm import Timm
from cl_framework.configuration.experiment import build
from cl_framework.engine import checkpoint
from cl_framework.errors import UserError
from cl_framework.methods.base import Strategy
from cl_framework.methods.compatibility import check_request, suits
from cl_framework.models.model import Model
from cl_framework.settings import discovery
from cl_framework.streams.events import forget_request
from strategies.learning.ease import EASE
from strategies.learning.finetune import Finetune
from strategies.unlearning.drop_adapter import DropAdapter
from strategies.unlearning.task_negation import TaskNegation

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse invariant checks"),  # how torch greets SHiRA's first product
    pytest.mark.filterwarnings("ignore:Failed to load the CUDA extension"),  # BOFT works without
    pytest.mark.filterwarnings("ignore:Setting boft_n_butterfly_factor"),
]
CONFIGS = Path(__file__).parents[1] / "configs"
ROLES = ("query", "value", "mlp_in")
SMALL = {  # settings that fit maps of width 16
    "LORA": lambda: peft.LoraConfig(r=4, lora_dropout=0.5),
    "LORA gaussian": lambda: peft.LoraConfig(r=4, init_lora_weights="gaussian"),
    "LORA orthogonal": lambda: peft.LoraConfig(r=4, init_lora_weights="orthogonal"),
    "LORA mica": lambda: peft.LoraConfig(r=4, init_lora_weights="mica"),
    "LORA dora": lambda: peft.LoraConfig(r=4, use_dora=True, lora_dropout=0.5),
    "LORA pissa": lambda: peft.LoraConfig(r=4, init_lora_weights="pissa"),
    "LORA olora": lambda: peft.LoraConfig(r=4, init_lora_weights="olora"),
    "ADAMSS": lambda: peft.AdamssConfig(r=8, num_subspaces=2, subspace_rank=1),
    "BEFT": lambda: peft.BeftConfig(),
    "BOFT": lambda: peft.BOFTConfig(boft_block_size=4, boft_dropout=0.5),
    "C3A": lambda: peft.C3AConfig(block_size=4),
    "DEFT": lambda: peft.DeftConfig(r=4, deft_dropout=0.5),
    "DELORA": lambda: peft.DeloraConfig(r=4, module_dropout=0.5),
    "FOURIERFT": lambda: peft.FourierFTConfig(n_frequency=20),
    "GLORA": lambda: peft.GloraConfig(r=4),
    "GRALORA": lambda: peft.GraloraConfig(r=4, gralora_dropout=0.5),
    "HIRA": lambda: peft.HiraConfig(r=4, hira_dropout=0.5),
    "HRA": lambda: peft.HRAConfig(r=4),
    "IA3": lambda: peft.IA3Config(),
    "LILY": lambda: peft.LilyConfig(r=4),
    "LOHA": lambda: peft.LoHaConfig(r=4, module_dropout=0.5),
    "LOKR": lambda: peft.LoKrConfig(r=4, module_dropout=0.5),
    "MISS": lambda: peft.MissConfig(r=4, miss_dropout=0.5),
    "MISS bat": lambda: peft.MissConfig(r=4, init_weights="bat"),
    "OFT": lambda: peft.OFTConfig(oft_block_size=4),
    "PEANUT": lambda: peft.PeanutConfig(r=4),
    "PSOFT": lambda: peft.PsoftConfig(r=4, psoft_dropout=0.5),
    "PVERA": lambda: peft.PveraConfig(r=4, pvera_dropout=0.5),
    "RANDLORA": lambda: peft.RandLoraConfig(r=4, randlora_dropout=0.5),
    "ROAD": lambda: peft.RoadConfig(group_size=8),
    "SHIRA": lambda: peft.ShiraConfig(r=2),
    "SUPERTUNING": lambda: peft.SupertuningConfig(),
    "TINYLORA": lambda: peft.TinyLoraConfig(r=2),
    "UNILORA": lambda: peft.UniLoraConfig(r=4),
    "VBLORA": lambda: peft.VBLoRAConfig(r=4, vector_length=4, num_vectors=8),
    "VERA": lambda: peft.VeraConfig(r=4, vera_dropout=0.5),
    "WAVEFT": lambda: peft.WaveFTConfig(n_frequency=20),
}
USABLE = [f for f, does in FAMILIES.items() if does.untouched and does.routes and does.apart]
each = pytest.mark.parametrize("name", USABLE)


@pytest.fixture(scope="module")
def learned(world, stream):
    """A learner for each family that has learned two classes on one adapter; tests leave them as they are."""
    found = {}

    def get(name):
        if name not in found:
            adapter = Peft(SMALL[name](), ROLES)
            learner = world.learner(Finetune(), adapter=adapter, optimizer=lambda p: torch.optim.Adam(p, lr=0.02))
            found[name] = world.learn(learner, [stream[0]]), learner.model.backbone.digest()
        return found[name][0]

    return get


@pytest.fixture
def x():
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def test_every_family_of_the_library_is_in_the_table_or_refused_by_name():
    known = {name.split()[0] for name in FAMILIES} | {name.split()[0] for name in REFUSED}
    assert {kind.value for kind in PeftType} <= known
    assert SMALL.keys() == FAMILIES.keys()
    assert all(family(config()) == name for name, config in SMALL.items())
    assert not FAMILIES.keys() & REFUSED.keys()


@each
def test_at_birth_it_changes_nothing_if_that_is_what_the_table_says(name, world, x):
    body, torch_state = world.TinyBackbone(), torch.random.get_rng_state()
    plain, adapter = body(x), Peft(SMALL[name](), ROLES)
    bank = AdapterBank(body, adapter)
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    bank.add("a")
    bank.eval()
    with bank.using("a"):
        change = float((body(x) - plain).detach().abs().max())
    assert (change < 1e-5) == FAMILIES[name].neutral == adapter.neutral
    assert torch.equal(body(x), plain)


@each
def test_it_trains_what_is_its_own_and_leaves_the_backbone_bit_for_bit(name, world, learned, x):
    learner = learned(name)
    model, fresh = learner.model, world.TinyBackbone()
    assert model.backbone.digest() == fresh.digest()
    assert (model.features(x, "shared") - fresh(x)).abs().max() > 1e-4
    theirs = {p.untyped_storage().data_ptr() for p in model.backbone.parameters()}
    held = [*model.adapters.rewrites.parameters(), *model.adapters.rewrites.buffers()]
    assert not theirs & {t.untyped_storage().data_ptr() for t in held}
    assert not any("base" in k or "weight_" in k for k in model.adapters.state_dict())
    weights = [s.module.weight for s in model.adapters.sites.values()]
    assert not any(t.shape == w.shape and torch.allclose(t, w, atol=1e-3) for t in held for w in weights)


@each
def test_a_sample_gets_the_same_alone_and_in_any_company(name, learned, x):
    model = learned(name).model.eval()
    whole, rng = model.features(x, "shared"), torch.random.get_rng_state()
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    torch.testing.assert_close(model.features(x[order], "shared"), whole[order], atol=1e-5, rtol=1e-5)
    alone = torch.cat([model.features(row[None], "shared") for row in x])
    torch.testing.assert_close(alone, whole, atol=1e-5, rtol=1e-5)
    assert torch.equal(model.features(x, "shared"), whole), "dropout is off"
    assert torch.equal(torch.random.get_rng_state(), rng)


@each
def test_its_state_survives_a_round_trip_under_other_dice(name, world, learned):
    one = learned(name)
    two = world.learner(Finetune(), adapter=Peft(SMALL[name](), ROLES))
    torch.manual_seed(999)
    checkpoint.restore(two, world.clone(checkpoint.tensors(one)), checkpoint.facts(one))
    assert world.differences(one, two) == []


@each
@torch.no_grad()
def test_it_is_a_matrix_added_to_the_weight_where_the_table_says_so(name, world, learned, x):
    model = learned(name).model.eval()
    rewrites = model.adapters.rewrites["shared"]
    assert all(isinstance(r, Correction) == FAMILIES[name].merges for r in rewrites.values())
    expected, merged = model.features(x, "shared"), world.TinyBackbone()
    for key, rewrite in rewrites.items():
        site = merged.sites()[key]
        units = torch.eye(16)
        if FAMILIES[name].merges:
            delta = rewrite.delta()
        else:  # no matrix: not even the best one does
            w, b = site.module.weight, site.module.bias
            delta = (rewrite(units, linear(units, w, b)) - rewrite(units * 0, linear(units * 0, w, b))).T - w
        assert delta.shape == site.module.weight.shape
        site.module.weight += delta
    error = float((merged(x) - expected).abs().max())
    assert error < 1e-4 if FAMILIES[name].merges else error > 1e-3


@each
@torch.no_grad()
def test_several_add_up_or_are_refused(name, world, learned, x):
    model = learned(name).model.eval()
    bank = model.adapters
    rewrite, given = bank.rewrites["shared"]["query"], torch.randn(5, 16)
    plain = linear(given, model.backbone.query.weight, model.backbone.query.bias)
    own = rewrite(given, plain) - plain
    other = plain + torch.randn(5, 16)
    added = torch.allclose(rewrite(given, other) - other, own, atol=1e-5)
    assert added == FAMILIES[name].adds == bank.adapter.several
    if not added:
        pair = Model(world.TinyBackbone(), bank.adapter)
        pair.adapters.add("a")
        pair.adapters.add("b")
        with pytest.raises(UserError, match=r"a and b cannot be applied together.* one would undo the other"):
            pair.features(x, ("a", "b"))


@each
def test_what_it_adds_to_in_place_is_a_copy(name, learned):
    rewrite, out = learned(name).model.adapters.rewrites["shared"]["value"], torch.randn(5, 16)
    before = out.clone()
    rewrite(torch.randn(5, 16), out)
    assert torch.equal(out, before)


@pytest.mark.parametrize("name", [n for n in USABLE if 0.5 in vars(SMALL[n]()).values()])
def test_dropout_is_on_only_while_training(name, learned, x):
    bank = learned(name).model.adapters
    rewrite, given, out = bank.rewrites["shared"]["query"], torch.randn(64, 16), torch.randn(64, 16)
    calm = rewrite(given, out)
    rewrite.train()
    torch.manual_seed(0)
    stirred = [rewrite(given, out) for _ in range(8)]
    rewrite.eval()
    assert any(not torch.allclose(s, calm) for s in stirred)
    assert torch.equal(rewrite(given, out), calm)
    if FAMILIES[name].merges:
        rewrite.train()
        assert torch.equal(rewrite.delta(), rewrite.delta())
        assert rewrite.training
        rewrite.eval()


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.map, self.other = nn.Linear(16, 16), nn.Linear(16, 16)


def wrapped(name):
    """Two maps as peft itself would adapt them."""
    pair, config = Two(), SMALL[name]()
    config.target_modules = ["map", "other"]
    if name == "IA3":
        config.feedforward_modules = []
    TUNERS[config.peft_type](pair, config, "default")
    return pair


@pytest.mark.parametrize("name", [f for f, does in FAMILIES.items() if not does.untouched])
def test_families_said_to_change_the_backbone_do(name):
    assert not torch.allclose(wrapped(name).map.get_base_layer().weight, Two().map.weight, atol=1e-3)


@pytest.mark.parametrize("name", [f for f, does in FAMILIES.items() if not does.routes])
def test_families_said_to_look_at_the_batch_do(name):
    layer, x = wrapped(name).map.eval(), 3 * torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    assert not torch.allclose(layer(x)[:1], layer(x[:1]), atol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_said_to_share_what_they_train_do_and_no_others(name):
    pair = wrapped(name)
    mine, its = ({id(p) for p in layer.parameters() if p.requires_grad} for layer in (pair.map, pair.other))
    assert bool(mine & its) == (not FAMILIES[name].apart)


@pytest.mark.parametrize("name", [f for f in FAMILIES if f not in USABLE])
def test_a_family_that_breaks_a_promise_is_refused_before_anything_is_built(name):
    with pytest.raises(UserError, match=r"\. (Choose one of: .*HRA|Leave init_lora_weights out)"):
        Peft(SMALL[name]())


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (lambda: peft.AdaLoraConfig(total_step=9), "has to be told after each step"),
        (lambda: peft.PrefixTuningConfig(num_virtual_tokens=4), "gives tokens to a language model"),
        (lambda: peft.LNTuningConfig(), "copies norms"),
        (lambda: peft.OSFConfig(), "choose the strategy OSF with LoRA"),
        (lambda: peft.LoraConfig(init_lora_weights="pissa_niter_4"), "changes .*Leave init_lora_weights out"),
        (lambda: peft.LoraConfig(init_lora_weights="orthogonal", bias="all"), "sets bias to 'all'"),
        (lambda: peft.LoraConfig(target_modules=["qkv"]), "sets target_modules .* set `roles`"),
        (lambda: peft.IA3Config(target_modules=["a"], feedforward_modules=["a"]), "set `roles`"),
        (lambda: peft.LoraConfig(rank_pattern={"a": 3}), "sets rank_pattern"),
        (lambda: peft.LoraConfig(modules_to_save=["head"]), "sets modules_to_save .* leave it out"),
        (lambda: peft.LoraConfig(lora_bias=True), "sets lora_bias to True"),
        (lambda: peft.PveraConfig(generator_seed=3), "sets generator_seed"),
        (lambda: peft.OFTConfig(module_dropout=0.1), "never applies it"),
        (lambda: peft.LoraRuntimeConfig(), "LoraRuntimeConfig describes no adapter"),
    ],
)
def test_what_cannot_work_here_is_refused_with_what_to_do(config, told):
    with pytest.raises(UserError, match=told):
        Peft(config())


@pytest.mark.parametrize("roles", [("norm",), (), ("query", "block_mlp")])
def test_only_linear_maps_can_be_chosen(roles):
    with pytest.raises(UserError, match="choose roles among query, key"):
        Peft(peft.LoraConfig(), roles)


def test_settings_that_do_not_fit_the_maps_are_refused_when_the_learner_is_built(world):
    with pytest.raises(UserError, match=r"the query map of 16 to 16 with C3AConfig: .* block size"):
        world.learner(Finetune(), adapter=Peft(peft.C3AConfig(block_size=5)))


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(init_lora_weights=False),
        peft.HRAConfig(r=3),
        peft.HRAConfig(r=4, apply_GS=True),
        peft.LoHaConfig(r=4, init_weights=False),
        peft.OFTConfig(oft_block_size=4, init_weights=False),
        peft.IA3Config(init_ia3_weights=False),
    ],
    ids=lambda c: type(c).__name__,
)
def test_another_start_than_the_familys_is_not_neutral_and_never_lies_on_the_stack(config, world, x):
    body = world.TinyBackbone()
    bank = AdapterBank(body, Peft(config))
    bank.add("a")
    with bank.using("a"):
        assert not torch.allclose(body(x), world.TinyBackbone()(x), atol=1e-4)
    with pytest.raises(UserError, match="changes features before any training"):
        bank.push("b")


@torch.no_grad()
@pytest.mark.parametrize("rs", [False, True], ids=["alpha over r", "alpha over root r"])
def test_lora_of_peft_is_our_lora(rs, world, x):
    ours, theirs = world.TinyBackbone(), world.TinyBackbone()
    one = AdapterBank(ours, LoRA(4, alpha=6 * (2 if rs else 1), roles=ROLES))
    two = AdapterBank(theirs, Peft(peft.LoraConfig(r=4, lora_alpha=6, use_rslora=rs), ROLES))
    for bank in (one, two):
        bank.add("a")
        bank.active = ("a",)
    for key, low in one.rewrites["a"].items():
        its = two.rewrites["a"][key]
        assert LowRank in type(its).__mro__
        assert its.scale == pytest.approx(low.scale)
        low.b.copy_(torch.randn(low.b.shape))
        its.a.copy_(low.a)
        its.b.copy_(low.b)
        torch.testing.assert_close(its.delta(), low.delta(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-6)
    for bank in (one, two):
        for rewrite in bank.rewrites["a"].values():
            rewrite.rescale(-0.5)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("config", [peft.LoraConfig(r=4), peft.HRAConfig(r=4), peft.OFTConfig(oft_block_size=8)])
@pytest.mark.parametrize("roles", [("query",), ("key",), ("query", "value")], ids="+".join)
def test_a_part_of_a_fused_projection_is_a_map_of_its_own(config, roles):
    torch.manual_seed(0)
    vit, seen = Timm("test_vit", pretrained=False, image_size=32), []
    bank, images = AdapterBank(vit, Peft(config, roles)), torch.randn(2, 3, 32, 32)
    vit.body.blocks[0].attn.qkv.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    bank.add("a")
    for p in bank.params("a"):
        p.add_(0.3 * torch.randn(p.shape))
    vit(images)
    with bank.using("a"):
        vit(images)
    (given, plain), (_, changed) = seen
    for i, role in enumerate(("query", "key", "value")):
        before, after = plain.chunk(3, -1)[i], changed.chunk(3, -1)[i]
        if role in roles:
            delta = bank.rewrites["a"][f"blocks/0/attn/{role}"].delta()
            torch.testing.assert_close(after, before + given @ delta.T, atol=1e-4, rtol=1e-4)
            assert not torch.allclose(after, before, atol=1e-4)
        else:
            assert torch.equal(after, before)


def test_the_map_it_wraps_is_the_backbones_own_wherever_that_goes(world):
    body = world.TinyBackbone()
    bank = AdapterBank(body, Peft(peft.HRAConfig(r=4)))
    bank.add("a")
    rewrite, x = bank.rewrites["a"]["query"], torch.randn(3, 16)
    assert rewrite.map.weight.data_ptr() == body.query.weight.data_ptr()
    body.to(torch.float64)
    bank.to(torch.float64)
    assert rewrite(x.double(), x.double()).dtype == torch.float64
    assert rewrite.map.weight.data_ptr() == body.query.weight.data_ptr()


def test_ia3_scales_what_the_second_map_of_an_mlp_reads(world):
    vit = Timm("test_vit", pretrained=False, image_size=32)
    bank = AdapterBank(vit, Peft(peft.IA3Config(), ("key", "mlp_out")))
    bank.add("a")
    widths = {key.split("/")[-1]: len(bank.rewrites["a"][key].layer.ia3_l["default"].flatten()) for key in bank.sites}
    sites = {key.split("/")[-1]: site for key, site in bank.sites.items()}
    assert widths == {"key": sites["key"].width_out, "mlp_out": sites["mlp_out"].width_in}


def test_an_adapter_that_starts_as_another_does_what_it_does(world, learned, x):
    learner = world.learner(Finetune(), adapter=Peft(SMALL["HRA"](), ROLES))
    checkpoint.restore(learner, world.clone(checkpoint.tensors(learned("HRA"))), checkpoint.facts(learned("HRA")))
    learner.model.adapters.add("b", like="shared")
    assert torch.equal(learner.model.features(x, "b"), learner.model.features(x, "shared"))


def test_a_strategy_of_one_adapter_per_experience_forgets_exactly_with_it(world, stream):
    learner = world.learner(EASE(), DropAdapter(), adapter=Peft(SMALL["HRA"]()))
    never = world.learner(EASE(), DropAdapter(), adapter=Peft(SMALL["HRA"]()))
    world.learn(learner, [*stream[:3], forget_request("f", stream[:3], classes=stream[1].classes)])
    world.learn(never, [stream[0], stream[2]])
    assert world.differences(learner, never) == []


class Together(Strategy):
    several = True

    def learn(self, model, event):
        return ()

    def predict(self, model, x):
        raise NotImplementedError


def test_strategies_and_unlearners_that_use_several_at_once_refuse_what_would_undo_another(world, stream):
    with pytest.raises(UserError, match=r"Together puts several adapters in use at once, and of Peft .*; set `"):
        world.learner(Together(), adapter=Peft(SMALL["HRA"]()))
    world.learner(Together(), adapter=Peft(SMALL["LORA"]()))
    for adapter in (Peft(SMALL["HRA"]()), Peft(SMALL["LORA dora"]())):
        learner = world.learner(Finetune(), TaskNegation(), adapter=adapter)
        world.learn(learner, stream[:2])
        with pytest.raises(UserError, match="such adapters are used one at a time"):
            check_request(
                learner.model, learner.strategy, learner.unlearner, forget_request("f", stream[:2], classes=[5])
            )
        with pytest.raises(UserError, match="one at a time"):
            learner.model.adapters.push("edit")


@pytest.mark.parametrize("name", [entry.name for entry in discovery.catalogue("strategies")])
def test_a_strategy_that_uses_several_at_once_says_so(name, world, stream):
    kind = discovery.load_class("strategies", name)
    learner, most = world.learner(kind()), [0]
    bank = learner.model.adapters
    modules_of = bank.modules_of

    def watch(applied):
        most[0] = max(most[0], len(applied))
        return modules_of(applied)

    bank.modules_of = watch
    world.learn(learner, stream[:2])
    world.scores(learner, stream[0].data)
    hra = Peft(SMALL["HRA"]())
    assert most[0] <= 1 or kind.several or not suits(hra, learner.model.backbone, kind.rewrites)


def test_lora_of_peft_can_be_negated(world, stream):
    learner = world.learner(Finetune(), TaskNegation(epochs=1), adapter=Peft(peft.LoraConfig(r=4)))
    world.learn(learner, [*stream[:2], forget_request("f", stream[:2], classes=[5])])
    assert list(learner.model.adapters) == ["shared", "f"]


def test_nothing_of_the_library_is_imported_before_it_is_used():
    for path in (CONFIGS.parent / "cl_framework").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:  # what a module does when it is imported
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")]
            assert not any(str(name).split(".")[0] == "peft" for name in names), path


def built(*args):
    more = ["--config", str(CONFIGS / "quickstart.yaml"), "--trainer.accelerator=cpu", *args]
    return build(more, Console(quiet=True))


def test_a_config_of_the_library_stands_where_an_adapter_does(tmp_path):
    (tmp_path / "a.yaml").write_text("model: {adapter: {class_path: peft.HRAConfig, init_args: {r: 6}}}")
    first = built("--config", str(tmp_path / "a.yaml"))
    adapter = first.learner.model.adapters.adapter
    assert (adapter.family, adapter.config.r, adapter.roles) == ("HRA", 6, ("query", "value"))
    (tmp_path / "b.yaml").write_text(first.config)
    again = build(["--config", str(tmp_path / "b.yaml")], Console(quiet=True))
    assert again.learner.model.adapters.adapter.config == adapter.config
    assert yaml.safe_load(again.config)["model"]["adapter"] == yaml.safe_load(first.config)["model"]["adapter"]
    flags = built("--model.adapter", "peft.LoraConfig", "--model.adapter.r", "3").learner.model.adapters
    assert (flags.adapter.family, flags.adapter.config.r) == ("LORA", 3)
    told = "{class_path: Peft, init_args: {config: {class_path: peft.OFTConfig}, roles: [key]}}"
    chosen = built("--model.adapter", told).learner.model.adapters
    assert {site.role for site in chosen.sites.values()} == {"key"}


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["peft.HRAConfg"], r"there is no peft\.HRAConfg\. Did you mean 'HRAConfig'"),
        (["peft.HRAConfig", "--model.adapter.rr", "4"], "HRAConfig has no setting 'rr'. Did you mean 'r'"),
        (["peft.HRAConfig", "--model.adapter.r", "x"], "model.adapter.r must be a whole number"),
        (["peft.VBLoRAConfig"], "VBLORA shares what it trains"),
        (["peft.AdaLoraConfig"], "AdaLoRA does not work when `total_step` is None"),
        (["torch.nn.Linear"], "names torch.nn.Linear, which may run any code; to trust it, add --trust"),
        (["LoRA", "--model.adapter.rank", "0"], "rank must be at least 1; found 0"),
        (["LoRA", "--model.adapter.rank", "x"], "model.adapter.rank must be a whole number"),
        (["LoRB"], "There is no adapter 'LoRB'. Did you mean 'LoRA'"),
        (["peft.HRAConfig", "--model.strategy", "OLoRA"], "OLoRA works on LowRank adapters, and Peft is none"),
    ],
)
def test_a_mistake_in_the_config_is_told_in_one_sentence(args, told):
    with pytest.raises(UserError, match=told):
        built("--model.adapter", *args)
