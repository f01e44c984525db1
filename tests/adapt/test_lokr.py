"""LoKr: what `check_method` cannot know of it. Its gradients and files are proven there, and in the references."""

import itertools
import json

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

import lora_np as lnp
from lora_np.adapt.lokr import TRAINED, lokr_linear_backward, lokr_linear_forward, shapes, split
from lora_np.adapt.methods import adapted_nodes
from lora_np.model.nodes import Linear

FORMS = list(itertools.product(("C1", "A1 B1"), ("C2", "A2 B2")))  # what either factor is
SIZES = {"C1": (3, 2), "A1": (3, 2), "B1": (2, 2), "C2": (2, 5), "A2": (2, 2), "B2": (2, 5)}  # 6 x 10, r = 2
MASK = np.array([0.0, 1.6, 1.6, 0.0, 1.6, 1.6, 1.6, 0.0, 1.6, 1.6])
NONE = dict.fromkeys(TRAINED)


def drawn(form, dtype=np.float64):
    """Return x, and what a LoKr's forward is given beside it, with nothing that happens to be 0 or 1."""
    rng = np.random.default_rng(0)
    given = {"x": (7, 6), "W": (6, 10), "b": (10,)} | {name: SIZES[name] for name in " ".join(form).split()}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in given.items()}


