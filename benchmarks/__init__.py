"""gradclip, its peers and the speed of the memory, side by side in one process: `python -m benchmarks`.

Read `workloads` (the gradients), `limits` (how fast the memory is), `peers` (what else clips), `quiet` (when a sample
counts), `sampling` (how candidates take turns), `goals` (what is to be reached), `cases` (what is compared), `report`.
`growth` and `start` answer two questions of their own. `python -m benchmarks.device` is for a GPU: `device_checks`,
`device_cases`.
"""
