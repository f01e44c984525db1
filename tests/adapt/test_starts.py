"""LoRA's starts beside what tests of all methods say of them: PEFT's numbers and laws, files, EVA's and LoftQ's own."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from adapt.test_methods import batch_for, content, frozen, nodes_of, outputs
from safetensors.numpy import load_file

import lora_np as lnp
from lora_np.adapt import lora, starts
from lora_np.adapt.compressed import compressed
from lora_np.adapt.lora import LoRALinear
from lora_np.adapt.methods import adapted_nodes
from lora_np.adapt.starts import (
    ShiftedLoRALinear,
    random_svd,
    shifted_lora_linear_backward,
    shifted_lora_linear_forward,
)
from lora_np.files.safetensors import read_safetensors, write_safetensors
from lora_np.gradcheck import check
from lora_np.model.nodes import Linear
from lora_np.model.tree import with_arrays
from lora_np.train.checkpoints import load_checkpoint, save_checkpoint
from lora_np.train.loop import Plan, Training

rng = np.random.default_rng
FOLDER = Path(__file__).parents[1] / "reference"
ALL = ["query", "key", "value", "intermediate.dense", "layer.1.output.dense"]
EVA = {
    "moved": {
        "r": 2,
        "lora_alpha": 5,
        "target_modules": ALL,
        "rank_pattern": {"value": 1},
        "alpha_pattern": {"intermediate.dense": 7},
        "eva_config": {"rho": 3.7},
    },
    "whitened": {
        "r": 2,
        "lora_alpha": 3,
        "use_rslora": True,
        "target_modules": ["query", "intermediate.dense"],
        "eva_config": {"rho": 2.0, "tau": 0.8, "whiten": True, "adjust_scaling_factors": False},
    },
}
SIZES = ("7x5", "5x8", "6x6")
OUT_OF_W = ("pissa", "pissa_niter_2", "olora")


def parts(inputs):
    """Return stored sequences in three batches."""
    ends = [0, *np.cumsum(inputs["lengths"])]
    for first in (0, 2, 4):
        rows = slice(ends[first], ends[first + 2])
        lengths = inputs["lengths"][first : first + 2]
        yield {"lengths": lengths, "ids": inputs["ids"][rows], "types": inputs["types"][rows]}


def law(array):
    """Return how large the numbers of an array are, and how large at most."""
    return np.array([math.sqrt((array**2).mean()), np.abs(array).max()])


@pytest.fixture(scope="module")
def stored():
    return load_file(FOLDER / "starts.safetensors")


def one(W, start, r=3, alpha=5, draws=None, **options):
    """Return the adapted node of a linear map with this W."""
    config = lnp.LoRAConfig(r=r, lora_alpha=alpha, init_lora_weights=start, **options)
    if isinstance(config, starts.ShiftedLoRAConfig):
        return starts.SHIFTED.replace("map", Linear(W, None), config, draws)
    return config.started("map", Linear(W, None), config, draws)


class Given:
    """Draws what it is given."""

    def __init__(self, array):
        self.array = array

    def standard_normal(self, shape):
        assert shape == self.array.shape
        return self.array


# ---- PEFT's numbers


@pytest.mark.parametrize("start", OUT_OF_W)
@pytest.mark.parametrize("size", SIZES)
def test_what_starts_out_of_W_are_the_numbers_of_peft(size, start, stored, monkeypatch):
    monkeypatch.setattr(lora, "check_generator", lambda _: None)
    W = stored[f"{size}.W"]
    node = one(W, start, draws=Given(stored[f"{size}.random"]))
    A, B, rest = (stored[f"{size}.{start}.{name}"] for name in "ABW")
    signs = np.sign((A * node.A).sum(axis=0))  # of singular vectors
    assert np.abs(node.A * signs - A).max() < 1e-12 and np.abs(node.B * signs[:, None] - B).max() < 1e-12
    assert np.abs(W - node.scale * node.A0 @ node.B0 - rest).max() < 1e-12
    assert np.array_equal(node.A, node.A0) and np.array_equal(node.B, node.B0)
    assert node.A.flags.writeable and not node.A0.flags.writeable and not np.shares_memory(node.A, node.A0)


@pytest.mark.parametrize("size", SIZES)
def test_what_loftq_gives_back_is_the_number_of_peft(size, stored, monkeypatch):
    """Where the scale is 1, from which PEFT takes nothing; there is no LoftQ of PEFT's without a GPU."""
    W, Q = stored[f"{size}.W"], stored[f"{size}.Q"]
    monkeypatch.setattr(starts, "compressed", lambda *_: lnp_matrix(Q))
    node = one(W, "loftq", alpha=3, loftq_config={"loftq_bits": 4, "loftq_iter": 1})
    A, B = stored[f"{size}.loftq.A"], stored[f"{size}.loftq.B"]
    signs = np.sign((A * node.A).sum(axis=0))
    assert np.abs(node.A * signs - A).max() < 1e-12 and np.abs(node.B * signs[:, None] - B).max() < 1e-12


