"""Operations that are no exercise, one a file: what `lnp.course.bug` breaks, and hands out to be mended.

CONTRIBUTING.md says how to write one. Nothing is imported here: a file is run when it is handed out.
"""
