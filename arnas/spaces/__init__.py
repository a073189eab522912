"""The search space: primitives, genotypes, the macro layout and the network built from them."""