class lnp_matrix(np.ndarray):
    def __new__(cls, array):
        return np.asarray(array).view(cls)

    def dense(self):
        return np.asarray(self)


@pytest.mark.parametrize("start", [False, "gaussian", "orthogonal"])
def test_what_is_drawn_has_the_law_of_peft(start, stored):
    """The size of 1,200 numbers and more is known to some percent, and so is the largest if there is a bound."""
    node = one(np.zeros((400, 300)), start, r=4, draws=rng(0))
    for name, array in (("A", node.A), ("B", node.B)):
        ours, theirs = law(array), stored[f"law.{start}.{name}"]
        assert np.allclose(ours, theirs, rtol=[0.1, 0.02 if start is False else 0.5]), (name, ours, theirs)
    if start is False:
        assert np.abs(node.A).max() <= 1 / 20 and np.abs(node.B).max() <= 1 / 2


def test_the_mirror_of_a_start_is_lora_s_with_the_roles_exchanged():
    W = np.zeros((400, 300))
    mirror, plain = (
        one(W, "mirrored", r=4, draws=rng(0)),
        lora.LORA.replace("", Linear(W.T, None), lnp.LoRAConfig(), rng(1)),
    )
    assert not mirror.A.any() and np.allclose(law(mirror.B), law(plain.A), rtol=0.05)


@pytest.mark.parametrize("name", EVA)
def test_eva_finds_the_directions_ranks_and_scales_of_peft(name, stored):
    base = lnp.load_pretrained(FOLDER / "bert", dtype=np.float64)
    inputs = load_file(FOLDER / "bert/reference.safetensors")
    data = [
        lnp.Batch.of(*(np.split(part[key], np.cumsum(part["lengths"])[:-1]) for key in ("ids", "types")))
        for part in parts(inputs)
    ]
    model = lnp.inject(base, lnp.LoRAConfig(init_lora_weights="eva", **EVA[name]), data=data)
    theirs = {
        key.split(".", 2)[2].removesuffix(".A"): array
        for key, array in stored.items()
        if key.startswith(f"eva.{name}") and key.endswith("A")
    }
    ours = {f"bert.{node.hf}": node for node in adapted_nodes(model).values()}
    assert ours.keys() == theirs.keys()
    for key, A in theirs.items():
        assert ours[key].A.shape == A.shape and np.abs(ours[key].A - A).max() < 1e-9, key
        assert math.isclose(ours[key].scale, stored[f"eva.{name}.{key}.scale"].item(), rel_tol=1e-12)
        assert not ours[key].B.any()
    if name == "moved":
        assert len({A.shape[1] for A in theirs.values()}) > 2, "no rank was moved"
    assert type(model.adapter) is lnp.LoRAConfig


# ---- the node


def arguments(dtype=np.float64):
    """Return arguments of a shifted LoRA off every special point."""
    draw = rng(0).standard_normal
    shapes = {"x": (7, 5), "A": (5, 2), "B": (2, 4), "W": (5, 4), "b": (4,), "A0": (5, 2), "B0": (2, 4)}
    drawn = {name: draw(shape).astype(dtype) for name, shape in shapes.items()}
    return {name: drawn.pop(name) for name in ("x", "A", "B")}, {**drawn, "scale": 0.7}


