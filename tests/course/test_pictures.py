"""What is drawn: the ways through an operation, and a wrong result beside the right one."""

import io
import re
import subprocess
import sys

import numpy as np
import pytest

import lora_np as lnp
from lora_np import ops
from lora_np.course.blocks import COLUMNS, PLAIN, ROWS, SHADES, blocks, shades_of
from lora_np.course.findings import LARGEST, Excerpt, difference
from lora_np.course.pictures import GRAPHS, LIT, draw_excerpt, draw_paths


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_NP_CACHE", str(tmp_path))


def ways(arrows, start, end):
    """Return all ways from one box of a graph to another."""
    if start == end:
        return [[end]]
    return [[start, *way] for a, b in arrows if a == start for way in ways(arrows, b, end)]


@pytest.mark.parametrize("name", GRAPHS)
def test_each_way_is_drawn_once(name):
    graph = GRAPHS[name]
    arrows = [tuple(arrow.split("-")) for arrow in graph.arrows.split()]
    drawn = sorted(path.split() for path in graph.paths.values())
    starts = {path[0] for path in drawn}
    assert drawn == sorted(way for start in starts for way in ways(arrows, start, drawn[0][-1]))
    assert {box for arrow in arrows for box in arrow} == graph.boxes.keys()


@pytest.mark.parametrize("name", GRAPHS)
def test_a_panel_lights_one_way_and_turns_its_arrows(name):
    graph = GRAPHS[name]
    for axis, path in zip(draw_paths(name).figure.axes, graph.paths.values()):
        path = path.split()
        arrows = [text for text in axis.texts if getattr(text, "arrowprops", None)]
        lit = {(arrow.xyann, arrow.xy) for arrow in arrows if arrow.arrowprops["color"] == LIT}
        places = [graph.boxes[box][:2] for box in path]
        assert lit == set(zip(places[1:], places)) and len(arrows) == len(graph.arrows.split())


def test_the_ways_through_layer_norm_are_the_summands_of_its_gradient():
    """What chapter 4 says below its exercise, with numbers."""
    rng = np.random.default_rng(0)
    x, gamma, beta, dy = rng.standard_normal((4, 6)), *rng.standard_normal((2, 6)), rng.standard_normal((4, 6))
    _, cache = ops.layer_norm_forward(x, gamma, beta, 1e-12)
    xhat, s, d = cache.xhat, cache.inverse_std, gamma * dy

    def mean(array):
        return array.mean(axis=1, keepdims=True)

    spread = -s * xhat * mean(d * xhat)
    summands = s * d, -s * mean(d), spread, -mean(spread)
    assert np.abs(summands[3]).max() < 1e-14
    assert np.allclose(sum(summands), ops.layer_norm_backward(dy, cache)[0], rtol=0, atol=1e-14)


def written_in(picture):
    return [text.get_text() for text in picture.figure.axes[0].texts if text.get_text()]


def test_shapes_are_those_of_the_given_arrays():
    Q, V = np.zeros((2, 3, 4, 5)), np.zeros((2, 3, 6, 7))
    shapes = "Q (2, 3, 4, 5)", "K (2, 3, 6, 5)", "S (2, 3, 4, 6)", "P (2, 3, 4, 6)", "D (2, 3, 4, 6)", "V (2, 3, 6, 7)"
    told = {text.replace("\n", " ") for text in written_in(draw_paths("attention", Q=Q, V=V))}
    assert told == {*shapes, "O (2, 3, 4, 7)"}
    assert "V\n(2, 3, U, d_v)" in written_in(draw_paths("attention", Q=Q))  # letters for what nobody told


def test_a_notebook_shows_it_whatever_is_imported_there():
    assert draw_paths("block")._repr_png_().startswith(b"\x89PNG")


def test_what_does_not_fit_a_graph_is_refused():
    with pytest.raises(ValueError, match="there is no graph 'gelu'; expected one of layer_norm, softmax"):
        draw_paths("gelu")
    with pytest.raises(ValueError, match="the graph has no box 'z'; expected some of S, E"):
        draw_paths("softmax", z=np.zeros(3))
    with pytest.raises(ValueError, match=r"x has the shape \(3,\), expected \(N, d\)"):
        draw_paths("block", x=np.zeros(3))
    with pytest.raises(ValueError, match=r"gamma has the shape \(4,\), expected \(d,\), with one size"):
        draw_paths("layer_norm", x=np.zeros((2, 3)), gamma=np.zeros(4))


def of_rows(dP, P):
    return P * (dP - (P * dP).sum(axis=0, keepdims=True))


def unscaled(dO, cache):
    dQ, dK, dV = ops.attention_backward(dO, cache)
    return dQ, dK * cache.Q.shape[-1] ** 0.5, dV


def test_of_a_value_the_excerpt_is_what_differs():
    seen = []
    verdict = lnp.course.check("softmax_backward", lambda dP, P: seen.append(of_rows(dP, P)) or seen[-1])
    excerpt = verdict.findings[0].excerpt
    assert np.array_equal(excerpt.given, seen[0].reshape(-1, *seen[0].shape[-2:])[0])
    assert np.array_equal(excerpt.off, excerpt.given != excerpt.expected) and excerpt.off.any()
    assert np.array_equal(excerpt.apart, np.abs(excerpt.given - excerpt.expected))
    assert excerpt.apart[excerpt.worst] == excerpt.apart.max()


