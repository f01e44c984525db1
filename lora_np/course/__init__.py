"""What chapters call: `check(name, function)` says whether an exercise is right, and why not; `exercises()` lists them."""
