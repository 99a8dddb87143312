"""PyTorch's schedulers (torch.optim.lr_scheduler and torch.optim.swa_utils, as of 2.13)."""

from odyssey_jax.compat.torch._containers import ChainedScheduler as ChainedScheduler
from odyssey_jax.compat.torch._containers import SequentialLR as SequentialLR
from odyssey_jax.compat.torch._cosine import CosineAnnealingLR as CosineAnnealingLR
from odyssey_jax.compat.torch._cosine import (
    CosineAnnealingWarmRestarts as CosineAnnealingWarmRestarts,
)
from odyssey_jax.compat.torch._cycles import CyclicLR as CyclicLR
from odyssey_jax.compat.torch._cycles import OneCycleLR as OneCycleLR
from odyssey_jax.compat.torch._factors import ConstantLR as ConstantLR
from odyssey_jax.compat.torch._factors import ExponentialLR as ExponentialLR
from odyssey_jax.compat.torch._factors import LinearLR as LinearLR
from odyssey_jax.compat.torch._factors import MultiStepLR as MultiStepLR
from odyssey_jax.compat.torch._factors import PolynomialLR as PolynomialLR
from odyssey_jax.compat.torch._factors import StepLR as StepLR
from odyssey_jax.compat.torch._lambdas import LambdaLR as LambdaLR
from odyssey_jax.compat.torch._lambdas import MultiplicativeLR as MultiplicativeLR
from odyssey_jax.compat.torch._plateau import ReduceLROnPlateau as ReduceLROnPlateau
from odyssey_jax.compat.torch._swa import SWALR as SWALR
