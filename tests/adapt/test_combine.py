"""Weighted sums of LoRA adapters: PEFT's numbers on stored arrays, the laws, and the error that is stated."""

import dataclasses
import doctest
import itertools

import numpy as np
import pytest
import test_reference_models as models
import tiny
from adapt.test_several import FOLDER, moved, several_on, stored_adapters
from safetensors.numpy import load_file, save_file

import lora_np as lnp
from lora_np.adapt import combine
from lora_np.adapt.methods import adapted_nodes
from lora_np.model.tree import freeze, with_arrays

SEED = 7  # of what the dare types draw
OF_ALL, OF_EQUAL = (["default", "films", "books"], [0.7, -1.3, 0.4]), (["default", "films", "songs"], [0.7, -1.3, 0.4])
SUMS = {  # case: names, weights, options, in PEFT's words
    "cat": (*OF_ALL, {"combination_type": "cat"}),
    "svd": (*OF_ALL, {}),
    "svd_4": (*OF_ALL, {"combination_type": "svd", "svd_rank": 4, "svd_full_matrices": False}),
    "svd_clamped": (*OF_ALL, {"combination_type": "svd", "svd_clamp": 0.9}),
    "linear": (*OF_EQUAL, {"combination_type": "linear"}),
    "magnitude_prune": (*OF_EQUAL, {"combination_type": "magnitude_prune", "density": 0.4}),
    "ties": (*OF_EQUAL, {"combination_type": "ties", "density": 0.6}),
    "ties_frequency": (
        *OF_EQUAL,
        {"combination_type": "ties", "density": 0.7, "majority_sign_method": "frequency"},
    ),
    "dare_linear": (*OF_EQUAL, {"combination_type": "dare_linear", "density": 0.7}),
    "dare_ties": (*OF_EQUAL, {"combination_type": "dare_ties", "density": 0.7}),
    "magnitude_prune_svd": (*OF_ALL, {"combination_type": "magnitude_prune_svd", "density": 0.4, "svd_rank": 5}),
    "ties_svd": (*OF_ALL, {"combination_type": "ties_svd", "density": 0.6}),
    "ties_svd_frequency": (
        *OF_ALL,
        {"combination_type": "ties_svd", "density": 0.9, "majority_sign_method": "frequency"},
    ),
    "dare_linear_svd": (*OF_ALL, {"combination_type": "dare_linear_svd", "density": 0.7}),
    "dare_ties_svd": (*OF_ALL, {"combination_type": "dare_ties_svd", "density": 0.6, "svd_rank": 2}),
    "one alone": (["books"], [-0.8], {"combination_type": "ties", "density": 0.3}),
}
TYPES = ["cat", "linear", "svd", *combine.PRUNED, *(f"{kind}_svd" for kind in combine.PRUNED)]


def sum_errors():
    """Return {what: relative error} of A and B of all weighted sums; each pair of an SVD has one free sign."""
    stored, adapters, errors = load_file(FOLDER / "reference.safetensors"), stored_adapters(), {}
    for case, (names, weights, options) in SUMS.items():
        rng = np.random.default_rng(SEED)
        model = adapters.add_weighted_adapter(names, weights, "sum", **options, rng=rng).model
        adapters.delete_adapter("sum")
        theirs = {key.removeprefix(f"{case}."): a for key, a in stored.items() if key.startswith(f"{case}.")}
        found = models.names_in_peft(model)[0]
        assert set(theirs) == set(found.values())
        for path, node in adapted_nodes(model).items():
            A, B = (theirs[found[f"{path}.{field}"]].T for field in "AB")
            assert node.scale == 1.0
            if case == "svd_clamped":  # by PEFT's signs, on which it depends
                pair = [stored[f"svd.{found[f'{path}.{field}']}"].T for field in "AB"]
                pairs = zip(combine.clamped(*pair, options["svd_clamp"]), (A, B))
            else:
                rank = A.shape[1]  # of one alone PEFT keeps a smaller matrix than its configuration says
                assert rank == node.A.shape[1] or (case == "one alone" and not node.A[:, rank:].any())
                sign = np.sign((node.A[:, :rank] * A).sum(axis=0)) if "svd" in case else 1.0
                pairs = (node.A[:, :rank], A * sign), (node.B[:rank], (B.T * sign).T)
            for field, (ours, right) in zip("AB", pairs):
                errors[f"{case}, {path}.{field}"] = models.relative_error(ours, right)
    return errors


