"""Another rank for an adapter that is trained."""

import dataclasses
import doctest
import math

import numpy as np
import pytest
import tiny
from adapt.test_methods import content, distance, frozen, outputs, trained

import lora_np as lnp
from lora_np.adapt import ranks
from lora_np.adapt.methods import METHODS, adapted_nodes
from lora_np.adapt.ranks import resized
from lora_np.adapt.starts import to_plain
from lora_np.adapt.targets import hf_names

rng = np.random.default_rng


def test_the_examples_are_true():
    assert not doctest.testmod(ranks).failed


def product(node):
    return node.scale * (node.A.astype(np.float64) @ node.B)


def of_rank(update, r):
    """Return the matrix of rank r nearest to an update, and the singular values of that."""
    U, s, Vt = np.linalg.svd(update)
    return (U[:, :r] * s[:r]) @ Vt[:r], s


@pytest.mark.parametrize("name, rslora", [("bert mean head", True), ("gpt", False), ("vit", True)])
def test_a_smaller_rank_is_the_nearest_and_the_scale_stays(name, rslora):
    options = {"r": 5, "use_rslora": rslora, "rank_pattern": {"query|c_attn": 3}, "alpha_pattern": {"value|c_fc": 7.0}}
    model = tiny.adapted(name, **options)
    before, output = content(model), outputs(model, name)
    for r in (1, 2, 4):
        small, report = lnp.resize(model, r=r)
        held = whole = 0.0
        for path, node in adapted_nodes(small).items():
            old = adapted_nodes(model)[path]
            rank = r if old.A.shape[1] > r else report.rows[path].r
            nearest, s = of_rank(product(old), rank)
            np.testing.assert_allclose(product(node), nearest, rtol=0, atol=1e-12)
            assert node.A.shape[1] == rank == r and node.scale == pytest.approx(old.scale, rel=1e-15)
            squares = np.sum(s[:r] ** 2), np.sum(s**2)
            assert report.rows[path].share == pytest.approx(squares[0] / squares[1], abs=1e-12)
            held, whole = held + squares[0], whole + squares[1]
            assert small.adapter.at(hf_names(small, path, node)).r == r
        assert report.share == pytest.approx(held / whole, abs=1e-12)
        assert small.adapter.r == r and not small.adapter.rank_pattern
    assert content(model) == before and np.array_equal(outputs(model, name), output)


@pytest.mark.parametrize("asked", [{"r": 2}, {"energy": 1.0}, {"energy": 1 - 1e-9}])
def test_the_same_rank_changes_nothing(asked):
    model = tiny.adapted("bert mean head", np.float32, lora_alpha=0.7)
    same, report = lnp.resize(model, **asked)
    assert content(same) == content(model) and same.adapter == model.adapter and report.share == 1.0
    assert {n.scale for n in adapted_nodes(same).values()} == {n.scale for n in adapted_nodes(model).values()}
    mine = [lnp.parameters(one, trainable_only=True) for one in (same, model)]
    assert list(mine[0]) == list(mine[1])
    assert not any(np.shares_memory(*pair) for pair in zip(*(arrays.values() for arrays in mine)))


@pytest.mark.parametrize("rslora", [False, True])
def test_a_larger_rank_has_more_room_and_the_same_update(rslora):
    model = tiny.adapted("bert mean head", use_rslora=rslora)
    large, report = lnp.resize(model, r=9)
    assert large.adapter.r == 9 and report.share == 1.0
    assert large.adapter.lora_alpha == pytest.approx(3.0 * (math.sqrt(9 / 2) if rslora else 9 / 2))
    for path, node in adapted_nodes(large).items():
        old = adapted_nodes(model)[path]
        assert np.array_equal(node.A[:, :2], old.A) and np.array_equal(node.B[:2], old.B)
        assert not node.A[:, 2:].any() and not node.B[2:].any() and node.A.shape[1] == 9
        assert report.rows[path].r == 9 and node.scale == pytest.approx(old.scale, rel=1e-15)
    assert distance(outputs(large, "bert mean head"), outputs(model, "bert mean head")) < 1e-14
    again, _ = lnp.resize(large, r=2)
    assert all(
        np.allclose(product(n), product(adapted_nodes(model)[p]), atol=1e-12) for p, n in adapted_nodes(again).items()
    )
    most, _ = lnp.resize(model, r=1000)
    assert all(node.A.shape[1] == min(node.W.shape) for node in adapted_nodes(most).values())


