"""transformers' schedules (transformers.optimization, as of 5.23).

Not here is `get_adafactor_schedule`: it shows the rate that the optimizer Adafactor found by
itself, and is no schedule for another one.
"""

from odyssey_jax.compat.transformers._by_name import (
    TYPE_TO_SCHEDULER_FUNCTION as TYPE_TO_SCHEDULER_FUNCTION,
)
from odyssey_jax.compat.transformers._by_name import get_scheduler as get_scheduler
from odyssey_jax.compat.transformers._metric import GreedyLR as GreedyLR
from odyssey_jax.compat.transformers._metric import get_greedy_schedule as get_greedy_schedule
from odyssey_jax.compat.transformers._metric import (
    get_reduce_on_plateau_schedule as get_reduce_on_plateau_schedule,
)
from odyssey_jax.compat.transformers._warmup import (
    get_constant_schedule as get_constant_schedule,
)
from odyssey_jax.compat.transformers._warmup import (
    get_constant_schedule_with_warmup as get_constant_schedule_with_warmup,
)
from odyssey_jax.compat.transformers._warmup import (
    get_cosine_schedule_with_warmup as get_cosine_schedule_with_warmup,
)
from odyssey_jax.compat.transformers._warmup import (
    get_cosine_with_hard_restarts_schedule_with_warmup as get_cosine_with_hard_restarts_schedule_with_warmup,  # noqa: E501
)
from odyssey_jax.compat.transformers._warmup import (
    get_cosine_with_min_lr_schedule_with_warmup as get_cosine_with_min_lr_schedule_with_warmup,
)
from odyssey_jax.compat.transformers._warmup import (
    get_cosine_with_min_lr_schedule_with_warmup_lr_rate as get_cosine_with_min_lr_schedule_with_warmup_lr_rate,  # noqa: E501
)
from odyssey_jax.compat.transformers._warmup import (
    get_inverse_sqrt_schedule as get_inverse_sqrt_schedule,
)
from odyssey_jax.compat.transformers._warmup import (
    get_linear_schedule_with_warmup as get_linear_schedule_with_warmup,
)
from odyssey_jax.compat.transformers._warmup import (
    get_polynomial_decay_schedule_with_warmup as get_polynomial_decay_schedule_with_warmup,
)
from odyssey_jax.compat.transformers._wsd import get_wsd_schedule as get_wsd_schedule
