"""Grading in a process of its own: who changes the judge or calls the library is found, who is right is right."""

import pytest

from lora_np.course import check
from lora_np.course.alone import NEVER, judged_alone

SETUP = "import numpy as np\nimport lora_np as lnp\nfrom lora_np import ops\n"
WRONG = "def choose_step(order):\n    return 0.1\n"
RIGHT = "def choose_step(order):\n    return 2.0 ** (-52 / (order + 1))\n"
CHEATS = {
    "another check": "lnp.course.check = lambda *a: type('Verdict', (), {'ok': True})\n" + WRONG,
    "a judge that finds nothing": """
import lora_np.course.judging as judging
judging.fault_of.__code__ = (lambda exercise, function, trial, forward=None: None).__code__
""" + WRONG,
    "only when it is judged": """
def choose_step(order):
    import lora_np.course.judging as judging
    judging.compared = judging.difference = lambda *a: None
    return 0.1
""",
    "all is near": "import numpy as np\nnp.isclose = np.allclose = lambda *a, **b: True\n" + WRONG,
}  # fmt: skip


def cells(text, name="choose_step"):
    return [("", SETUP), ("", text), (name, "")]


@pytest.mark.parametrize("text", CHEATS.values(), ids=CHEATS)
def test_whoever_changes_the_judge_is_not_right(text):
    found = judged_alone(cells(text))["choose_step"]
    assert "by which answers are judged; take that out" in found and "changed " in found


def test_what_was_right_before_the_program_ends_stays_right_and_what_comes_later_is_not():
    forged = 'print(\'["gelu_forward", ""]\', flush=True)\nimport os\nos._exit(0)'
    book = [*cells(RIGHT), ("", "exit()"), ("linear_forward", ""), ("", forged), ("gelu_forward", "")]
    found = judged_alone(book)
    assert found["choose_step"] == "" and "not NoneType" in found["linear_forward"] and found["gelu_forward"] == NEVER


LIBRARY = {
    "gelu_forward": "def gelu_forward(x):\n    return ops.gelu_forward(x)\n",
    "linear_forward": "them = ops.linear_forward\ndef linear_forward(*given):\n    return them(*given)\n",
    "lora_init": """
def lora_init(*arguments):
    from lora_np.course.exercises.lora_init import lora_init as solution
    return solution(*arguments)
""",
}


def test_whoever_calls_the_librarys_own_is_not_right():
    names = {}
    for name, text in LIBRARY.items():
        exec(SETUP + text, names)
        assert check(name, names[name]).ok  # its numbers are right
    found = judged_alone([("", SETUP), *(cell for name, text in LIBRARY.items() for cell in (("", text), (name, "")))])
    words = "it calls {}, the library's own function for this; write it yourself"
    assert found == {name: words.format(name) for name in LIBRARY}


def test_a_right_answer_is_right_and_a_wrong_one_is_told(tmp_path):
    (tmp_path / "mine.py").write_text("def bits():\n    return 52\n")
    (tmp_path / "numpy.py").write_text("raise SystemExit")
    magic = "%matplotlib inline\n!true\n" + RIGHT.replace("52", "bits()")
    book = [("", SETUP), ("", "1 / 0"), ("", "from mine import bits"), ("", magic), ("choose_step", "")]
    book += [("", "def gelu_forward(x):\n    raise NotImplementedError"), ("gelu_forward", "")]
    book += [("linear_forward", "")]
    found = judged_alone(book, tmp_path)
    assert found["choose_step"] == "" and found["gelu_forward"].startswith("it is still to be written")
    assert found["linear_forward"] == "check needs the function itself, not NoneType; leave out the ()."


def test_too_long_is_not_right():
    assert judged_alone(cells("while True:\n    pass"), seconds=3)["choose_step"] == NEVER
