"""Advice on a run that was recorded: what another rule would have done to it, and which threshold to take."""
