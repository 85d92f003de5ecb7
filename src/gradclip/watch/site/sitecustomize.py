"""Python runs this at its start in every process of a watched run: it waits for PyTorch, and makes way for the next."""

import importlib
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder or ".") != HERE]
this_module = sys.modules.pop("sitecustomize")

from gradclip.watch.start import wait_for_torch  # noqa: E402

wait_for_torch()
try:
    importlib.import_module("sitecustomize")  # the one that this one hides, which may import PyTorch, or fail
except ModuleNotFoundError as error:
    if error.name != "sitecustomize":
        raise
    sys.modules["sitecustomize"] = this_module
