"""Optax: a rule as a gradient transformation, `optax.chain(gradclip.optax.clip(rule), optax.adam(1e-3))`."""

from gradclip.errors import needing

with needing("gradclip.optax", "jax", "jax", "optax"):
    from gradclip.optax.last import Last
    from gradclip.optax.state import ClipState, check_skips
    from gradclip.optax.telemetry import event_of, record
    from gradclip.optax.transform import clip

__all__ = ["ClipState", "Last", "check_skips", "clip", "event_of", "record"]
