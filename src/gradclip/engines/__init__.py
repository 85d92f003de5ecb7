"""How gradients are measured and scaled: one engine for each kind of array and machine, with the same numbers."""
