"""`check_source` finds each fault that a source of one's own may have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odyssey_jax as ody


@pytest.mark.parametrize("how", [{}, {"shuffle": True}, {"drop_remainder": True}])
def test_our_own_source_keeps_the_rules(how):
    data = {"x": np.arange(22.0).reshape(11, 2), "y": np.arange(11)}
    ody.testing.check_source(ody.ArrayDataset(data, 4, **how))


class Wrapped:
    """A source with some of its answers replaced."""

    def __init__(self, **replaced):
        self.source = ody.ArrayDataset(np.arange(10), 4)
        self.replaced = replaced

    def __getattr__(self, name):
        return self.replaced.get(name) or getattr(self.source, name)


jax.tree_util.register_pytree_node(
    Wrapped, lambda w: ((w.source,), w.replaced), lambda replaced, _: Wrapped(**replaced)
)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"steps_per_pass": 2}, "steps_per_pass is 2, but there are 2 whole batches and a"),
        ({"signature": lambda: {"x": (1, 2)}}, r"signature\(\) must be JSON"),
        ({"last_batch": lambda order: np.zeros(4, np.int32)}, r"last_batch.* must have 2 examples"),
        ({"batch": lambda order, i: np.zeros(3, np.int32)}, "must have 4 examples"),
        ({"last_batch": lambda order: np.zeros(2, np.float32)}, "dtype"),
    ],
)
def test_faults_are_named(replaced, message):
    with pytest.raises(AssertionError, match=message):
        ody.testing.check_source(Wrapped(**replaced))


def off_by(x):
    """Batches that differ by it where they are compiled."""
    compiled = lambda i: x * isinstance(i, jax.core.Tracer)
    batch = lambda order, i: {"x": jnp.full(4, 5, jnp.asarray(x).dtype) + compiled(i)}
    return Wrapped(batch=batch, last_batch=lambda order: {"x": jnp.zeros(2, jnp.asarray(x).dtype)})


def test_compiled_batches_may_differ_in_rounding_only():
    ody.testing.check_source(off_by(np.float32(1e-6)))
    for x in (np.float32(1e-3), 1):
        with pytest.raises(AssertionError, match="Trees 0 and 1 differ"):
            ody.testing.check_source(off_by(x))
