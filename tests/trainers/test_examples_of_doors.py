"""The examples in the docstrings of the doors of trainers give what they say; those of Keras are in `test_keras.py`."""

from __future__ import annotations

import doctest
import importlib

import pytest
import torch

import gradclip

DOORS = ("fastai", "ignite", "lightning", "skorch", "stable_baselines3", "timm", "transformers")


@pytest.mark.parametrize("door", DOORS)
def test_the_examples_give_what_they_say(door, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"gradclip.{door}")
    names = {**vars(gradclip), "torch": torch, "gradclip": gradclip, **vars(module)}
    found = doctest.testmod(module, globs=names, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0
    assert found.attempted > 0