def kron(given):
    """Return the dense update, from the definition, entry by entry."""
    C1, C2 = (given[C] if C in given else given[A] @ given[B] for C, A, B in (("C1", "A1", "B1"), ("C2", "A2", "B2")))
    (n, q), update = C2.shape, np.zeros((6, 10))
    for j, i in itertools.product(range(6), range(10)):
        update[j, i] = C1[j // n, i // q] * C2[j % n, i % q]
    return update


# ---- the mathematics


@pytest.mark.parametrize("mask", [MASK, None], ids=["mask", "no mask"])
@pytest.mark.parametrize("form", FORMS, ids=" ".join)
def test_every_gradient(form, mask):
    given = drawn(form)
    inputs = {name: given[name] for name in ("x", *TRAINED) if name in given}
    fixed = {name: None for name in TRAINED if name not in given}
    fixed |= {"W": given["W"], "b": given["b"], "scale": 1.7, "mask": mask}

    def backward(dy, cache):
        return tuple(gradient for gradient in lokr_linear_backward(dy, cache) if gradient is not None)

    report = lnp.gradcheck.check(lokr_linear_forward, backward, inputs, fixed)
    assert report.ok and len(report.rows) >= len(inputs), report


@pytest.mark.parametrize("form", FORMS, ids=" ".join)
def test_it_is_the_kronecker_product_which_is_never_formed(form):
    given = drawn(form)
    y, cache = lokr_linear_forward(**NONE | given, scale=1.7, mask=MASK)
    right = given["x"] @ (given["W"] + 1.7 * kron(given) * MASK) + given["b"]
    assert np.allclose(y, right, rtol=1e-13, atol=1e-13)
    large = [array for array in cache if np.shape(array) == given["W"].shape]
    assert len(large) == 1 and large[0] is given["W"]


@pytest.mark.parametrize("form", FORMS, ids=" ".join)
def test_a_gradient_that_is_not_asked_for_is_not_computed(form):
    given = drawn(form)
    y, cache = lokr_linear_forward(**NONE | given, scale=1.7, mask=MASK)
    everything = dict(zip(("x", *TRAINED), lokr_linear_backward(np.cos(y), cache)))
    assert {name for name, gradient in everything.items() if gradient is not None} == {"x", *TRAINED} & given.keys()
    for wanted in itertools.chain.from_iterable(itertools.combinations(everything, k) for k in range(8)):
        found = dict(zip(everything, lokr_linear_backward(np.cos(y), cache, wanted)))
        assert {name for name, gradient in found.items() if gradient is not None} == set(wanted) & given.keys()
        assert all(np.array_equal(found[name], everything[name]) for name in wanted if name in given)


def test_the_rank_of_a_kronecker_product_is_the_product_of_the_ranks():
    rng = np.random.default_rng(0)
    C1, C2 = rng.standard_normal((4, 4)), rng.standard_normal((6, 2)) @ rng.standard_normal((2, 6))
    assert np.linalg.matrix_rank(np.kron(C1, C2)) == 4 * 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_kept(dtype):
    config = lnp.LoKrConfig(r=2, rank_dropout=0.5, decompose_factor=6, decompose_both=True)
    model = lnp.inject(tiny.build("bert", dtype), config, np.random.default_rng(0))
    output, cache = model.forward(tiny.batch("bert"), np.random.default_rng(1))
    grads = model.backward(np.ones_like(output), cache)
    assert {array.dtype for array in (output, *grads.values(), *lnp.parameters(model).values())} == {np.dtype(dtype)}


# ---- the sizes


@pytest.mark.parametrize(
    ("size", "factor", "pair"),
    [
        (384, -1, (16, 24)), (384, 8, (8, 48)), (384, 5, (4, 96)), (384, 384, (384, 1)), (384, 20, (16, 24)),
        (12, 4, (4, 3)), (12, 5, (3, 4)), (7, -1, (1, 7)), (7, 3, (1, 7)), (16, -1, (4, 4)), (1, -1, (1, 1)),
        (1, 3, (1, 1)), (20, 1, (1, 20)),
    ],
)  # fmt: skip
def test_a_size_is_split(size, factor, pair):
    assert split(size, factor) == pair and pair[0] * pair[1] == size


def test_sizes_are_split_as_peft_splits_them():
    pytest.importorskip("peft", reason="compares with PEFT, where it is installed", exc_type=ImportError)
    from peft.tuners.lokr.layer import factorization

    for size in range(1, 200):
        for factor in (-1, *range(1, size + 3)):
            assert split(size, factor) == factorization(size, factor), (size, factor)


@pytest.mark.parametrize(
    ("sizes", "options", "fields"),
    [
        ((384, 384), {"r": 8, "decompose_factor": 8}, {"C1": (8, 8), "A2": (48, 8), "B2": (8, 48)}),
        ((384, 1536), {"r": 8}, {"C1": (16, 32), "A2": (24, 8), "B2": (8, 48)}),
        ((384, 384), {"r": 12}, {"C1": (16, 16), "C2": (24, 24)}),  # 12 is half of 24
        ((384, 384), {"r": 11}, {"C1": (16, 16), "A2": (24, 11), "B2": (11, 24)}),
        ((384, 384), {"r": 8, "decompose_both": True}, {"C1": (16, 16), "A2": (24, 8), "B2": (8, 24)}),  # half of 16
        ((384, 384), {"r": 7, "decompose_both": True}, {"A1": (16, 7), "B1": (7, 16), "A2": (24, 7), "B2": (7, 24)}),
        ((384, 384), {"decompose_both": True, "decompose_factor": 64}, {"A1": (64, 8), "B1": (8, 64), "C2": (6, 6)}),
    ],
)
def test_what_a_node_has_depends_on_its_sizes(sizes, options, fields):
    config = lnp.LoKrConfig(**options)
    assert shapes(*sizes, config) == fields
    base = Linear(np.ones(sizes, np.float32), None)
    node = lnp.adapt.lokr.LOKR.replace("a", base, config, np.random.default_rng(0))
    assert node.trainable == tuple(fields) and {name: getattr(node, name).shape for name in fields} == fields
    assert all(getattr(node, name) is None for name in TRAINED if name not in fields)


def test_all_forms_in_one_model_go_to_a_file_and_back(tmp_path):
    config = lnp.LoKrConfig(
        r=2, decompose_both=True, decompose_factor=6, target_modules="all-linear", rank_pattern={"key": 3, "value": 1}
    )
    base = tiny.build("bert", np.float32)
    model = lnp.inject(base, config, np.random.default_rng(0))
    forms = {node.trainable for node in adapted_nodes(model).values()}
    assert forms == {("C1", "C2"), ("A1", "B1", "C2"), ("A1", "B1", "A2", "B2")}
    assert lnp.check_model(model, tiny.batch("bert")).ok
    lnp.save_adapter(model, tmp_path)
    again = lnp.load_adapter(base, tmp_path)
    old, new = (lnp.parameters(one) for one in (model, again))
    assert old.keys() == new.keys() and all(np.array_equal(old[name], new[name]) for name in old)
    assert {node.trainable for node in adapted_nodes(again).values()} == forms


# ---- the start


@pytest.mark.parametrize(("way", "zero"), [(True, {"C1", "B1"}), ("lycoris", {"C2", "A2"}), (False, set())])
@pytest.mark.parametrize("options", [{"r": 3}, {"r": 2, "decompose_both": True, "decompose_factor": 6}])
def test_what_is_zero_at_the_start_alone_moves_at_first(way, zero, options, tmp_path):
    config, base = lnp.LoKrConfig(init_weights=way, target_modules="all-linear", **options), tiny.build("bert")
    model = lnp.inject(base, config, np.random.default_rng(0))
    largest = {}
    for node in adapted_nodes(model).values():
        for name in node.trainable:
            array = getattr(node, name)
            bound = 0 if name in zero else 1 / np.sqrt(len(array))  # U(-bound, bound), the inputs being the rows
            assert abs(array).max() <= bound and (array.all() or name in zero)
            largest[name] = max(largest.get(name, 0), abs(array).max() / (bound or 1))
    assert all(share == 0 if name in zero else share > 0.9 for name, share in largest.items()), largest
    output, cache = model.forward(tiny.batch("bert"))
    assert np.array_equal(output, base.forward(tiny.batch("bert"))[0]) == (way is not False)
    grads = model.backward(np.cos(output), cache)
    assert all(gradient.any() == (way is False or name[-2:] in zero) for name, gradient in grads.items())
    lnp.save_adapter(model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["init_weights"] == way
    assert lnp.load_adapter(base, tmp_path).adapter.init_weights == way


# ---- dropout


@pytest.mark.parametrize("divided", [True, False])
def test_what_rank_dropout_leaves_is_divided_by_its_share_if_asked_for(divided):
    rng = np.random.default_rng(0)
    x, linear = rng.standard_normal((5, 12)), Linear(rng.standard_normal((12, 20)), None)
    config = lnp.LoKrConfig(r=1, rank_dropout=0.4, rank_dropout_scale=divided, init_weights=False)
    node = lnp.adapt.lokr.LOKR.replace("a", linear, config, rng)
    plain, whole, dropped = (one.forward(x, draws)[0] for one, draws in ((linear, rng), (node, None), (node, rng)))
    ratio = ((dropped - plain) / (whole - plain)).mean(axis=0)
    share = np.count_nonzero(np.abs(ratio) > 1e-9) / 20
    assert 0.2 < share < 0.9 and np.allclose(ratio[np.abs(ratio) > 1e-9], 1 / share if divided else 1.0)


@pytest.mark.filterwarnings("ignore")  # theirs, among themselves
@pytest.mark.parametrize("divided", [True, False])
@pytest.mark.parametrize("coin", [0.9, 0.1], ids=["kept", "left out"])
def test_both_dropouts_are_those_of_peft(coin, divided, monkeypatch):
    """Its layer in training, with our random numbers in the place of its own."""
    peft = pytest.importorskip("peft", reason="compares with PEFT, where it is installed", exc_type=ImportError)
    import torch
    from peft.tuners.lokr.layer import Linear as Theirs

    rng = np.random.default_rng(2)
    x, W, b = (rng.standard_normal(shape) for shape in ((5, 12), (12, 20), 20))
    uniform = rng.random(20)
    options = {"r": 1, "alpha": 3, "rank_dropout": 0.4, "module_dropout": 0.3, "rank_dropout_scale": divided}
    config = peft.LoKrConfig(**options)
    linear = torch.nn.Linear(12, 20).double()
    theirs = Theirs(linear, "default", config, r=1, alpha=3).double().train()
    node = lnp.adapt.lokr.LOKR.replace("a", Linear(W, b), lnp.LoKrConfig(**options), rng)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(W.T))
        linear.bias.copy_(torch.tensor(b))
        for name, (theirs_, _) in lnp.adapt.methods.tensors_of(node).items():
            array = getattr(node, name)
            array[...] = rng.standard_normal(array.shape)
            getattr(theirs, theirs_)["default"].copy_(torch.tensor(array.T))
    monkeypatch.setattr(torch, "rand", lambda n: torch.tensor([coin] if n == 1 else uniform))
    y = theirs(torch.tensor(x)).detach().numpy()

    class Generator(np.random.Generator):
        def random(self, size=None, dtype=None):
            return coin if size is None else uniform

    ours, _ = node.forward(x, Generator(np.random.PCG64()))
    tolerance = 1e-6 if divided else 1e-12  # PEFT divides in float32
    assert np.allclose(ours, y, rtol=tolerance, atol=tolerance)
    plain, _ = Linear(W, b).forward(x)
    assert np.array_equal(ours, plain) == (coin < 0.3)


# ---- the count, and what is refused


def test_the_count_of_minilm():
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 8}
    base = lnp.bert({**tiny.BERT, **sizes}, rng=np.random.default_rng(0), dtype=np.float32)
    base = lnp.with_head(base, labels=2, pooling="mean", rng=np.random.default_rng(1))  # 770 numbers
    config = lnp.LoKrConfig(r=8, decompose_factor=8, target_modules=["query", "value"], task_type="SEQ_CLS")
    assert lnp.count_parameters(lnp.inject(base, config, np.random.default_rng(0))).trainable == 10_754
    assert 12 * sum(np.prod(shape) for shape in shapes(384, 384, config).values()) + 770 == 10_754


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"use_effective_conv2d": True}, "use_effective_conv2d = True is not supported here, only False is"),
        ({"peft_type": "LOHA"}, "peft_type = 'LOHA' is not supported here, only 'LOKR' is"),
        ({"layers_pattern": "layer"}, "layers_pattern = 'layer' is not supported here"),
        ({"init_weights": "pissa"}, "init_weights must be true, false or 'lycoris', but it is 'pissa'"),
        ({"decompose_factor": 0}, "decompose_factor must be a positive integer, or -1, but it is 0"),
        ({"decompose_factor": -2}, "decompose_factor must be a positive integer, or -1, but it is -2"),
        ({"decompose_both": 1}, "decompose_both must be true or false, but it is 1"),
        ({"rank_dropout_scale": None}, "rank_dropout_scale must be true or false, but it is None"),
        ({"alpha": "8"}, "alpha must be a positive number, but it is '8'"),
        ({"module_dropout": 1}, "module_dropout must be a number from 0 to below 1, but it is 1"),
    ],
)
def test_an_option_without_meaning_here_is_refused_by_name(option, sentence):
    with pytest.raises(ValueError, match=sentence):
        lnp.LoKrConfig(**option)


