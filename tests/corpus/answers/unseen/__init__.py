"""Answers written without sight of the rules and of `seen`. Nobody who makes rules looks at an entry."""
