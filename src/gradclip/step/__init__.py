"""One step of clipping, its files in the order in which things happen: see `run`."""
