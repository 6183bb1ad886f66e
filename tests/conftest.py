"""A tiny world: a backbone that answers in a millisecond, streams of coloured noise, learners that train in a blink."""

from __future__ import annotations

import functools
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import Any

import cl_framework.threads  # noqa: F401  # before torch

import pytest
import torch
from pytorch_lightning import Trainer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cl_framework.adapters.base import Adapter
from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.adapters.lora import LoRA
from cl_framework.adapters.prompt_pool import PromptPool, PromptPooling
from cl_framework.backbones.base import Backbone, Site
from cl_framework.backbones.timm_sites import transformer_sites
from cl_framework.engine import checkpoint, loop
from cl_framework.engine.journal import Cost
from cl_framework.engine.learner import Learner
from cl_framework.engine.trainers import MakeTrainer, fresh_trainers
from cl_framework.evaluation import plots
from cl_framework.evaluation.measurements import Measurements
from cl_framework.methods.base import Strategy, Unlearner
from cl_framework.methods.compatibility import suits
from cl_framework.settings import discovery
from cl_framework.streams.events import Event, Experience, Step, exam_of
from cl_framework.streams.lazy_inputs import Inputs
from cl_framework.streams.samples import Rows, Samples
from cl_framework.streams.scenario import Scenario

torch.set_num_threads(1)
os.environ["CLF_THREADS"] = "1"
discovery.discover()

DRAW, BLANK = plots.accuracy_figure, b"a figure"

CLASSES = ((5, 2), (7, 0), (1, 6), (4, 3))  # out of order, so that a class id taken for a column shows
BUILD = functools.partial(
    Trainer, max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False,
)  # fmt: skip


class TinyBackbone(Backbone):
    """A gate in place of attention and a residual MLP on ``(n, 3, 8, 8)``; the same weights every time."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.width = "tiny", 16
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.stem, self.query, self.value = nn.Linear(192, 16), nn.Linear(16, 16), nn.Linear(16, 16)
            self.norm, self.mlp = nn.LayerNorm(16), nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x.flatten(1))
        h = h + self.query(h).sigmoid() * self.value(h)
        return h + self.mlp(self.norm(h))

    def sites(self) -> Mapping[str, Site]:
        return {
            "query": Site("query", self.query, 16, 16),
            "value": Site("value", self.value, 16, 16),
            "mlp_in": Site("mlp_in", self.mlp[0], 16, 32),
            "block_mlp": Site("block_mlp", self.mlp, 16, 16, reads=self.norm),
        }


class TinyTransformer(Backbone):
    """Two blocks of attention over a class token and four patches of ``(n, 3, 8, 8)``; the same weights every time."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.width = "tiny transformer", 64
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = VisionTransformer(img_size=8, patch_size=4, embed_dim=64, depth=2, num_heads=4, num_classes=0)
        for p in self.body.parameters():
            if p.ndim > 1:
                p.data.mul_(8)  # as large as trained ones, so that features differ from class to class
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def sites(self) -> Mapping[str, Site]:
        return transformer_sites(self.body)


def noise(classes: Sequence[int], n: int, split: str) -> Rows:
    """``n`` pictures of each class, in mixed order: the class decides the colours, class and split the noise."""
    labels = torch.tensor(list(classes)).repeat(n)
    ids = labels * 1000 + torch.arange(n).repeat_interleave(len(classes))
    x = torch.empty(len(labels), 3, 8, 8)
    for c in classes:
        colours = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(c))
        rng = torch.Generator().manual_seed(1000 * (split == "test") + 100 + c)
        x[labels == c] = colours + 0.7 * torch.randn(n, 3, 8, 8, generator=rng)
    return Rows(x, labels, ids, f"noise/{split}")


def experience(t: int, n: int = 10) -> Experience:
    """Two classes. The training view is brighter than the reference, so that taking one for the other shows."""
    reference = noise(CLASSES[t], n, "train")
    data = Rows(reference.x * 1.25, reference.labels, reference.ids, None)
    return Experience(f"task-{t}", CLASSES[t], data, reference)


def domain(t: int, classes: Sequence[int], n: int = 10) -> Experience:
    """More of ``classes``: the same colours turned ``t`` times; sample ids begin at 10,000 ``t``."""
    plain = noise(classes, n, "train")
    turned = plain.x.rot90(t, (-2, -1)) + 0.1 * torch.randn(plain.x.shape, generator=torch.Generator().manual_seed(t))
    reference = Rows(turned, plain.labels, plain.ids + 10_000 * t, f"domain-{t}/train")
    return Experience(f"domain-{t}", tuple(classes), Rows(turned * 1.25, reference.labels, reference.ids), reference)


def domains() -> list[Experience]:
    """Four experiences whose classes come again: in another order, without some, with new ones."""
    return [domain(t, classes) for t, classes in enumerate(((5, 2, 7), (7, 5, 0), (2, 7, 5, 0), (5, 0, 1)))]


class Listed(Scenario):
    """A scenario that is a list of events."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events, self.class_names = events, [f"class {c}" for c in range(8)]

    def steps(self) -> Iterator[Step]:
        exams: list[Samples] = []
        for event in self.events:
            if isinstance(event, Experience):
                exams.append(noise(event.classes, 6, "test"))
                yield Step(event, exams[-1])
            else:
                yield Step(event, exam_of(event, exams))


@dataclass
class Listener:
    """A journal that keeps measurements, costs and the learner's state after every event."""

    learner: Learner
    measurements: list[Measurements] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    states: list[tuple[dict[str, Tensor], dict[str, Any]]] = field(default_factory=list)

    def starts(self, step: Step) -> None:
        pass

    def ends(self, step: Step, measurements: Measurements, cost: Cost) -> None:
        self.measurements.append(measurements)
        self.costs.append(cost)
        self.states.append((clone(checkpoint.tensors(self.learner)), checkpoint.facts(self.learner)))


