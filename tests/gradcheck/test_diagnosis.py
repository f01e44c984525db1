"""The likely cause of a wrong gradient: named in the learner's words, often enough to be trusted, never by a crash."""

import html.parser
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gradcheck.test_wrong_functions import MISTAKES, broken, lora, lora_inputs

from lora_np.gradcheck import CAUSES, assert_gradients, check, mutants
from lora_np.gradcheck.causes import GROUPS
from lora_np.ops.cases import cases


def first(report, argument):
    return next(diagnosis for diagnosis in report.diagnosis if diagnosis.argument == argument)


def report_on(mistake):
    name, change = MISTAKES[mistake]
    return check(lora, broken(name, change), lora_inputs(0), {"scale": 1.7}, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("mistake", "argument", "cause", "words"),
    [
        (
            "missing factor",
            "A",
            "constant_factor",
            "dA lacks the factor scale: yours is right when scale = 1, and off by 1/1.7",
        ),
        ("factor squared", "B", "constant_factor", "dB has the factor scale once too often"),
        ("missing term", "x", "missing_path", "dx"),
        ("sign", "W", "sign", "dW has the wrong sign"),
        ("mean for sum", "b", "mean_vs_sum", "db"),
        ("zero", "A", "zero_gradient", "dA is zero everywhere"),
        ("one entry's sign", "x", "sign", "dx is right without `g.flat[4] *= factor`"),
    ],
)
def test_the_cause_is_named_in_the_learners_words(mistake, argument, cause, words):
    found = first(report_on(mistake), argument)
    assert found.cause == cause and found.group == CAUSES[cause][0] and words in found.sentence


def test_the_printed_report_ends_with_the_likely_cause():
    text = str(report_on("missing factor"))
    assert text.endswith("likely cause: factor, constant_factor: " + first(report_on("missing factor"), "A").sentence)


def test_a_repair_quotes_the_learners_own_line():
    def forward(x, W):
        return np.tanh(x @ W), (x, W, np.tanh(x @ W))

    def backward(dy, cache):
        x, W, y = cache
        dz = dy * (1 - y * y)
        return dz @ W, x.T @ dz

    rng = np.random.default_rng(0)
    report = check(forward, backward, {"x": rng.standard_normal((5, 4)), "W": rng.standard_normal((4, 4))})
    found = first(report, "x")
    assert found.cause == "transpose"
    assert found.sentence == "dx is right with `dz @ W.T` in place of `dz @ W` in `return (dz @ W, x.T @ dz)`" or (
        "W.swapaxes(-1, -2)" in found.sentence
    )


def test_the_guide_shows_what_its_example_prints(tmp_path):
    text = (Path(__file__).parents[2] / "chapters" / "guide" / "gradients.md").read_text(encoding="utf-8")
    code, shown = re.search(
        r"<!-- block: check -->\n```python\n(.*?)```\n\nIt prints:\n\n```text\n(.*?)```", text, re.DOTALL
    ).groups()
    (tmp_path / "example.py").write_text(code, encoding="utf-8")  # a file, so that its source can be read
    done = subprocess.run([sys.executable, tmp_path / "example.py"], capture_output=True, text=True, check=True)
    # The rounding in the last digits of a right gradient's error is the machine's own.
    assert [line for line in done.stdout.strip().splitlines() if "  ok" not in line] == [
        line for line in shown.strip().splitlines() if "  ok" not in line
    ]


def test_what_is_right_has_no_diagnosis_and_a_small_error_none_that_is_guessed():
    assert check(lora, broken("A", lambda g, dy, c: g), lora_inputs(0), {"scale": 1.7}).diagnosis == []
    assert report_on("off by 1e-6 in one entry").diagnosis == []


def test_groups_and_causes_are_the_21_labels():
    assert len(CAUSES) == 21 and list(GROUPS) == ["contract", "factor", "term", "layout", "value"]


def gain_forward(x, gamma):
    return gamma * x, (x, gamma)


@pytest.mark.parametrize(
    ("default", "backward"),
    [
        ({"gamma": np.ones(4)}, lambda dy, c: (dy, (dy * c[0]).sum(0))),
        ({"gamma": np.zeros(4)}, lambda dy, c: (0 * dy, (dy * c[0]).sum(0))),
    ],
)
def test_what_is_right_at_a_default_alone_is_wrong(default, backward):
    x = np.random.default_rng(0).standard_normal((5, 4))
    report = check(gain_forward, backward, {"x": x, **default})
    assert list(report.failures) == ["x"]
    assert f"right only where gamma = {default['gamma'][0]:g}" in report.failures["x"][0]
    assert check(gain_forward, lambda dy, c: (dy * c[1], (dy * c[0]).sum(0)), {"x": x, **default}).ok


