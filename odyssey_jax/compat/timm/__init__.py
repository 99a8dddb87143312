"""timm's schedulers (timm.scheduler, as of 1.0.31).

A step of a schedule is what timm's is: an epoch where `t_in_epochs` is true, which is its default
(`by_epoch` then runs the schedule in updates), and else an update.
"""

from odyssey_jax.compat.timm._by_name import create_scheduler_v2 as create_scheduler_v2
from odyssey_jax.compat.timm._cycles import CosineLRScheduler as CosineLRScheduler
from odyssey_jax.compat.timm._cycles import PolyLRScheduler as PolyLRScheduler
from odyssey_jax.compat.timm._cycles import TanhLRScheduler as TanhLRScheduler
from odyssey_jax.compat.timm._noise import timm_noise as timm_noise
from odyssey_jax.compat.timm._plateau import PlateauLRScheduler as PlateauLRScheduler
from odyssey_jax.compat.timm._steps import MultiStepLRScheduler as MultiStepLRScheduler
from odyssey_jax.compat.timm._steps import StepLRScheduler as StepLRScheduler
from odyssey_jax.compat.timm._wsd import WSDLRScheduler as WSDLRScheduler