def clone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in tensors.items()}


def forked(work: Callable[[], object]) -> int:
    """Do ``work`` in a process of its own; return its id. It ends with 0, or 1 and a traceback."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which all sleep here
        pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def timeless(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results without measured seconds and memory: what two runs of one seed share bit for bit."""

    def bare(record: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in record.items() if k not in ("seconds", "peak_memory_bytes")}

    lists = {name: [bare(r) for r in results[name]] for name in ("events", "forget")}
    return {**results, **lists, "cost": bare(results["cost"])}


class World:
    """Everything a test of the core needs, as attributes."""

    TinyBackbone, TinyTransformer, Listed, Listener, BUILD = TinyBackbone, TinyTransformer, Listed, Listener, BUILD
    noise, experience, clone = staticmethod(noise), staticmethod(experience), staticmethod(clone)
    domain, domains = staticmethod(domain), staticmethod(domains)
    forked, timeless = staticmethod(forked), staticmethod(timeless)
    make_trainer: MakeTrainer = staticmethod(fresh_trainers(BUILD, None))

    @staticmethod
    def learner(
        strategy: Strategy, unlearner: Unlearner | None = None, adapter: Adapter | None = None, **options: Any
    ) -> Learner:
        body = TinyBackbone() if strategy.rewrites is not PromptPooling else TinyTransformer()
        kinds = (Bottleneck(4), LoRA(4), PromptPool(4, 2, 1))
        fitting = adapter or next(a for a in kinds if suits(a, body, strategy.rewrites))
        return Learner(body, fitting, strategy, unlearner, **options)

    @classmethod
    def learn(cls, learner: Learner, events: Sequence[Event], past: Sequence[Experience] = ()) -> Learner:
        """Carry out events without exams, the way the engine does."""
        past = list(past)
        for event in events:
            loop.attach_memories(learner, past)
            loop.carry_out(learner, event, cls.make_trainer, 8)
            past = [*past, event] if isinstance(event, Experience) else list(event.remaining)
        return learner

    @staticmethod
    def scores(learner: Learner, samples: Samples, batch: int = 64) -> Tensor:
        """Scores in company of ``batch``, nothing read from the feature store."""
        pieces = [torch.arange(i, min(i + batch, len(samples))) for i in range(0, len(samples), batch)]
        learner.eval()
        with torch.no_grad():
            return torch.cat([learner(Inputs(lambda r=r: samples[r.tolist()].x, samples.ids[r])) for r in pieces])

    @classmethod
    def differences(cls, a: Learner, b: Learner, tolerance: float = 0.0) -> list[str]:
        """What two learners differ in, bit for bit or beyond a tolerance: tensors, classes, lineage, answers."""

        def same(x: Tensor, y: Tensor) -> bool:
            return torch.equal(x, y) or (x.shape == y.shape and torch.allclose(x, y, rtol=tolerance, atol=tolerance))

        one, two = checkpoint.tensors(a), checkpoint.tensors(b)
        both = one.keys() & two.keys()
        found = [*sorted(one.keys() ^ two.keys()), *sorted(k for k in both if not same(one[k], two[k]))]
        if list(a.model.known.items()) != list(b.model.known.items()):
            return [*found, "known"]
        told = ("adapters", "stack", "origins", "head_origin", "brought")
        if any(checkpoint.facts(a)[k] != checkpoint.facts(b)[k] for k in told):
            return [*found, "lineage"]
        test = noise(range(8), 4, "test")
        agree = not a.model.classes or same(cls.scores(a, test), cls.scores(b, test))
        return found if agree else [*found, "scores"]


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep pictures of image folders out of the user's cache."""
    os.environ["CLF_CACHE"] = str(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session", autouse=True)
def _cheap() -> Iterator[None]:
    """Draw no figure and wait for no disk: both take longer than most tests, and tests of either ask for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cl_framework.evaluation.plots.accuracy_figure", lambda _: BLANK)
        patch.setattr(os, "fsync", os.fstat)  # it still wants an open file
        yield


@pytest.fixture(scope="module")
def drawn() -> Iterator[None]:
    """Draw figures in this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cl_framework.evaluation.plots.accuracy_figure", DRAW)
        yield


@pytest.fixture(scope="session")
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def make_trainer() -> MakeTrainer:
    return World.make_trainer


@pytest.fixture(scope="session")
def stream() -> list[Experience]:
    """Four experiences of two classes."""
    return [experience(t) for t in range(4)]


@pytest.fixture
def install_package(tmp_path, monkeypatch):
    """Return a function that installs an empty plugin package of somebody else, by its dotted name."""
    installed = []

    def install(name):
        folder = tmp_path.joinpath(*name.split("."))
        folder.mkdir(parents=True)
        monkeypatch.syspath_prepend(tmp_path)
        point = EntryPoint(name.partition(".")[0], name, discovery.GROUP)
        monkeypatch.setattr(discovery, "entry_points", lambda group: [point] if group == discovery.GROUP else [])
        installed.append(name.partition(".")[0])
        return folder

    yield install
    for name in [n for n in sys.modules if n.partition(".")[0] in installed]:
        del sys.modules[name]
