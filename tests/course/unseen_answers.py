"""Answers of learners that were written without sight of the rules that name causes, and of the suite beside them.

They measure how the rules do on answers that nobody had in mind. So nobody who writes rules looks at the entries.
"""

import unseen_chapter1
import unseen_chapter2a
import unseen_chapter2b
import unseen_chapter3a
import unseen_chapter3b
import unseen_chapter4a
import unseen_chapter4b
import unseen_chapter4c
import unseen_chapter5
import unseen_chapter6a
import unseen_chapter6b
import unseen_chapter7
import unseen_chapter8

PARTS = [
    unseen_chapter1,
    unseen_chapter2a,
    unseen_chapter2b,
    unseen_chapter3a,
    unseen_chapter3b,
    unseen_chapter4a,
    unseen_chapter4b,
    unseen_chapter4c,
    unseen_chapter5,
    unseen_chapter6a,
    unseen_chapter6b,
    unseen_chapter7,
    unseen_chapter8,
]
WRONG = [wrong for part in PARTS for wrong in part.WRONG]
RIGHT = [right for part in PARTS for right in part.RIGHT]
