"""Schedules: values as functions of the step, pure, exact, and data themselves."""

from ._base import Schedule as Schedule
from ._callable import from_callable as from_callable
from ._constant import constant as constant
from ._cosine import cosine_decay as cosine_decay
from ._cyclic import cyclic as cyclic
from ._epochs import by_epoch as by_epoch
from ._epochs import by_epoch_fraction as by_epoch_fraction
from ._epochs import epochs_to_steps as epochs_to_steps
from ._exponential import exponential_decay as exponential_decay
from ._greedy import Greedy as Greedy
from ._greedy import GreedyState as GreedyState
from ._greedy import greedy as greedy
from ._join import join as join
from ._metric import MetricRule as MetricRule
from ._plateau import PlateauState as PlateauState
from ._plateau import ReduceOnPlateau as ReduceOnPlateau
from ._plateau import reduce_on_plateau as reduce_on_plateau
from ._scheduler import Scheduler as Scheduler
from ._scheduler import differences as differences
from ._step_decay import step_decay as step_decay
from ._warmup import exponential_warmup as exponential_warmup
from ._warmup import linear_warmup as linear_warmup
from ._warmup import polynomial_warmup as polynomial_warmup
from ._warmup_cosine import warmup_cosine as warmup_cosine
