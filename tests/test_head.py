"""Heads: a row per class, which comes with the class, is told from the others, and leaves with it."""

import pytest
import torch
from torch.nn.functional import normalize

from cl_framework.memory.erasure import Erasure
from cl_framework.models.head import Head

KINDS = pytest.mark.parametrize("kind", ["linear", "cosine"])


def test_a_linear_head_is_an_affine_map():
    head, z = Head(4, "linear", (3, 9)), torch.randn(5, 4)
    torch.nn.init.normal_(head.bias)
    torch.testing.assert_close(head(z), z @ head.weight.T + head.bias)


def test_a_cosine_head_sees_angles_only_and_learns_its_scale():
    head, z = Head(4, "cosine", (3, 9)), torch.randn(5, 4)
    assert head.sigma.item() == 1
    assert {id(head.sigma), id(head.weight)} == {id(p) for p in head.parameters()}
    with torch.no_grad():
        head.sigma.fill_(2.5)
    torch.testing.assert_close(head(z), 2.5 * normalize(z, dim=1) @ normalize(head.weight, dim=1).T)
    torch.testing.assert_close(head(z), head(7 * z))


def test_rows_start_small():
    torch.manual_seed(0)
    linear, cosine = Head(400, "linear", range(50)), Head(400, "cosine", range(50))
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not linear.bias.any()
    assert cosine.weight.abs().max() <= 1 / 20
    assert cosine.weight.std().item() == pytest.approx(1 / 20 / 3**0.5, rel=0.05)


@KINDS
def test_growing_keeps_learned_rows_and_adds_only_what_is_missing(kind):
    head = Head(4, kind, (3, 9))
    before, rng = head.weight.detach().clone(), torch.get_rng_state()
    head.grow((9, 3))
    assert torch.equal(torch.get_rng_state(), rng)
    head.grow((9, 1, 1, 7))
    assert head.classes == (3, 9, 1, 7)
    assert torch.equal(head.weight[:2], before)
    assert head(torch.randn(2, 4)).shape == (2, 4)
    assert kind == "cosine" or len(head.bias) == 4


@KINDS
def test_erasing_deletes_the_rows_of_the_erased_classes(kind):
    head, z = Head(4, kind, (3, 9, 1)), torch.randn(2, 4)
    before = head(z)
    head.erase(Erasure(classes=frozenset({9, 77})))
    assert head.classes == (3, 1)
    torch.testing.assert_close(head(z), before[:, [0, 2]])
    head.erase(Erasure(experiences=frozenset({"task-0"})))
    assert head.classes == (3, 1)


def test_erasing_everything_returns_to_the_first_state():
    head = Head(4, "cosine", (3, 9))
    with torch.no_grad():
        head.sigma.fill_(4)
    head.erase(Erasure(everything=True))
    assert (head.classes, head.sigma.item()) == ((), 1)
    assert head(torch.randn(2, 4)).shape == (2, 0)


def test_labels_become_row_numbers():
    head = Head(4, "linear", (3, 9, 1))
    assert head.index(torch.tensor([1, 3, 3, 9])).tolist() == [2, 0, 0, 1]
    with pytest.raises(KeyError, match=r"\[2, 5\] have no row.*\(3, 9, 1\)"):
        head.index(torch.tensor([5, 3, 2]))


@KINDS
@pytest.mark.parametrize("before", [(), (1, 2, 3, 4, 5)], ids=["growing", "shrinking"])
def test_a_head_takes_the_rows_of_what_it_loads(kind, before):
    one, two, z = Head(4, kind, (3, 9, 1)), Head(4, kind, before), torch.randn(2, 4)
    two.load_state_dict(one.state_dict())
    assert two.classes == (3, 9, 1)
    assert torch.equal(one(z), two(z))
    assert {k for k, _ in two.named_parameters()} == {k for k, _ in one.named_parameters()}
