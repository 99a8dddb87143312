"""Batch sources: where a batch comes from, as a pure function of the step."""

from odyssey_jax.data._arrays import ArrayDataset as ArrayDataset
