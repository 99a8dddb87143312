"""The loop: the train step, the compiled program around it, and populations of runs."""

from odyssey_jax.loop._blocks import Blocks as Blocks
from odyssey_jax.loop._blocks import plan_blocks as plan_blocks
from odyssey_jax.loop._carry import Carry as Carry
from odyssey_jax.loop._carry import Inputs as Inputs
from odyssey_jax.loop._carry import Keys as Keys
from odyssey_jax.loop._carry import own as own
from odyssey_jax.loop._evaluate import evaluate as evaluate
from odyssey_jax.loop._loop import Loop as Loop
from odyssey_jax.loop._loop import finish_compiled as finish_compiled
from odyssey_jax.loop._loop import init_compiled as init_compiled
from odyssey_jax.loop._loop import make_loop as make_loop
from odyssey_jax.loop._loop import run_compiled as run_compiled
from odyssey_jax.loop._loop import run_jitted as run_jitted
from odyssey_jax.loop._mixed_precision import mixed_precision as mixed_precision
from odyssey_jax.loop._population import Population as Population
from odyssey_jax.loop._population import population as population
from odyssey_jax.loop._pure_task import pure_task as pure_task
from odyssey_jax.loop._pure_task import with_outputs as with_outputs
from odyssey_jax.loop._sampling import Sampling as Sampling
from odyssey_jax.loop._sampling import sampling as sampling
from odyssey_jax.loop._train_step import is_transformation as is_transformation
from odyssey_jax.loop._train_step import make_optimizer as make_optimizer
from odyssey_jax.loop._train_step import train_step as train_step
