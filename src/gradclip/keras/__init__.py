"""Keras 3 on PyTorch or JAX: `model.compile(gradclip.keras.clip(keras.optimizers.Adam(1e-3), rule), ...)`."""

from gradclip.errors import needing

with needing("gradclip.keras", "keras", "keras"):
    from gradclip.keras.clipped import ClippedOptimizer, clip
    from gradclip.keras.last_step import LastStep
    from gradclip.keras.log import Log

__all__ = ["ClippedOptimizer", "LastStep", "Log", "clip"]
