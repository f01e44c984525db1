"""What a person reads."""

import numpy as np

from lora_np.gradcheck import Report, Row, check
from lora_np.gradcheck.verdict.report import distinct

RIGHT = Row("x", (4, 3), 1.2e-12, 1e-7, "ok", (0, 1), 0.25, 0.25)
WRONG = Row("gamma", (3,), 0.5, 1e-7, "wrong", (2,), 0.1234, 0.2468)


def test_a_report_that_passed():
    report = Report([RIGHT, RIGHT._replace(argument="beta", shape=(), error=0.0, verdict="vacuous")], {}, ["a note"])
    assert report.ok and report
    assert report.max_error == 1.2e-12
    assert str(report) == (
        "Gradient check passed: 2 gradients, largest error 1.2e-12 of its scale.\n"
        "\n"
        "  gradient of  shape   error    tolerance  verdict\n"
        "  x            (4, 3)  1.2e-12  1.0e-07    ok\n"
        "  beta         ()      0.0e+00  1.0e-07    vacuous\n"
        "\n"
        "note: a note"
    )


def test_a_report_that_failed():
    lost = Row("s", (), 0.0, np.inf, "not resolved", None, 1.0, 1.0)
    none = Row("b", (2,), np.inf, np.nan, "wrong")
    failures = {"gamma": ["dgamma: wrong", "dgamma: more"], "b": ["db: is None"], "s": ["ds: not resolved"]}
    report = Report([RIGHT, WRONG, none, lost], failures)
    assert not report.ok and not report
    assert report.max_error == np.inf
    assert str(report) == (
        "Gradient check FAILED: 3 of 4 gradients.\n"
        "\n"
        "  gradient of  shape   error    tolerance  verdict       worst at  yours   numeric\n"
        "  x            (4, 3)  1.2e-12  1.0e-07    ok\n"
        "  gamma        (3,)    5.0e-01  1.0e-07    wrong         [2]       0.1234  0.2468\n"
        "  b            (2,)    -        -          wrong\n"
        "  s            ()      0.0e+00  -          not resolved  -         1       1\n"
        "\n"
        "dgamma: wrong\n"
        "dgamma: more\n"
        "db: is None\n"
        "ds: not resolved"
    )


def test_a_failure_of_structure_alone():
    report = Report([RIGHT], {"backward": ["backward: changes its upstream gradient in place"]})
    assert str(report).startswith("Gradient check FAILED, though the numbers of 1 gradient are right.")


def test_repr_is_the_table():
    assert repr(Report([RIGHT])) == str(Report([RIGHT]))


def test_an_empty_report():
    assert Report([]).max_error == 0.0


def test_numbers_are_written_with_the_digits_that_tell_them_apart():
    assert distinct(0.1234, 0.2468) == ("0.1234", "0.2468")
    assert distinct(1.0, 1.0) == ("1", "1")
    a, b = distinct(1.2345678, 1.2345679)
    assert a != b and len(a) <= 10
    a, b = distinct(1.0, np.nextafter(1.0, 2))
    assert a != b


def test_rows_follow_the_inputs_and_plain_types():
    report = check(
        lambda x, s: (x * s, (x, s)),
        lambda dy, c: (dy * c[1], 2.0 * float((dy * c[0]).sum())),
        {"x": np.array([[1.0, 2.0]]), "s": 0.5},
    )
    assert [row.argument for row in report.rows] == ["x", "s"]
    assert [row.shape for row in report.rows] == [(1, 2), ()]
    assert [row.verdict for row in report.rows] == ["ok", "wrong"]
    for row in report.rows:
        assert type(row.error) is type(row.tolerance) is type(row.given) is type(row.numeric) is float
        assert row.where is None or all(type(i) is int for i in row.where)


def test_the_same_call_gives_the_same_report():
    rng = np.random.default_rng(1)
    inputs = {"x": rng.standard_normal((4, 3))}
    reports = [check(lambda x: (np.sin(x), x), lambda dy, x: dy * np.cos(x), inputs) for _ in range(2)]
    assert reports[0] == reports[1]
    other = check(lambda x: (np.sin(x), x), lambda dy, x: dy * np.cos(x), inputs, rng=np.random.default_rng(5))
    assert other != reports[0]
