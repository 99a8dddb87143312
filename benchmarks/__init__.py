"""Measurements of odyssey_jax against floors and against other ways to do the same."""
