"""Tasks with a published claim about clipping, to compare rules on: offline, seeded, minutes on two cores, in PyTorch.

Read `titles` (which there are), `task` (what a task is), `descent` (the loop and what it writes down), then any of the
others.
"""