def update(node):
    return node.scale * (node.A @ node.B)


def updates(model):
    return {path: update(node) for path, node in adapted_nodes(model).items()}


def assert_same(ours, theirs, bound=1e-12):
    assert ours.keys() == theirs.keys()
    for path, matrix in theirs.items():
        assert np.abs(ours[path] - matrix).max() <= bound * np.abs(matrix).max(), path


def lora_models(base=None, count=3, r=3, **options):
    """Return models with unlike adapters of one rank, each with nothing at its default."""
    base = freeze(tiny.build("bert")) if base is None else base
    options = {"lora_alpha": 5, "target_modules": ["query", "output.dense"], "lora_dropout": 0.2, **options}
    configs = {f"a{k}": lnp.LoRAConfig(**{"r": r, **options}) for k in range(count)}
    return list(several_on(base, configs).values())


def options_of(kind, density=0.5):
    return {"combination_type": kind, "density": density, "rng": np.random.default_rng(0)}


def test_sums_are_those_of_peft():
    errors = sum_errors()
    assert len(errors) > 150
    models.assert_small(errors, 1e-9)


# ---- laws


@pytest.mark.parametrize("kind", TYPES)
def test_one_adapter_with_weight_1_returns_its_own_update(kind):
    (model,) = lora_models(count=1)
    found, error, errors = lnp.weighted_adapter([model], [1], **options_of(kind))
    assert_same(updates(found), updates(model))
    assert error < 1e-14 and max(errors.values()) < 1e-14 and errors.keys() == adapted_nodes(model).keys()
    assert_same(
        updates(lnp.weighted_adapter([model], [-2.5], **options_of(kind)).model),
        {path: -2.5 * matrix for path, matrix in updates(model).items()},
    )


@pytest.mark.parametrize("kind", TYPES)
def test_density_1_and_other_weights_0_return_the_update_of_one(kind):
    given = lora_models()
    found = lnp.weighted_adapter(given, [0.0, 1.0, 0.0], **options_of(kind, 1.0))
    assert_same(updates(found.model), updates(given[1]))
    assert found.error < 1e-12


def test_order_does_not_matter_for_cat_and_it_is_exact():
    given, weights = (
        [*lora_models(count=2), *lora_models(count=1, r=2, target_modules=["query", "key"])],
        [0.3, -2, 1.1],
    )
    expected = {}
    for model, weight in zip(given, weights):
        for path, matrix in updates(model).items():
            expected[path] = expected.get(path, 0.0) + weight * matrix
    for order in itertools.permutations(range(3)):
        found = lnp.weighted_adapter([given[k] for k in order], [weights[k] for k in order], "cat")
        assert_same(dict(sorted(updates(found.model).items())), dict(sorted(expected.items())))
        assert found.error < 1e-14
        assert {node.A.shape[1] for node in adapted_nodes(found.model).values()} == {8}


@pytest.mark.parametrize("kind", ["svd", "magnitude_prune_svd", "dare_linear_svd"])
def test_full_rank_reproduces_any_update(kind):
    given, weights = lora_models(r=6), [0.7, -1.0, 2.0]  # 18, more than 12
    exact = lnp.weighted_adapter(given, weights, "cat").model
    found = lnp.weighted_adapter(given, weights, svd_rank=12, **options_of(kind, 1.0))
    assert_same(updates(found.model), updates(exact))
    assert found.error < 1e-13
    larger = lnp.weighted_adapter(given, weights, svd_rank=15, **options_of(kind, 1.0))  # than any map: zeros
    assert_same(updates(larger.model), updates(exact))


@pytest.mark.parametrize("kind", TYPES)
def test_the_error_is_that_of_the_dense_update(kind):
    given, weights = lora_models(count=2), [0.7, -1.3]
    exact = updates(lnp.weighted_adapter(given, weights, "cat").model)
    found = lnp.weighted_adapter(given, weights, **options_of(kind))
    off, of_all = 0.0, 0.0
    for path, matrix in updates(found.model).items():
        lost = np.linalg.norm(matrix - exact[path]) / np.linalg.norm(exact[path])
        assert abs(lost - found.errors[path]) < 1e-12
        off, of_all = off + np.sum((matrix - exact[path]) ** 2), of_all + np.sum(exact[path] ** 2)
        if kind == "svd":
            s = np.linalg.svd(exact[path], compute_uv=False)
            assert abs(lost - np.sqrt(np.sum(s[3:] ** 2) / np.sum(s**2))) < 1e-12
    assert abs(found.error - np.sqrt(off / of_all)) < 1e-12
    assert found.error < 1e-14 if kind == "cat" else found.error > 0.1


