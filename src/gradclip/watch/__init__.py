"""`gradclip watch`: a training script that nobody changed, and what its clipping did.

The script runs in a Python of its own, in whose environment `site/sitecustomize.py` stands first; so the processes that
it starts are watched as well. `start.py` waits there for PyTorch, `patches.py` listens, `recorder.py` takes down.
"""
