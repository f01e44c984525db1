"""Is a backward right? The numerical derivatives, how far they can be trusted, and what a backward must be."""
