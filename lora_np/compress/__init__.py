"""What makes a weight itself smaller: for now, the best approximation of low rank."""

from lora_np.compress.low_rank import low_rank_approximation, rank_for_error

__all__ = ["low_rank_approximation", "rank_for_error"]
