"""Other operations, by other hands, without sight of the rules. Nobody who makes rules looks at an entry."""