@pytest.mark.parametrize("masked", [False, True])
def test_the_gradients_are_those_of_the_function(masked):
    inputs, fixed = arguments()
    fixed["mask"] = (rng(1).random((7, 5)) < 0.6) / 0.6 if masked else None
    assert check(
        shifted_lora_linear_forward, lambda dy, cache: shifted_lora_linear_backward(dy, cache), inputs, fixed
    ).ok


def test_what_is_not_needed_is_not_computed():
    inputs, fixed = arguments()
    _, cache = shifted_lora_linear_forward(**inputs, **fixed, mask=np.full((7, 5), 2.0))
    whole = shifted_lora_linear_backward(np.ones((7, 4)), cache)
    for k, name in enumerate("xAB"):
        held = cache if name == "A" else cache._replace(z=None)
        found = shifted_lora_linear_backward(np.ones((7, 4)), held, (name,))
        assert np.array_equal(found[k], whole[k]) and all(found[j] is None for j in range(3) if j != k)


def test_dropout_leaves_what_is_frozen_alone():
    """As in PEFT, whose frozen map is W - scale * A0 B0."""
    inputs, fixed = arguments()
    mask = (rng(1).random((7, 5)) < 0.6) / 0.6
    x, A, B = inputs.values()
    rest = fixed["W"] - 0.7 * fixed["A0"] @ fixed["B0"]
    y, _ = shifted_lora_linear_forward(**inputs, **fixed, mask=mask)
    assert np.allclose(y, x @ rest + fixed["b"] + 0.7 * (x * mask) @ A @ B, rtol=1e-13)


def test_a_shape_that_does_not_fit_is_named():
    inputs, fixed = arguments()
    with pytest.raises(ValueError, match=r"shifted_lora_linear needs .* B0 \(r, d_out\), .* B0 \(2, 3\)"):
        shifted_lora_linear_forward(**inputs, **{**fixed, "B0": fixed["B0"][:, :3]})
    with pytest.raises(ValueError, match="scale must be one real number"):
        shifted_lora_linear_forward(**inputs, **{**fixed, "scale": None})
    _, cache = shifted_lora_linear_forward(**inputs, **fixed)
    with pytest.raises(ValueError, match="shifted_lora_linear_backward needs"):
        shifted_lora_linear_backward(np.ones((7, 3)), cache)


# ---- starts out of W: files, runs

PATTERNS = {"rank_pattern": {"query": 3, r"layer\.1\..*dense": 1}, "alpha_pattern": {"key": 0.1}}


def shifted(base, start="pissa", move=True, **options):
    """Return the base adapted, every trained array away from its start."""
    given = {"r": 2, "lora_alpha": 5, "target_modules": "all-linear", **options}
    model = lnp.inject(base, lnp.LoRAConfig(init_lora_weights=start, **given), rng(3))
    live = lnp.parameters(model, trainable_only=True)
    noise = {
        name: (0.2 * move * rng(4).standard_normal(array.shape)).astype(array.dtype) for name, array in live.items()
    }
    return with_arrays(model, {name: array + noise[name] for name, array in live.items()})


