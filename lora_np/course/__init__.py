"""What chapters call: `check(name, function)` says whether an answer is right, and why not."""
