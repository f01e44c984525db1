"""What `check` says of an answer, as data and as a few sentences."""

from collections.abc import Callable
from dataclasses import dataclass

from lora_np.course.words import en


@dataclass(repr=False)
class Verdict:
    """What was found of an answer to an exercise. `check` prints it; it is true if the answer is right.

    Attributes
    ----------
    exercise : str
    ok : bool
    output : str or None
        The first result that is wrong.
    cause : str or None
        One of `lora_np.gradcheck.CAUSES`, where one could be told.
    sentences : list of str
        What was verified, or what is wrong.
    hint : str or None
        The hint that was asked for.
    more : str
        What to do next.
    findings : tuple of Finding
        What the sentences are made of.
    function : callable
        What the notebook goes on with: the answer if it is right, else the course's own.
    """

    exercise: str
    ok: bool
    sentences: list
    output: str | None = None
    cause: str | None = None
    hint: str | None = None
    more: str = ""
    findings: tuple = ()
    function: Callable | None = None

    @classmethod
    def of(cls, exercise, ok, findings):
        """Return the verdict of some findings: the first says what is wrong, the last cause is the nearest."""
        causes = [cause for finding in findings if (cause := finding.cause(exercise))]
        sentences = [en.tell(finding, exercise) for finding in findings]
        cause = causes[-1] if causes else None
        return cls(exercise.name, ok, sentences, findings[0].argument, cause, findings=tuple(findings))

    def __bool__(self):
        return self.ok

    def __str__(self):
        head = f"{self.exercise}: {en.RIGHT if self.ok else en.NOT_RIGHT}"
        lines = [head, *(f"  {sentence}" for sentence in self.sentences)]
        lines += [f"  {self.hint}"] if self.hint else []
        return "\n".join([*lines, *([f"  {self.more}"] if self.more else [])])

    def __repr__(self):
        return f"<{self.exercise}: {'right' if self.ok else 'not right yet'}>"

    def _ipython_display_(self):
        """A notebook shows the last value of a cell; this one has been printed already."""