def test_nothing_is_reproduced_without_an_error_or_with_an_infinite_one():
    base = freeze(tiny.build("bert"))
    config = lnp.LoRAConfig(r=2, target_modules=["query"])
    start = lnp.inject(base, config, np.random.default_rng(0))  # B is zero
    for kind in ("cat", "svd", "linear"):
        found = lnp.weighted_adapter([start, start], [1.0, 1.0], kind)
        assert found.error == 0.0 and set(found.errors.values()) == {0.0}
    full = moved(start, 0)
    without_A = with_arrays(full, {k: 0 * a for k, a in lnp.parameters(full).items() if k.endswith("query.A")})
    assert lnp.weighted_adapter([start, without_A], [1.0, 1.0], "linear").error == np.inf  # cross terms alone


def test_cross_terms_of_linear_are_as_large_as_the_sum():
    base = freeze(tiny.build("bert"))
    start = lnp.inject(base, lnp.LoRAConfig(r=2, target_modules="all-linear"), np.random.default_rng(0))
    unlike = [moved(start, k) for k in range(4)]
    for seed, model in enumerate(unlike):
        for name, array in lnp.parameters(model, trainable_only=True).items():
            if name.endswith(".A"):
                array[...] = np.random.default_rng([seed, *name.encode()]).standard_normal(array.shape)
    for count in (2, 3, 4):
        error = lnp.weighted_adapter(unlike[:count], [1.0] * count, "linear").error
        assert abs(error / np.sqrt(count - 1) - 1) < 0.3
    alike = [moved(lnp.freeze(start, "*.A"), k) for k in range(3)]  # one A, and A B is 3 dW
    exact = updates(lnp.weighted_adapter(alike, [0.5] * 3, "cat").model)
    found = lnp.weighted_adapter(alike, [0.5] * 3, "linear")
    assert_same(updates(found.model), {path: 3 * matrix for path, matrix in exact.items()})
    assert abs(found.error - 2) < 1e-12


def test_dare_keeps_the_expectation():
    """Over 4000 draws of a matrix: the mean is the matrix, the variance is T^2 (1 - p) / p, all else is 0."""
    rng, p, T = np.random.default_rng(0), 0.3, np.array([[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]])
    drawn = np.stack([combine.drawn(T, p, rng) for _ in range(4000)])
    assert set(np.unique(np.round(drawn / T, 12))) == {0.0, np.round(1 / p, 12)}
    sigma = np.abs(T) * np.sqrt((1 - p) / p)
    assert (np.abs(drawn.mean(axis=0) - T) < 5 * sigma / np.sqrt(4000)).all()
    assert np.allclose(drawn.std(axis=0), sigma, rtol=0.1)
    assert combine.drawn(T, 1, None) is T
    given = lora_models(count=2, target_modules=["value"])
    options = {"combination_type": "dare_linear_svd", "density": 0.5, "svd_rank": 12}
    exact = updates(lnp.weighted_adapter(given, [1.0, -0.5], "cat").model)
    rng = np.random.default_rng(1)
    many = [updates(lnp.weighted_adapter(given, [1.0, -0.5], **options, rng=rng).model) for _ in range(40)]
    for path, matrix in exact.items():  # the mean of 40, each of which is off by about its own size
        mean = sum(one[path] for one in many) / len(many)
        assert np.linalg.norm(mean - matrix) < 0.35 * np.linalg.norm(matrix)
        assert np.linalg.norm(many[0][path] - matrix) > 0.5 * np.linalg.norm(matrix)


def test_an_svd_never_sees_more_than_the_factors(monkeypatch):
    base, seen, svd = freeze(tiny.build("bert")), [], np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda M, **options: seen.append(M.shape) or svd(M, **options))
    given = lora_models(base, count=2, target_modules=["query", "intermediate.dense"], r=2)
    lnp.weighted_adapter(given, [1.0, 2.0])
    assert set(seen) == {(4, 4)}
    seen.clear()
    lnp.weighted_adapter(given, [1.0, 2.0], "ties_svd", density=0.5)
    assert set(seen) == {(12, 12), (12, 20)}