@pytest.mark.parametrize(
    ("start", "rslora"), [("pissa", False), ("pissa", True), ("olora", True), ("pissa_niter_2", False)]
)
def test_a_file_holds_plain_lora_of_twice_the_rank_and_gives_the_start_back(start, rslora, tmp_path):
    """Each scale to the bit, though that of twice the rank is rounded."""
    base = frozen("bert", np.float32)
    model = shifted(base, start, use_rslora=rslora, lora_alpha=1 / 3, lora_dropout=0.1, **PATTERNS)
    lnp.save_adapter(model, tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    again = lnp.load_adapter(base, tmp_path)
    assert "init_lora_weights" not in settings and settings["r"] == 4
    assert content(again) == content(model) and nodes_of(again) == nodes_of(model)
    assert again.adapter == replace(
        model.adapter, **{k: getattr(again.adapter, k) for k in ("target_modules", *PATTERNS)}
    )
    for path, node in adapted_nodes(model).items():
        A, B = (tensors[f"base_model.model.{node.hf}.lora_{name}.weight"].T for name in "AB")
        assert np.array_equal(A, np.hstack([node.A, node.A0])) and np.array_equal(B, np.vstack([node.B, -node.B0])), (
            path
        )
    (tmp_path / "plain").mkdir()
    plain = starts.to_plain(model)
    assert {type(node) for node in adapted_nodes(plain).values()} == {LoRALinear}
    lnp.save_adapter(plain, tmp_path / "plain")  # its nodes are what its configuration says
    assert np.abs(outputs(plain, "bert") - outputs(model, "bert")).max() < 1e-4


@pytest.mark.parametrize("start", OUT_OF_W)
def test_disabled_it_is_the_base_to_the_bit(start):
    """There is nothing to undo: the node's W is the base's."""
    base = frozen("bert", np.float32)
    model = shifted(base, start)
    before = lnp.parameters(base)
    assert all(node.W is before[f"{path}.W"] for path, node in adapted_nodes(model).items())
    assert all(type(node) is ShiftedLoRALinear for node in adapted_nodes(model).values())


def test_what_it_started_from_is_never_trained():
    everything = lnp.unfreeze(shifted(frozen("bert")), "all")
    assert {node.trainable for node in adapted_nodes(everything).values()} == {("A", "B")}
    with pytest.raises(ValueError, match=r"query\.A0 lies under an adapter, .* stays frozen"):
        lnp.unfreeze(everything, "layer.0.attention.query.A0")


@pytest.mark.parametrize("start", ["olora", "pissa_niter_2"])
def test_a_run_goes_on_to_the_same_bits(start, tmp_path):
    """From a checkpoint, onto the model made again; and the adapter's folder holds all that a run has."""
    base = lnp.with_head(frozen("bert", np.float32), labels=3, pooling="mean", rng=rng(1))
    config = lnp.LoRAConfig(r=2, lora_alpha=3, target_modules=["value"], init_lora_weights=start, task_type="SEQ_CLS")
    rows, labels = [rng(k).integers(0, 23, 1 + k % 6) for k in range(12)], np.arange(12) % 3

    def run():
        return Training(lnp.inject(base, config, rng(2)), rows, labels, Plan(lr=1e-2, epochs=2, batch_size=4))

    whole, half, rest = run(), run(), run()
    list(whole.steps())
    taken = half.steps()
    for _ in range(3):
        next(taken)
    save_checkpoint(half, tmp_path / "state", [])
    load_checkpoint(rest, tmp_path / "state")
    list(rest.steps())
    assert content(rest.model) == content(whole.model)
    lnp.save_adapter(half.model, tmp_path / "adapter")
    again = lnp.load_adapter(base, tmp_path / "adapter")
    held = [lnp.parameters(model, trainable_only=True) for model in (again, half.model)]
    assert content(again) == content(half.model) and list(held[0]) == list(held[1])


def test_made_plain_it_trains_no_array_of_the_other_and_what_is_frozen_stays_so():
    model = shifted(frozen("bert pooler", np.float32), modules_to_save=["classifier"])
    plain = starts.to_plain(lnp.freeze(model, "*.A"))
    trained = lnp.parameters(plain, trainable_only=True)
    assert {name.rpartition(".")[2] for name in trained} == {"B", "W", "b"}
    assert not plain.layer[0].attention.query.A.flags.writeable
    mine = {id(array) for array in lnp.parameters(model).values()}
    assert not mine & {id(array) for array in lnp.parameters(starts.to_plain(model), trainable_only=True).values()}


def test_a_run_does_not_go_on_with_another_start_scale_or_method(tmp_path):
    base = frozen("vit", np.float32)
    rows, labels = [rng(k).random((9, 8), np.float32) for k in range(4)], np.arange(4)

    def run(config):
        return Training(lnp.inject(base, config, rng(2)), rows, labels, Plan(lr=1e-2, epochs=1, batch_size=4))

    def config(start, **other):
        return lnp.LoRAConfig(**{"r": 2, "target_modules": ["value"], "init_lora_weights": start, **other})

    save_checkpoint(run(config("pissa")), tmp_path / "state", [])
    for other, words in (
        (config(True), "layer.0.attention.value was {'kind': 'ShiftedLoRALinear', .*'kind': 'LoRALinear'"),
        (config("olora"), "start was 'pissa', but here it is 'olora'; adapt the model as it was"),
        (config("pissa", lora_alpha=4), "'scale': 4.0}, but here it is .*'scale': 2.0}"),
    ):
        with pytest.raises(ValueError, match=words):
            load_checkpoint(run(other), tmp_path / "state")
    assert load_checkpoint(run(config("pissa", lora_dropout=0.1)), tmp_path / "state") == []
    tensors, metadata = read_safetensors(tmp_path / "state")
    write_safetensors(tmp_path / "state", tensors, {**metadata, "adapted": "[]"})
    with pytest.raises(ValueError, match="says of its adapter is damaged"):
        load_checkpoint(run(config("pissa")), tmp_path / "state")


def test_a_folder_of_peft_that_was_not_converted_is_read_where_it_says_all(tmp_path):
    """The numbers are compared in tests/test_reference_models.py; here, what is not there."""
    base, folder = lnp.load_pretrained(FOLDER / "bert"), FOLDER / "bert/pissa"
    settings = json.loads((folder / "adapter_config.json").read_text())
    (tmp_path / "adapter_model.safetensors").write_bytes((folder / "adapter_model.safetensors").read_bytes())

    def read(**changes):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, **changes}))
        return lnp.load_adapter(base, tmp_path)

    assert read().adapter.init_lora_weights == "pissa"
    with pytest.raises(ValueError, match=r"'pissa_niter_4' starts from random vectors, which are in no file; let PEFT"):
        read(init_lora_weights="pissa_niter_4")
    for value in ("loftq", "corda", "lora_ga", [1]):
        with pytest.raises(ValueError, match=r"has init_lora_weights = .*; expected a start that leaves the base's"):
            read(init_lora_weights=value)
    with pytest.raises(ValueError, match=r"has init_lora_weights = 'pissa'; expected a start that leaves the base's"):
        read(use_dora=True)


