"""Answers by somebody who saw the exercises' text alone. A measure and no test: some may be judged wrongly."""
