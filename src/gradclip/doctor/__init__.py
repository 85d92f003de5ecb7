"""`gradclip doctor`: what is wrong with the clipping of a training script, where, since when, and the cure."""

from gradclip.doctor.diagnosis import Finding, diagnose

__all__ = ["Finding", "diagnose"]