def test_a_damaged_mark_of_what_a_file_held_is_told(tmp_path):
    base = frozen("bert", np.float32)
    lnp.save_adapter(shifted(base, target_modules=["query"]), tmp_path)
    tensors, metadata = read_safetensors(tmp_path / "adapter_model.safetensors")
    right, nothing = json.loads(metadata["lora_np_converted"]), "of which nothing here makes an adapter"
    for mark, words in (
        ([], "an object"),
        ({}, nothing),
        ({"init_lora_weights": "pissa"}, nothing),
        ({**right, "init_lora_weights": "gaussian"}, nothing),
        ({**right, "r": 3}, "has rank 4, but its start and r = 3 make 6"),
        ({**right, "r": 0}, "has r = 0; expected a positive integer"),
        ({**right, "lora_alpha": 9}, "has the scale 2.5, but its start had 4.5"),
        ({**right, "use_rslora": True}, "has the scale .*, but its start had"),
        ({**right, "tomorrow": 1}, nothing),
    ):
        marks = {**metadata, "lora_np_converted": json.dumps(mark)}
        write_safetensors(tmp_path / "adapter_model.safetensors", tensors, marks)
        with pytest.raises(ValueError, match=words):
            lnp.load_adapter(base, tmp_path)


def test_more_iterations_come_nearer_to_the_largest_singular_values():
    W = rng(0).standard_normal((30, 20))
    exact = one(W, "pissa")
    errors = []
    for n in (0, 2, 60):
        node = one(W, f"pissa_niter_{n}", draws=rng(1))
        errors.append(np.abs(node.A0 @ node.B0 - exact.A0 @ exact.B0).max())
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-6
    assert np.allclose(*(random_svd(3, 60, rng(1))(M, False)[1] for M in (W, W.T)))


# ---- starts that leave W alone


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_orthogonal_factors_meet_nowhere(dtype):
    node = one(rng(0).standard_normal((9, 7)).astype(dtype), "orthogonal", r=4, draws=rng(1))
    assert node.A.dtype == node.B.dtype == dtype and node.A.any() and node.B.any()
    assert np.abs(node.A @ node.B).max() < (2e-7 if dtype == np.float32 else 1e-15)
    assert np.linalg.matrix_rank(node.A) == np.linalg.matrix_rank(node.B) == 2