def test_a_share_of_the_energy_gives_each_node_its_rank_and_files_hold_it(tmp_path):
    base = frozen("bert mean head", np.float32)
    model = lnp.inject(base, lnp.LoRAConfig(r=6, lora_alpha=4, lora_dropout=0.1, target_modules="all-linear"), rng(0))
    for k, array in enumerate(lnp.parameters(model, trainable_only=True).values()):
        array += (
            rng(k).normal(size=array.shape) * (1 if array.shape[1] == 6 else 0.6 ** (k % 5 * np.arange(6)[:, None]))
        ).astype(np.float32)
    small, report = lnp.resize(model, energy=0.9)
    found = set()
    for path, node in adapted_nodes(small).items():
        s2 = np.linalg.svd(product(adapted_nodes(model)[path]), compute_uv=False) ** 2
        r = node.A.shape[1]
        assert s2[: r - 1].sum() < 0.9 * s2.sum() <= s2[:r].sum() * (1 + 1e-9)
        assert node.scale == pytest.approx(4 / 6) and node.dropout == 0.1 and node.A.dtype == np.float32
        found.add(r)
    assert len(found) > 2 and 0.9 <= report.share < 1
    lnp.save_adapter(small, tmp_path)
    assert content(lnp.load_adapter(base, tmp_path)) == content(small)


def test_what_is_trained_stays_what_is_trained():
    model = lnp.freeze(tiny.adapted("bert mean head", np.float32), "*.A")
    small, _ = lnp.resize(model, r=1)
    live = [list(lnp.parameters(one, trainable_only=True)) for one in (small, model)]
    assert live[0] == live[1] and any(name.startswith("head") for name in live[0])
    for node in adapted_nodes(small).values():
        assert node.B.flags.writeable and not node.A.flags.writeable
    trained_head = small.head.classifier.W
    assert np.array_equal(trained_head, model.head.classifier.W) and trained_head is not model.head.classifier.W
    assert lnp.check_model(lnp.astype(small, np.float64), tiny.batch("bert")).ok


def test_what_lies_aside_is_resized_too():
    model = tiny.adapted("bert", np.float32)
    detour = dataclasses.replace(model.layer[0].attention.query, hf="pooler.dense")
    small, report = lnp.resize(dataclasses.replace(model, aside={"pooler": detour}), r=1)
    assert small.aside["pooler"].A.shape == (12, 1) and report.rows["pooler"].r == 1


@pytest.mark.parametrize("d_in, r, d_out", [(9, 3, 7), (4, 6, 9), (9, 6, 4)])
def test_the_factors_alone_can_be_resized(d_in, r, d_out):
    A, B = rng(0).normal(size=(d_in, r)), rng(1).normal(size=(r, d_out))
    for rank in range(1, 9):
        (small_A, small_B), kept = resized(A, B, rank)
        found = min(rank, d_in, d_out)
        assert (small_A.shape, small_B.shape, kept.r) == ((d_in, found), (found, d_out), found)
        nearest, s = of_rank(A @ B, found)
        np.testing.assert_allclose(small_A @ small_B, nearest, rtol=0, atol=1e-12)
        assert kept.share == pytest.approx(np.sum(s[:found] ** 2) / np.sum(s**2), abs=1e-12)
    (small_A, small_B), kept = resized(A, np.zeros_like(B), energy=0.9)
    assert small_A.shape[1] == 1 and not (small_A @ small_B).any() and kept.share == 1.0


def test_what_is_not_trained_yet_keeps_its_start():
    base = frozen("bert", np.float32)
    small, report = lnp.resize(lnp.inject(base, lnp.LoRAConfig(r=5), rng(0)), r=2)
    output, cache = small.forward(tiny.batch("bert"))
    grads = small.backward(output, cache)
    assert report.share == 1.0 and np.array_equal(output, base.forward(tiny.batch("bert"))[0])
    assert all(grads[key].any() and grads[key].shape[0] == 2 for key in grads if key.endswith(".B"))


def test_other_methods_are_refused_by_name():
    for name in METHODS:
        if name != "LoRA":
            with pytest.raises(ValueError, match=f"resize is for LoRA, but .* is adapted by {name}"):
                lnp.resize(trained(METHODS[name], frozen("bert")), r=1)
    pissa = trained(METHODS["PiSSA or OLoRA"], frozen("bert"))
    with pytest.raises(ValueError, match=r"; lora_np\.adapt\.starts\.to_plain\(model\) is plain LoRA that computes"):
        lnp.resize(pissa, r=1)
    assert np.allclose(outputs(lnp.resize(to_plain(pissa), r=8)[0], "bert"), outputs(pissa, "bert"), atol=1e-12)
    with pytest.raises(ValueError, match="but this one has no adapter"):
        lnp.resize(frozen("bert"), r=1)