def test_of_the_largest_entries_exactly_the_density_is_kept():
    T = np.array([[3.0, -5.0, 1.0, 0.5], [2.0, -2.0, 4.0, -0.1]])
    kept = combine.largest_kept(T, 0.5)
    assert kept.tolist() == [[3.0, -5.0, 0.0, 0.0], [2.0, 0.0, 4.0, 0.0]]  # of equal ones the first
    assert not combine.largest_kept(T, 0).any() and combine.largest_kept(T, 1) is T


def test_an_election_by_hand():
    T = [np.array([1.0, -3.0, 2.0, 0.0]), np.array([2.0, 1.0, -2.0, 0.0]), np.array([-9.0, 1.0, 9.0, 0.0])]
    weights = [1.0, 10.0, 100.0]
    # sums: -6, -1, 9, 0; those of the sign: third | first | first and third | none
    assert combine.elected(T, weights, "total").tolist() == [-900.0, -3.0, (2 + 900) / 2, 0.0]
    # signs: ++-, -++, +-+
    assert combine.elected(T, weights, "frequency").tolist() == [(1 + 20) / 2, (10 + 100) / 2, (2 + 900) / 2, 0.0]
    assert combine.elected(T, [1.0, 10.0, 0.0], "total").tolist() == [(1 + 20) / 2, -3.0, 2.0, 0.0]


# ---- what comes out


def test_numbers_of_numpy_are_taken():
    given = lora_models(count=2)
    options = {"density": np.float32(0.5), "svd_rank": np.int64(2), "svd_clamp": np.float32(0.99)}
    model, _, _ = lnp.weighted_adapter(given, np.array([1, 2]), "ties_svd", **options)
    assert type(model.adapter.r) is int and type(model.layer[0].attention.query.scale) is float


def test_it_is_an_ordinary_adapter(tmp_path):
    base = freeze(tiny.build("bert", np.float32))
    adapters = several_on(base, {f"a{k}": lnp.LoRAConfig(r=2, lora_alpha=3, use_rslora=True) for k in range(2)})
    before = {name: [a.tobytes() for a in lnp.parameters(model).values()] for name, model in adapters.items()}
    found = adapters.add_weighted_adapter(["a0", "a1"], [1.0, np.float32(0.5)], "both", "cat")
    model = adapters["both"]
    assert found.model is model and isinstance(found.error, float) and found.error < 1e-6
    assert all(node.A.dtype == node.B.dtype == np.float32 for node in adapted_nodes(model).values())
    assert model.adapter == dataclasses.replace(model.adapter, r=4, lora_alpha=4, use_rslora=False)
    assert set(adapters.nbytes()) == {"__base__", "a0", "a1", "both"}
    lnp.save_adapter(model, tmp_path)
    again = lnp.load_adapter(base, tmp_path)
    assert [a.tobytes() for a in lnp.parameters(again).values()] == [
        a.tobytes() for a in lnp.parameters(model).values()
    ]
    output, cache = model.forward(tiny.batch("bert"))
    lnp.AdamW(lnp.parameters(model, trainable_only=True), lr=0.1).step(model.backward(output, cache))
    assert {n: [a.tobytes() for a in lnp.parameters(adapters[n]).values()] for n in ("a0", "a1")} == before
    with pytest.raises(ValueError, match="an adapter 'both' already"):
        adapters.add_weighted_adapter(["a0", "a1"], [1.0, 0.5], "both")


def test_a_merged_sum_is_the_sum_of_the_merged():
    base = freeze(tiny.build("gpt"))
    given = lora_models(base, count=2, target_modules=["c_attn", "mlp.c_proj"], fan_in_fan_out=True)
    merged = lnp.parameters(lnp.merge(lnp.weighted_adapter(given, [1, 1], "cat").model))
    parts = [lnp.parameters(lnp.merge(model)) for model in given]
    for path, W in lnp.parameters(base).items():
        assert np.allclose(merged[path], parts[0][path] + parts[1][path] - W, rtol=0, atol=1e-12)