def test_repeated_ids_and_hidden_keys_are_tried_where_the_inputs_have_none():
    rng = np.random.default_rng(0)

    def take(table, ids):
        return table[ids], (ids, table.shape)

    def assign(dy, cache):
        ids, shape = cache
        dtable = np.zeros(shape)
        dtable[ids] = dy
        return dtable

    report = check(take, assign, {"table": rng.standard_normal((6, 3))}, {"ids": np.array([4, 1, 5])})
    assert "right only where ids do not repeat" in report.failures["table"][0]
    assert first(report, "table").cause == "not_accumulated"

    def hide(x, visible):
        return np.where(visible, x, 0.0), visible

    report = check(hide, lambda dy, visible: dy, {"x": rng.standard_normal((4, 5))}, {"visible": np.ones((4, 5), bool)})
    assert "right only where visible hides nothing" in report.failures["x"][0]
    assert first(report, "x").cause == "mask_ignored"


def test_a_batch_of_one_is_tried_with_two():
    """The mean over a batch of one is its sum."""
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((1, 4)), "W": rng.standard_normal((4, 3))}

    def forward(x, W):
        return x @ W, (x, W)

    report = check(forward, lambda dy, c: (dy @ c[1].T, c[0].T @ dy / len(dy)), inputs)
    assert "right only where x holds one row" in report.failures["W"][0]
    assert first(report, "W").cause == "mean_vs_sum"
    assert check(forward, lambda dy, c: (dy @ c[1].T, c[0].T @ dy), inputs).ok


def test_a_row_that_is_broadcast_is_not_taken_for_a_batch_of_one():
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((1, 4)), "b": rng.standard_normal((1, 4))}
    assert check(lambda x, b: (x * b, (x, b)), lambda dy, c: (dy * c[1], (dy * c[0])), inputs).ok
    inputs = {"b": rng.standard_normal((1, 4)), "x": rng.standard_normal((3, 4))}
    assert check(lambda b, x: (b * x, (x, b)), lambda dy, c: ((dy * c[0]).sum(0, keepdims=True), dy * c[1]), inputs).ok


def test_a_declared_constant_is_not_differentiated():
    """DoRA (Liu et al. 2024, section 4.3) takes the norm of the weight for a constant on the way back."""
    rng = np.random.default_rng(0)
    inputs = {"V": rng.standard_normal((5, 3)), "m": rng.standard_normal(3)}

    def forward(V, m, norm):
        return m * V / norm, (V, m, norm)

    def detached(dy, cache):
        V, m, norm = cache
        return dy * m / norm, (dy * V / norm).sum(axis=0)

    def attached(dy, cache):
        V, m, norm = cache
        dV, dm = detached(dy, cache)
        return dV - V / norm * (V / norm * dV).sum(axis=0), dm

    def whole(V, m):
        return forward(V, m, np.sqrt((V * V).sum(axis=0)))

    norm = np.sqrt((inputs["V"] ** 2).sum(axis=0))
    assert check(forward, detached, inputs, {"norm": norm}).ok
    assert list(check(forward, attached, inputs, {"norm": norm}).failures) == ["V"]
    assert check(whole, attached, inputs).ok
    report = check(whole, detached, inputs)
    assert first(report, "V").cause == "missing_path"
    assert first(report, "V").sentence == (
        "dV leaves out the way through `np.sqrt((V * V).sum(axis=0))`, as if it were constant, "
        "in `return forward(V, m, np.sqrt((V * V).sum(axis=0)))`"
    )


def test_a_layer_that_keeps_its_numbers_on_itself():
    class Dense:
        def __init__(self, rng):
            self.W = rng.standard_normal((4, 3))

        def forward(self, x):
            self.x = x
            return x @ self.W

        def backward(self, dy):
            self.dW = self.x.T @ dy
            return dy @ self.W.T

    rng = np.random.default_rng(0)
    layer, x = Dense(rng), rng.standard_normal((5, 4))

    def forward(x, W):
        layer.W = W
        return layer.forward(x), None

    def backward(dy, _):
        dx = layer.backward(dy)
        return dx, layer.dW

    assert check(forward, backward, {"x": x, "W": layer.W}).ok
    Dense.backward = lambda self, dy: setattr(self, "dW", self.x.T @ dy / len(dy)) or dy @ self.W.T
    assert list(check(forward, backward, {"x": x, "W": layer.W}).failures) == ["W"]


def test_a_coefficient_is_found_and_written_with_what_is_at_hand():
    rng = np.random.default_rng(0)

    def forward(x, W, tau):
        h = np.tanh(x @ W / tau)
        return h, (x, W, tau, h)

    def backward(dy, cache):
        x, W, tau, h = cache
        dz = dy * (1 - h * h) / x.shape[1] / tau
        return dz @ W.T, x.T @ dz * tau

    inputs = {"x": rng.standard_normal((5, 4)), "W": rng.standard_normal((4, 3))}
    report = check(forward, backward, inputs, {"tau": 1.7})
    assert first(report, "x").cause == "mean_vs_sum"
    assert "dx is 4 times too small" in first(report, "x").sentence or "/ x.shape[1]" in first(report, "x").sentence


def centred(x):
    return x - x.mean(axis=1, keepdims=True), ()


