"""Keras' schedules and callbacks that set the rate (as of 3.15)."""

from odyssey_jax.compat.keras._callbacks import LearningRateScheduler as LearningRateScheduler
from odyssey_jax.compat.keras._callbacks import ReduceLROnPlateau as ReduceLROnPlateau
from odyssey_jax.compat.keras._schedules import CosineDecay as CosineDecay
from odyssey_jax.compat.keras._schedules import CosineDecayRestarts as CosineDecayRestarts
from odyssey_jax.compat.keras._schedules import ExponentialDecay as ExponentialDecay
from odyssey_jax.compat.keras._schedules import InverseTimeDecay as InverseTimeDecay
from odyssey_jax.compat.keras._schedules import PiecewiseConstantDecay as PiecewiseConstantDecay
from odyssey_jax.compat.keras._schedules import PolynomialDecay as PolynomialDecay
