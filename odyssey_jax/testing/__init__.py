"""Checks that anyone can run on what they have written themselves."""

from odyssey_jax.testing._check_callback import check_callback as check_callback
from odyssey_jax.testing._check_source import check_source as check_source
from odyssey_jax.testing._check_task import check_task as check_task