def test_loftq_comes_nearer_to_W_than_its_compressed_matrix_and_with_each_round():
    W = rng(0).standard_normal((96, 40)).astype(np.float32)
    for bits in (4, 8):
        errors = []
        for rounds in (1, 2, 5):
            node = one(W, "loftq", r=8, alpha=3, loftq_config=lnp.LoftQConfig(bits, rounds))
            assert type(node.W).__name__ == {4: "NF4", 8: "Int8"}[bits] and node.A.dtype == np.float32
            errors.append(np.linalg.norm(W - lora.dense(node).W))
        plain = np.linalg.norm(W - compressed(W, starts.FORM[bits], True, "W", {}).dense())
        assert plain > errors[0] > errors[1] > errors[2]


def test_one_round_of_loftq_is_an_adapter_over_the_compressed_base(tmp_path):
    base, target = frozen("bert", np.float32), ["query", "value"]
    config = lnp.LoRAConfig(r=2, target_modules=target, init_lora_weights="loftq", loftq_config={"loftq_bits": 8})
    model = lnp.inject(base, config)
    before = content(base)
    lnp.save_adapter(model, tmp_path)
    again = lnp.load_adapter(lnp.compress_model(base, "int8", target_modules=target), tmp_path)
    assert np.array_equal(outputs(again, "bert"), outputs(model, "bert")) and content(base) == before
    with pytest.raises(ValueError, match="trained on other weights"):
        lnp.load_adapter(base, tmp_path)
    with pytest.raises(ValueError, match=r"compresses W itself, but that of layer\.0.* is compressed already"):
        lnp.inject(lnp.compress_model(base, "int8"), config)


def test_eva_leaves_a_map_out_that_gets_no_rank_and_what_it_found_is_saved(tmp_path):
    base = frozen("bert", np.float32)
    config = lnp.LoRAConfig(r=1, target_modules="all-linear", init_lora_weights="eva", eva_config={"rho": 4})
    model = lnp.inject(base, config, data=[batch_for("bert", np.float32)])
    ranks = {path: node.A.shape[1] for path, node in adapted_nodes(model).items()}
    assert sum(ranks.values()) == 12 and len(ranks) < 12 and max(ranks.values()) > 1
    assert np.array_equal(outputs(model, "bert"), outputs(base, "bert"))
    assert all(
        np.allclose(node.A.T @ node.A, np.eye(node.A.shape[1]), atol=1e-6) for node in adapted_nodes(model).values()
    )
    lnp.save_adapter(model, tmp_path)
    assert content(lnp.load_adapter(base, tmp_path)) == content(model)


def test_eva_s_directions_are_those_of_all_rows_at_once():
    """In whatever batches they came, if nothing is cut off."""
    from lora_np.adapt.eva import Directions

    rows = rng(0).standard_normal((40, 6)) + 3.0
    one = Directions(6)
    for x in np.split(rows, [9, 20, 28]):
        one.see(x, 0.9)
    centred = rows - rows.mean(axis=0)
    _, S, V = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(one.S, S) and np.allclose(np.abs(one.V), np.abs(V)) and np.isclose(one.spread, (S**2).sum())


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"init_lora_weights": "corda"}, r"must be False, .* or in a new LoRAConfig True, .*, but it is 'corda'"),
        ({"init_lora_weights": "pissa_niter_"}, "but it is 'pissa_niter_'"),
        ({"init_lora_weights": 1}, "but it is 1"),
        ({"init_lora_weights": "eva", "eva_config": {"rho": 0.5}}, "rho must be a number of at least 1, but it is 0.5"),
        ({"init_lora_weights": "eva", "eva_config": {"tau": 2}}, "tau must be a cosine from 0 to 1, but it is 2"),
        ({"init_lora_weights": "eva", "eva_config": {"whiten": 1}}, "whiten must be True or False, but it is 1"),
        ({"init_lora_weights": "eva", "eva_config": {"rank": 2}}, "EvaConfig takes rho, .*, but was given 'rank'"),
        ({"init_lora_weights": "eva", "eva_config": "rho"}, "EvaConfig takes rho, .*, but was given"),
        ({"init_lora_weights": "gaussian", "eva_config": {"rho": 2.0}}, 'eva_config goes with init_lora_weights="eva"'),
        ({"init_lora_weights": "pissa", "loftq_config": {"loftq_bits": 4}}, "loftq_config = .* goes with .*loftq"),
        ({"eva_config": {"rho": 2.0}}, 'eva_config = .* goes with init_lora_weights="eva" alone; leave it out'),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": [4]}}, r"must be 4 or 8, but it is \[4\]"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 2}}, "loftq_bits must be 4 or 8, but it is 2"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_iter": 0}}, "loftq_iter must be a positive integer"),
        ({"init_lora_weights": "pissa", "use_dora": True}, "use_dora = True goes with init_lora_weights=True alone"),
        ({"init_lora_weights": "gaussian", "use_dora": True}, "use_dora = True goes with init_lora_weights=True alone"),
    ],
)  # fmt: skip
def test_an_option_without_a_meaning_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        lnp.LoRAConfig(**options)


