"""One exercise, one file: what it asks, on what it is tried, its solution, and the slips that are known.

CONTRIBUTING.md says how to write one. Nothing is imported here: a file is run when its exercise is checked.
"""
