"""What is drawn with one seed is told apart by numbers, and each number has a name."""

import ast
from pathlib import Path

import numpy as np

import lora_np
from lora_np.train.purposes import Purpose

MODULES = sorted(Path(lora_np.__file__).parent.rglob("*.py"))


def seeds(tree):
    """Yield the lists of numbers from which generators are made."""
    for node in ast.walk(tree):
        name = getattr(getattr(node, "func", None), "attr", getattr(getattr(node, "func", None), "id", None))
        if isinstance(node, ast.Call) and name == "default_rng" and isinstance(node.args[0], (ast.List, ast.Tuple)):
            yield node.args[0].elts


def test_no_purpose_is_a_bare_number():
    found = 0
    for path in MODULES:
        for elements in seeds(ast.parse(path.read_text())):
            found += 1
            bare = [element.value for element in elements[1:] if isinstance(element, ast.Constant)]
            assert not bare, f"{path.name} draws with the bare number {bare[0]}; give it a name (train/purposes.py)"
    assert found >= 10


def test_a_purpose_keeps_its_number_and_draws_as_it_does():
    """Else an old run could not be repeated."""
    numbers = {"ORDER": 1, "DROPOUT": 2, "ADAPTER": 3, "EXAMPLES": 4, "INITIAL": 5, "AUGMENT": 6, "HEAD": 7}
    assert {purpose.name: purpose.value for purpose in Purpose} == numbers
    for seed in (0, 10**60):
        draws = {np.random.default_rng([seed, purpose]).random() for purpose in Purpose}
        assert draws == {np.random.default_rng([seed, number]).random() for number in numbers.values()}
        assert len(draws) == len(numbers)


def test_every_purpose_is_used():
    text = "\n".join(path.read_text() for path in MODULES)
    assert [purpose.name for purpose in Purpose if f"Purpose.{purpose.name}" not in text] == []