BATCHES = [tiny.batch("bert")]


@pytest.mark.parametrize(
    ("options", "draws", "data", "words"),
    [
        ({"init_lora_weights": "orthogonal", "r": 3}, rng(0), None, "halves the rank, but r = 3; choose an even one"),
        ({"init_lora_weights": "gaussian"}, None, None, "inject needs a generator for A"),
        ({"init_lora_weights": "pissa_niter_2", "r": 2}, None, None, "inject needs a generator for A"),
        ({"init_lora_weights": "pissa", "r": 13}, None, None, "r = 13 is more than the rank"),
        ({"init_lora_weights": "gaussian", "r": 13}, rng(0), None, "r = 13 is more than the rank"),
        ({"init_lora_weights": "eva", "r": 13}, rng(0), BATCHES, "r = 13 is more than the rank"),
        ({"init_lora_weights": "eva", "r": 2}, None, None, r"data=\[lnp.Batch.of\(ids\), ...\]\), but data is None"),
        ({"init_lora_weights": "eva", "r": 2}, None, BATCHES[0], r"but data is Batch"),
        ({"init_lora_weights": "eva", "r": 2}, None, [1], r"but data is \[1\]"),
        ({"init_lora_weights": "eva", "r": 7}, None, BATCHES, "14 directions, but those of .* have d_in = 12"),
        ({"init_lora_weights": "eva", "r": 6}, None, [lnp.Batch.of([[1, 2]])], "no batch has as many rows"),
        ({"init_lora_weights": "eva", "r": 2, "eva_config": {"tau": 1.0}}, None, BATCHES, "choose a smaller one"),
        ({"init_lora_weights": "eva", "r": 2}, None, iter([]), "but data is <list_iterator"),
        ({"init_lora_weights": "pissa", "r": 2}, None, BATCHES, "data is for a start that looks at it"),
        ({"r": 2}, rng(0), BATCHES, "data is for a start that looks at it"),
    ],
)
def test_a_start_that_cannot_be_had_is_told(options, draws, data, words, monkeypatch):
    monkeypatch.setattr("lora_np.adapt.eva.PASSES", 3)
    with pytest.raises(ValueError, match=words):
        lnp.inject(frozen("bert"), lnp.LoRAConfig(**options), draws, data)


@pytest.mark.parametrize("start", [*OUT_OF_W, "loftq", "eva"])
def test_numbers_that_are_not_finite_are_told(start):
    base = frozen("bert")
    W = base.layer[0].attention.query.W.copy()
    W[2, 1] = np.nan
    base = with_arrays(base, {"layer.0.attention.query.W": W})
    with pytest.raises(ValueError, match="finite"):
        lnp.inject(base, lnp.LoRAConfig(r=2, init_lora_weights=start), rng(0), BATCHES if start == "eva" else None)