def test_a_compressed_base_is_kept_as_it_is():
    base = lnp.compress_model(freeze(tiny.build("bert")), "int8")
    found = lnp.weighted_adapter(lora_models(base, count=2), [1.0, 2.0], "cat").model
    assert found.layer[0].attention.query.W is base.layer[0].attention.query.W


def test_what_one_trained_whole_is_taken_along_and_of_two_refused():
    base = freeze(tiny.build("bert pooler"))
    plain, other = lora_models(base, count=2)
    head, second = lora_models(base, count=2, task_type="SEQ_CLS", target_modules=["query", "value"])
    found = lnp.weighted_adapter([plain, head], [2.0, 1.0], "cat").model
    classifier = found.head.classifier
    assert np.array_equal(classifier.W, head.head.classifier.W) and classifier.W is not head.head.classifier.W
    assert classifier.trainable == ("W", "b") and found.adapter.task_type == "SEQ_CLS"
    assert found.head.pooler.W is base.head.pooler.W
    held = lnp.weighted_adapter([plain, freeze(head)], [2.0, 1.0], "cat").model  # and not trained any more
    assert np.array_equal(held.head.classifier.W, classifier.W) and not held.head.classifier.trainable
    with pytest.raises(ValueError, match="adapters 0 and 2 of the list both trained head.classifier whole"):
        lnp.weighted_adapter([head, plain, second], [1.0, 1.0, 1.0], "cat")
    bare = freeze(tiny.build("bert"))
    mine = lnp.with_head(bare, labels=3, rng=np.random.default_rng(0))
    without, own = lora_models(bare, count=1)[0], lora_models(mine, count=1)[0]
    for pair in ([without, own], [own, without]):
        found = lnp.weighted_adapter(pair, [1.0, 0.5], "svd").model
        assert np.array_equal(found.head.classifier.W, own.head.classifier.W)
        assert found.forward(tiny.batch("bert"))[0].shape[1] == 3
    W = dataclasses.replace(
        lnp.LoRAConfig(r=2, target_modules=["query"]), modules_to_save=["layer.0.attention.self.value"]
    )
    whole = moved(lnp.inject(bare, W, np.random.default_rng(0)), 0)
    over = lora_models(bare, count=1, target_modules=["value"])[0]
    with pytest.raises(ValueError, match=r"0 .* trained layer.0.attention.value whole, and 1 .* adapts it"):
        lnp.weighted_adapter([whole, over], [1.0, 1.0], "cat")


def test_what_one_trained_whole_is_saved_with_the_sum(tmp_path):
    base = freeze(tiny.build("bert"))
    plain, whole = lora_models(base, count=1)[0], lora_models(base, count=1, modules_to_save=["word_embeddings"])[0]
    found = lnp.weighted_adapter([plain, whole], [1.0, 1.0], "svd").model
    lnp.save_adapter(found, tmp_path)
    again = lnp.load_adapter(base, tmp_path)
    assert np.array_equal(again.embeddings.word.table, whole.embeddings.word.table)
    assert again.adapter.modules_to_save == ["embeddings.word_embeddings"] and again.embeddings.word.trainable


def test_what_lies_aside_is_summed_too(tmp_path):
    """The pooler of a BERT without a head is adapted by PEFT's "all-linear", and by ours in its file."""
    with_pooler = freeze(tiny.build("bert pooler"))
    base = dataclasses.replace(with_pooler, head=None, hf_prefix="", aside={"pooler": with_pooler.head.pooler})
    given = []
    for k, lora in enumerate(lora_models(with_pooler, count=2, r=2, target_modules=["query", "pooler.dense"])):
        lnp.save_adapter(lora, tmp_path / str(k))
        path = tmp_path / str(k) / "adapter_model.safetensors"
        save_file(load_file(path), path, {"format": "pt"})  # as PEFT does, without a word on the base
        given.append(lnp.load_adapter(base, tmp_path / str(k)))
    assert all(type(model.aside["pooler"]) is not type(base.aside["pooler"]) for model in given)
    model, error, errors = lnp.weighted_adapter(given, [0.7, -0.4], "cat")
    right = 0.7 * update(given[0].aside["pooler"]) - 0.4 * update(given[1].aside["pooler"])
    assert (
        np.allclose(update(model.aside["pooler"]), right, rtol=0, atol=1e-12) and error < 1e-14 and "pooler" in errors
    )
    lnp.save_adapter(model, tmp_path)
    again = lnp.load_adapter(base, tmp_path)
    assert np.array_equal(again.aside["pooler"].A, model.aside["pooler"].A)
    assert type(base.aside["pooler"]) is type(with_pooler.head.pooler)


