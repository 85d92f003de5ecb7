"""Tasks to compare rules on, most with a published claim about clipping: offline, seeded, on two cores, in PyTorch.

Read `titles` (which there are), `task` (what a task is), `descent` (the loop and what it writes down), then any of the
others.
"""