def test_eva_of_rows_that_are_all_the_same_has_directions_all_the_same():
    """A generator of batches is one of what is taken, too."""
    base = frozen("bert")
    config = lnp.LoRAConfig(r=1, init_lora_weights="eva", eva_config={"rho": 1.0})
    model = lnp.inject(base, config, data=(batch for batch in [lnp.Batch.of([[3]] * 2)]))
    assert all(node.A.any() for node in adapted_nodes(model).values())
    with pytest.raises(ValueError, match="whiten divides by singular values, but one of the first 1 is 0"):
        lnp.inject(base, replace(config, eva_config={"rho": 1.0, "whiten": True}), data=[lnp.Batch.of([[3]] * 2)])


def test_peft_s_spelling_in_capitals_and_its_objects_are_taken():
    class Theirs:
        def __init__(self, **given):
            vars(self).update(given)

    assert lnp.LoRAConfig(init_lora_weights="OLoRA").init_lora_weights == "olora"
    assert lnp.LoRAConfig(init_lora_weights="Gaussian").init_lora_weights == "gaussian"
    config = lnp.LoRAConfig(init_lora_weights="eva", eva_config=Theirs(rho=3.0, whiten=True))
    assert config.eva_config == lnp.EvaConfig(rho=3.0, whiten=True)
    assert lnp.LoRAConfig(init_lora_weights="loftq", loftq_config=Theirs(loftq_bits=8)).loftq_config == lnp.LoftQConfig(
        8
    )
    assert (
        type(lnp.LoRAConfig(init_lora_weights=None)) is type(lnp.LoRAConfig(init_lora_weights=True)) is lnp.LoRAConfig
    )


# ---- with PEFT itself


@pytest.mark.filterwarnings("ignore")  # theirs, among themselves
@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_what_peft_converts_is_what_we_write_and_ours_is_read_there(start, tmp_path):
    """Its three folders, read here: the start, the trained adapter as it is, and turned into plain LoRA; and ours."""
    peft = pytest.importorskip("peft", reason="compares with PEFT, where it is installed", exc_type=ImportError)
    import torch
    from transformers import AutoModel

    base, batch = frozen("bert", np.float32), tiny.batch("bert")
    lnp.save_model(base, tmp_path / "base")
    config = peft.LoraConfig(r=2, lora_alpha=5, target_modules=["query", "output.dense"], init_lora_weights=start)
    theirs = peft.get_peft_model(AutoModel.from_pretrained(tmp_path / "base"), config).eval()
    theirs.peft_config["default"].init_lora_weights = True  # as their example does, for the start's folder
    theirs.save_pretrained(tmp_path / "start")
    theirs.peft_config["default"].init_lora_weights = start
    with torch.no_grad():
        for k, parameter in enumerate(p for p in theirs.parameters() if p.requires_grad):
            parameter += torch.from_numpy(0.2 * rng(k).standard_normal(parameter.shape).astype(np.float32))
    theirs.save_pretrained(tmp_path / "as it is")
    theirs.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start"))

    def output_of(model):
        rows, types = batch.unpack(batch.content), batch.unpack(batch.type)
        with torch.no_grad():
            given = (
                {"input_ids": torch.tensor(x[None]), "token_type_ids": torch.tensor(t[None])}
                for x, t in zip(rows, types)
            )
            return np.concatenate([model(**one).last_hidden_state[0].numpy() for one in given])

    expected = output_of(theirs)
    for name, node in (("as it is", ShiftedLoRALinear), ("plain", LoRALinear)):
        ours = lnp.load_adapter(base, tmp_path / name)
        assert {type(one) for one in adapted_nodes(ours).values()} == {node}
        ours_out = np.concatenate(batch.unpack(outputs(ours, "bert")))
        assert np.abs(ours_out - expected).max() < 1e-4 * np.abs(expected).max(), name
    lnp.save_adapter(lnp.load_adapter(base, tmp_path / "as it is"), tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), tmp_path / "ours").eval()
    assert np.abs(output_of(again) - expected).max() < 1e-4 * np.abs(expected).max()
    mine, converted = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "plain"))
    assert mine.keys() == converted.keys() and all(mine[key].shape == array.shape for key, array in converted.items())
