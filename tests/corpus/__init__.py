"""Labelled backwards and answers, wrong and right, to measure the checks by; README.md says what is in it."""
