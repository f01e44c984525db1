"""Each test begins without answers, and keeps none."""

import pytest


@pytest.fixture(autouse=True)
def no_answers(monkeypatch):
    monkeypatch.setattr("lora_np.course.kept.SESSION", {})
    monkeypatch.setenv("LORA_NP_ANSWERS", "")
