"""A notebook goes on with the answer that is right, and with the library's function where none is."""

import functools

import numpy as np

import lora_np as lnp
from lora_np import ops
from lora_np.course import kept


def own_forward(rows, weights, shift):
    """The arguments may be called otherwise; what is kept is the author's own affair."""
    return (rows @ weights if shift is None else rows @ weights + shift), (weights, rows, shift is None)


def own_backward(dy, cache):
    weights, rows, without = cache
    return dy @ weights.T, rows.T @ dy, None if without else dy.sum(axis=0)


def test_what_a_notebook_goes_on_with():
    right = lnp.course.check("linear_forward", own_forward)
    assert right.ok and right.function is own_forward
    wrong = lnp.course.check("gelu_forward", lambda x: (x, None))
    assert not wrong.ok and wrong.function is ops.gelu_forward
    again = lnp.course.check("gelu_forward", wrong.function)  # the cell run once more, without an answer
    assert not again.ok and "run the cell of your answer, then this one" in str(again)
    assert lnp.course.check("rms_norm_backward", lambda dy, cache: None).function.__module__.startswith("lora_np.")


def test_a_backward_may_read_what_a_right_forward_keeps():
    assert not lnp.course.check("linear_backward", own_backward).ok
    lnp.course.check("linear_forward", own_forward)
    verdict = lnp.course.check("linear_backward", own_backward)
    assert verdict.ok and "it reads what your own linear_forward keeps" in str(verdict)
    with_the_librarys = lnp.course.check("linear_backward", lambda dy, cache: ops.linear_backward(dy, cache))
    assert with_the_librarys.ok and "your own" not in str(with_the_librarys)
    wrong = lnp.course.check("linear_backward", lambda dy, cache: own_backward(2 * dy, cache))
    assert not wrong.ok


def test_a_right_answer_is_kept_and_what_cannot_be_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv(kept.VARIABLE, str(tmp_path / "my_answers.py"))
    half = np.float64(0.5) * np.ones(1)

    def gelu_forward(x):
        return (half[0].item() * x * (1 + ops.erf(x * 2**-0.5))), None

    verdict = lnp.course.check("gelu_forward", gelu_forward)
    assert verdict.ok and "not kept for the next chapter: it uses half, a variable of the notebook (ndarray)" in str(
        verdict
    )
    assert not (tmp_path / "my_answers.py").exists() and kept.kept("gelu_forward") is gelu_forward
    assert "kept in my_answers.py, for the chapters to come" in str(lnp.course.check("linear_forward", own_forward))
    assert "kept" not in str(lnp.course.check("linear_forward", own_forward))  # it stands there already
    assert "def own_forward(rows" in (tmp_path / "my_answers.py").read_text()
    lnp.course.check("linear_forward", lambda x, W, b: (x, None))  # a wrong one changes nothing
    assert kept.kept("linear_forward") is own_forward
    monkeypatch.setattr(kept, "SESSION", {})
    assert kept.kept("linear_forward")(np.ones((1, 2)), np.ones((2, 3)), None)[0].shape == (1, 3)
    called = functools.partial(own_forward)
    assert "it is of type partial, and no function" in str(lnp.course.check("linear_forward", called))
    assert "it is a lambda" in str(
        lnp.course.check("gelu_forward", lambda x: (0.5 * x * (1 + ops.erf(x * 2**-0.5)), None))
    )
