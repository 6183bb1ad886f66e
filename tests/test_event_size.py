"""What an event of EASE on ViT-B/16 weighs on disk: the adapter and the prototypes, never the backbone."""

import torch

from cl_framework.adapters.bottleneck import Bottleneck
from cl_framework.backbones.timm import Timm
from cl_framework.engine.checkpoint import facts, tensors
from cl_framework.engine.learner import Learner
from cl_framework.memory.tensor_store import Key
from cl_framework.runs.directory import RunDirectory
from strategies.learning.ease import EASE


def test_an_event_of_ease_on_vit_b_stores_at_most_8_mb(tmp_path):
    learner = Learner(Timm("vit_base_patch16_224", pretrained=False), Bottleneck(64), EASE())  # random weights
    run = RunDirectory.create(tmp_path / "run", "", {})
    for task in range(2):
        own = learner.model.adapters.add(f"task-{task}")
        assert sum(p.numel() for p in own) == 1_189_632  # the published count for width 64
        for c in range(5 * task, 5 * task + 5):
            for space in range(20):  # as many spaces as the last of twenty tasks sees
                learner.strategy.prototypes[Key(c, f"task-{space}")] = torch.randn(768)
        run.commit(f"task-{task}", "learn", tensors(learner), facts(learner), {})
    for folder in (tmp_path / "run" / "events").iterdir():
        assert 4 * 1_189_632 < sum(f.stat().st_size for f in folder.iterdir()) <= 8 * 10**6