def test_in_a_file_too(tmp_path):
    base = tiny.build("bert")
    lnp.save_adapter(lnp.inject(base, lnp.LoKrConfig(r=2), np.random.default_rng(0)), tmp_path)
    path = tmp_path / "adapter_config.json"
    settings = json.loads(path.read_text())
    assert settings["peft_type"] == "LOKR" and not {"bias", "fan_in_fan_out"} & settings.keys()
    wrong = {"use_effective_conv2d": True, "lora_alpha": 4, "use_dora": True, "decompose_factor": 0}
    for name, value in wrong.items():
        path.write_text(json.dumps({**settings, name: value}))
        with pytest.raises(ValueError, match=f"{name} = {value}"):
            lnp.load_adapter(base, tmp_path)
    save_file(load_file(tmp_path / "adapter_model.safetensors"), tmp_path / "adapter_model.safetensors")  # as theirs is
    path.write_text(json.dumps({**settings, "decompose_factor": 2}))
    with pytest.raises(ValueError, match=r"lokr_w1 in .* is \(3, 3\) .* asks for \(2, 2\)"):
        lnp.load_adapter(base, tmp_path)
    path.write_text(json.dumps({**settings, "r": 1}))
    with pytest.raises(ValueError, match="lacks the tensor .*lokr_w2_b"):
        lnp.load_adapter(base, tmp_path)


