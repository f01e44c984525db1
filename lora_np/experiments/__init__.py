"""Experiments: a recipe goes in, a record comes out.

    from lora_np.experiments import Recipe, run
    record = run(Recipe(data="digits-rotated", r=2, epochs=5), "my-run")
    record["after"]["accuracy"]

The command `finetune` does the same, and shows it.
"""

from lora_np.experiments.experiment import Observer, run
from lora_np.experiments.recipe import Recipe
from lora_np.experiments.record import read_metrics, read_recipe

__all__ = ["Observer", "Recipe", "read_metrics", "read_recipe", "run"]
