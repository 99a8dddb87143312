"""Other libraries' schedulers, under their own names and arguments, as schedules of this one.

`compat.torch`, `compat.timm`, `compat.transformers` and `compat.keras` hold each scheduler of
those libraries as a function: the library's own arguments as keywords, without the optimizer, and
with `base_lr`, the rate that the optimizer was given. What comes back is a schedule like any
other (data that prints, compares and has a JSON form), which gives at step i the rate in force
for update i, quirks included. A sequence as `base_lr` is one rate for each group of parameters,
and gives a tuple of schedules.

What a library refuses is refused here; so are its arguments that could only be ignored here
(`verbose`, `name`, `initialize`, a `last_epoch` other than -1): the step is an argument, and a
resumed run passes its own.
"""

from odyssey_jax.compat import keras as keras
from odyssey_jax.compat import timm as timm
from odyssey_jax.compat import torch as torch
from odyssey_jax.compat import transformers as transformers