def test_a_missing_generator_is_named():
    with pytest.raises(ValueError, match="needs a generator, .* given None"):
        lnp.inject(tiny.build("bert"), lnp.LoKrConfig(), None)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"C1": None}, "lokr_linear needs C1, or A1 and B1 in its place"),
        ({"A2": np.ones((2, 2)), "B2": np.ones((2, 5))}, "lokr_linear needs C2, or A2 and B2 in its place"),
        ({"A2": np.ones((2, 2))}, "lokr_linear needs C2, or A2 and B2 in its place"),
        ({"C2": None, "A2": np.ones((2, 2))}, "lokr_linear needs C2, or A2 and B2 in its place"),
        ({"C2": np.ones((5, 2))}, r"W \(6, 10\), but it was given \(3, 2\) and \(5, 2\), .* is \(15, 4\)"),
        ({"x": np.ones((7, 5))}, r"lokr_linear needs .* but it was given x \(7, 5\)"),
        ({"mask": np.ones(6)}, r"mask \(6,\)"),
        ({"scale": "1"}, "scale must be one real number"),
    ],
)
def test_bad_input_is_told_by_name(change, sentence):
    given = NONE | drawn(("C1", "C2")) | {"scale": 1.0, "mask": None}
    y, cache = lokr_linear_forward(**given)
    with pytest.raises(ValueError, match=sentence):
        lokr_linear_forward(**given | change)
    with pytest.raises(ValueError, match="lokr_linear_backward needs dy"):
        lokr_linear_backward(y[:, 1:], cache)