def test_bad_input_is_named():
    base = freeze(tiny.build("bert"))
    given = lora_models(base, count=2)
    ok = {"models": given, "weights": [1.0, 1.0]}
    pissa = lnp.inject(base, lnp.LoRAConfig(r=2, init_lora_weights="pissa"))
    broken = lora_models(base, count=1)[0]
    broken.layer[0].attention.query.A[0, 0] = np.nan
    for change, words in (
        ({"combination_type": "mean"}, "combination_type must be one of cat, linear, svd, .*'mean'"),
        ({"combination_type": "linear_svd"}, "combination_type must be one of"),
        ({"svd_driver": "gesvd"}, "svd_driver = 'gesvd' chooses a routine of a GPU"),
        ({"svd_rank": 0}, "svd_rank must be a positive integer or None, but it is 0"),
        ({"svd_clamp": 99}, "svd_clamp is a quantile, .*99"),
        ({"svd_clamp": 0.01}, "svd_clamp = 0.01 of the entries are below -"),
        ({"combination_type": "ties"}, "ties keeps a share of the entries: density .* from 0 to 1, but it is None"),
        ({"combination_type": "ties", "density": 1.5}, "but it is 1.5"),
        ({"combination_type": "dare_ties", "density": 0.0, "rng": np.random.default_rng(0)}, "above 0 to 1"),
        ({"combination_type": "dare_linear", "density": 0.5}, "give rng=numpy.random.default_rng"),
        ({"combination_type": "ties", "density": 0.5, "majority_sign_method": "mean"}, "'total' or 'frequency'"),
        ({"weights": [1.0]}, "a weight for each adapter, but there are 2 and 1"),
        ({"weights": [1.0, np.nan]}, "a finite number, but one is nan"),
        ({"weights": [1.0, "2"]}, "a finite number, but one is '2'"),
        ({"weights": [0.0, 0.0]}, "all weights are 0"),
        ({"weights": 1.0}, "must be lists, but they are .* and 1.0"),
        ({"models": given[0]}, "must be lists, but they are Transformer"),
        ({"models": [given[0], "films"]}, "number 1 of the list has 'films'"),
        ({"models": [], "weights": []}, "there are 0 and 0"),
        ({"models": [given[0], base]}, "of plain LoRA adapters, but number 1 of the list has"),
        ({"models": [given[0], lnp.inject(base, lnp.IA3Config())]}, "number 1 of the list has IA3"),
        ({"models": [lnp.inject(base, lnp.DoRAConfig(r=2), np.random.default_rng(0)), given[0]]}, "0 .* DoRALinear"),
        (
            {"models": [given[0], pissa]},
            r"1 .* ShiftedLoRALinear at .*; lora_np.adapt.starts.to_plain\(model\) is plain",
        ),
        ({"models": [given[0], broken], "combination_type": "ties", "density": 0.5}, "of number 1 .* holds NaN or inf"),
        (
            {"models": [given[0], lora_models(freeze(tiny.jitter(base, 3)), count=1)[0]]},
            "stand on different bases: emb",
        ),
        ({"models": [given[0], lora_models(freeze(tiny.build("gpt")), 1, target_modules=["c_attn"])[0]]}, "differ"),
        (
            {"models": [given[0], lora_models(base, count=1, r=2)[0]], "combination_type": "linear"},
            "ranks .* 2, 3, but",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            lnp.weighted_adapter(**{**ok, **change})
    adapters = several_on(base, {"films": lnp.LoRAConfig(r=2)})
    for odd in ("films", None):
        with pytest.raises(ValueError, match=f"adapters must be a list of names, but it is {odd!r}"):
            adapters.add_weighted_adapter(odd, [1.0], "new")
    with pytest.raises(ValueError, match="no adapter 'filsm'"):
        adapters.add_weighted_adapter(["filsm"], [1.0], "new")
    assert list(adapters) == ["films"]


def test_example():
    found = doctest.testmod(combine)
    assert found.failed == 0 < found.attempted
