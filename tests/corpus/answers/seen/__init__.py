"""Answers to the exercises. The rules were made with these in sight."""