def by_the_size_of_another_axis(dy, cache):
    n = dy.shape[0]
    return dy - dy.sum(axis=1, keepdims=True) / n


def by_sizes_unpacked_in_the_other_order(dy, cache):
    d, n = dy.shape
    return dy - dy.sum(axis=1, keepdims=True) / d


def by_the_number_of_rows(dy, cache):
    return dy - dy.sum(axis=1, keepdims=True) / len(dy)


def by_the_size_of_another_tensor(dy, cache):
    first = dy[:, :4]
    return dy - dy.sum(axis=1, keepdims=True) / first.shape[1]


def without_the_last_row(dy, cache):
    dx = np.zeros_like(dy)
    for i in range(dy.shape[0] - 1):
        dx[i] = dy[i] - dy[i].mean()
    return dx


@pytest.mark.parametrize(
    "backward, words",
    [
        (by_the_size_of_another_axis, "`dy.shape[1]` in place of `dy.shape[0]`"),
        (by_sizes_unpacked_in_the_other_order, "`n, d = dy.shape` in place of `d, n = dy.shape`"),
        (by_the_number_of_rows, "`dy.shape[1]` in place of `len(dy)`"),
        (by_the_size_of_another_tensor, "`dy.shape[1]` in place of `first.shape[1]`"),
        (without_the_last_row, "`range(dy.shape[0])` in place of `range(dy.shape[0] - 1)`"),
    ],
)
def test_a_wrong_size_is_named_as_a_size(backward, words):
    """And not as another tensor of which the size is read, say its transpose; nor as 6 = 3 * 2."""
    report = check(centred, backward, {"x": np.random.default_rng(0).standard_normal((3, 6))})
    assert words in first(report, "x").sentence


def test_the_upstream_is_not_the_learners_first_draw():
    """Both from default_rng(0): along x itself the gradient of x / |x| is zero, and a zero one would pass."""
    x = np.random.default_rng(0).standard_normal((5, 4))
    for rng in (None, 0):
        report = check(lambda x: (x / np.sqrt((x * x).sum()), x), lambda dy, x: 0 * x, {"x": x}, rng=rng)
        assert first(report, "x").cause == "zero_gradient"


def test_a_permutation_is_not_made_to_repeat():
    def shuffle(x, order):
        return x[order], order

    x = np.random.default_rng(0).standard_normal((5, 3))
    assert check(shuffle, lambda dy, order: dy[np.argsort(order)], {"x": x}, {"order": np.array([3, 0, 4, 1, 2])}).ok


def test_an_assertion_for_pytest_says_what_the_report_says():
    x = np.random.default_rng(0).standard_normal((5, 4))
    assert assert_gradients(lambda x: (x * x, x), lambda dy, x: 2 * x * dy, {"x": x}) is None
    with pytest.raises(AssertionError, match="likely cause: factor, constant_factor: dx is off by 1/2 everywhere"):
        assert_gradients(lambda x: (x * x, x), lambda dy, x: x * dy, {"x": x})


def test_a_notebook_shows_valid_html_with_the_sentences():
    seen = []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            seen.append(tag)

        def handle_endtag(self, tag):
            assert seen.pop() == tag

    text = report_on("missing factor")._repr_html_()
    Parser().feed(text)
    assert not seen and "dA lacks the factor scale" in text and "wrong" in text


def test_a_notebook_does_not_take_a_learners_line_for_html():
    def backward(dy, x):
        return dy * (x < 0)

    x = np.random.default_rng(0).standard_normal((5, 4))
    text = check(lambda x: (np.where(x.real > 0, x, 0), x), backward, {"x": x})._repr_html_()
    assert "x &lt; 0" in text and "x < 0" not in text


def test_the_plot_has_a_row_for_each_gradient(tmp_path):
    figure = report_on("missing factor").plot()
    assert len(figure.axes) == 3 * 5  # points, errors, and their scale
    figure.savefig(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 10_000


@pytest.mark.parametrize("op", ["lora_linear", "layer_norm", "attention, dropout", "cross_entropy", "embedding"])
def test_mutants_are_wrong_and_have_a_solution(op):
    case = next(case for case in cases(np.random.default_rng(3)) if case.name == op)
    found, again = ([mutant for mutant, _ in zip(mutants(case, seed=3), range(6))] for _ in range(2))
    assert [m.source for m in found] == [m.source for m in again] and len(found) == 6 or op == "embedding"
    for mutant in found:
        assert mutant.case is case
        report = check(case.forward, mutant.backward, case.inputs, case.fixed)
        assert not report.ok and mutant.cause in CAUSES and mutant.source.startswith("def ")
        assert set(mutant.arguments) <= {row.argument for row in report.rows if row.verdict == "wrong"}, mutant.source


def test_mutants_of_what_is_not_there():
    with pytest.raises(TypeError, match="backward, inputs and fixed, but 'rms_norm' has no forward; give it an object"):
        next(mutants("rms_norm"))