def test_of_a_gradient_it_is_the_matrix_with_the_worst_entry():
    verdict = lnp.course.check("attention_backward", unscaled)
    finding = verdict.findings[0]
    at = [int(k) for k in re.search(r"worst is at \[([\d, ]+)\]", verdict.sentences[0])[1].split(",")]
    assert finding.argument == "dK" and [*finding.excerpt.first, *finding.excerpt.worst] == at
    ratio = finding.excerpt.given / finding.excerpt.expected
    assert np.allclose(ratio, ratio[0, 0]) and ratio[0, 0] > 1.4


NOT_DRAWN = {
    "a shape": ("linear_forward", lambda x, W, b=None: ((x @ W).T, None)),
    "nothing yet": ("softmax_backward", lambda dP, P: None),
    "a crash": ("softmax_backward", lambda dP, P: dP @ P),
    "a number": ("rank_for_error", lambda W, error: 1),
    "the library": ("softmax_backward", ops.attention_backward),
}


@pytest.mark.parametrize("name, function", NOT_DRAWN.values(), ids=NOT_DRAWN)
def test_where_no_numbers_stand_side_by_side_nothing_is_drawn(name, function, capsys):
    verdict = lnp.course.check(name, function)
    assert not verdict and all(finding.excerpt is None for finding in verdict.findings)
    assert capsys.readouterr().out == f"{verdict}\n"


def test_what_is_right_or_too_large_is_not_drawn():
    assert difference("y", np.ones((3, 2)), np.ones((3, 2))) is None
    for shape, drawn in (((LARGEST, LARGEST), True), ((LARGEST + 1, 2), False), ((1,), False), ((5,), True)):
        assert (difference("y", np.zeros(shape), np.ones(shape)).excerpt is not None) is drawn, shape


def test_numbers_whose_difference_overflows_are_not_drawn():
    given, right = np.full((2, 2), 1.5e308), np.full((2, 2), -1.5e308)
    with np.errstate(over="ignore"):
        assert difference("y", given, right).excerpt is None


def excerpt_of(shape=(3, 4), at=(1, 2), by=1.0):
    right = np.random.default_rng(1).standard_normal(shape)
    given = right.copy()
    given[at] += by
    return difference("y", given, right).excerpt


def third_block(text, shades):
    """Return the cells of the difference, as levels."""
    rows = [line.split("|")[5] for line in text.split("\n") if line.count("|") == 6]
    return np.array([[shades.index(cell) for cell in row] for row in rows])


@pytest.mark.parametrize("shades", [SHADES, PLAIN], ids=["blocks", "ascii"])
def test_the_block_of_the_difference_is_blank_where_there_is_none(shades):
    levels = third_block(blocks("y", excerpt_of(), shades), shades)[:, ::2]  # two characters a column
    assert levels.shape == (3, 4) and levels[1, 2] == len(shades) - 1 and np.count_nonzero(levels) == 1


def test_the_smallest_difference_is_seen():
    right = np.ones((2, 30))
    given = right.copy()
    given[0, :2] += 1e-7, 1.0
    assert third_block(blocks("y", difference("y", given, right).excerpt), SHADES)[0].tolist() == [1, 4, *[0] * 22]


def test_of_a_large_matrix_a_window_is_written():
    text = blocks("dW", excerpt_of((40, 50), (30, 48)))
    levels = third_block(text, SHADES)
    assert levels.shape == (ROWS, COLUMNS) and np.argwhere(levels).tolist() == [[6, 22]]
    assert "dW, rows 24 to 35, columns 26 to 49: a blank is" in text
    assert max(map(len, text.split("\n")[:-1])) <= 88


def test_a_terminal_without_these_blocks_gets_ascii(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    lnp.course.check("softmax_backward", of_rows)
    stream.flush()
    text = stream.buffer.getvalue().decode("ascii")
    assert "yours" in text and "@" in text
    assert [shades_of(io.TextIOWrapper(io.BytesIO(), encoding=e)) for e in ("cp437", "latin-1")] == [SHADES, PLAIN]


def test_in_a_notebook_it_is_a_picture(monkeypatch, capsys):
    shown, display = [], pytest.importorskip("IPython.display")
    kernel = type("Shell", (), {"kernel": True})()
    monkeypatch.setattr("IPython.get_ipython", lambda: kernel)
    monkeypatch.setattr(display, "display", lambda data, raw: shown.append(data))
    verdict = lnp.course.check("softmax_backward", of_rows)
    assert capsys.readouterr().out == f"{verdict}\n"
    assert len(shown) == 1 and shown[0]["image/png"].startswith("iVBORw0KGgo") and "yours" in shown[0]["text/plain"]


def test_the_picture_has_the_numbers_of_the_excerpt():
    excerpt = excerpt_of()
    yours, expected, apart = (axis.images[0] for axis in draw_excerpt("y", excerpt).figure.axes[:3])
    assert np.array_equal(yours.get_array(), excerpt.given) and np.array_equal(expected.get_array(), excerpt.expected)
    assert yours.get_clim() == expected.get_clim() == excerpt.limits
    assert np.argwhere(~np.ma.getmaskarray(apart.get_array())).tolist() == [[1, 2]] and apart.get_array()[1, 2] == 1.0


def test_matplotlib_is_loaded_only_to_draw():
    code = "import sys, lora_np as lnp; lnp.course; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_an_excerpt_of_many_axes_is_the_matrix_of_the_last_two():
    excerpt = excerpt_of((2, 3, 4, 5), (1, 0, 2, 3))
    assert (excerpt.first, excerpt.worst, excerpt.name_of("dQ")) == ((1, 0), (2, 3), "dQ[1, 0]")
    assert isinstance(excerpt, Excerpt) and excerpt_of((7,), (4,)).worst == (0, 4)
