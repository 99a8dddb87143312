"""Check that a source of batches keeps what every source promises."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odyssey_jax.testing._compare import check


def check_source(source: Any, *, seed: int = 0) -> None:
    """Check a source of one's own whose batches are traced (`odyssey_jax.data.IndexedSource`).

    - a pass has `full_batches` whole batches, and a smaller one where there is a `remainder`;
    - whole batches have `batch_size` examples, the last one `remainder`, all in one structure
      and in the same dtypes;
    - the same key and pass give the same batches, compiled or not (floats to rounding, as a
      compiler may add in another order), and no batch is traced twice;
    - `signature` is JSON, and the same each time.

    Args:
        source: The one to check.
        seed: Of the key of the shuffles.

    Raises:
        AssertionError: If it does not do one of these; the message says which.

    Example:
        >>> import numpy as np, odyssey_jax as ody
        >>> ody.testing.check_source(ody.ArrayDataset(np.arange(10), 4, shuffle=True))
    """
    import chex

    full, remainder = source.full_batches, source.remainder
    length = f"{full} whole batches and a remainder of {remainder}"
    steps = source.steps_per_pass
    check(steps == full + bool(remainder), f"steps_per_pass is {steps}, but there are {length}.")
    form = source.signature()
    check(json.loads(json.dumps(form)) == form, f"signature() must be JSON, got {form!r}.")
    check(source.signature() == form, "signature() must be the same each time.")
    key = jax.random.key(seed)
    order = source.order(key, 0)
    same = source.order(key, 0)
    chex.assert_trees_all_equal(order, same)

    traces = 0

    @jax.jit
    def compiled(source: Any, order: Any, index: Any) -> Any:
        nonlocal traces
        traces += 1
        return source.batch(order, index)

    batches = [source.batch(order, index) for index in range(full)]
    for index, batch in enumerate(batches):
        again = compiled(source, order, np.int32(index))
        chex.assert_trees_all_equal(_part(again, floats=False), _part(batch, floats=False))
        chex.assert_trees_all_close(_part(again, floats=True), _part(batch, floats=True), rtol=1e-5)
        chex.assert_trees_all_equal_shapes_and_dtypes(batch, batches[0])
        _check_size("batch", batch, source.batch_size)
    check(traces <= 1, f"batch is traced {traces} times: its shapes must not depend on the index.")
    if remainder:
        last = source.last_batch(order)
        _check_size("last_batch", last, remainder)
        chex.assert_trees_all_equal_dtypes(last, batches[0])


def _part(batch: Any, *, floats: bool) -> Any:
    """Return the leaves of a batch that are floats, or those that are not."""
    is_float = lambda x: jnp.issubdtype(x.dtype, jnp.inexact)
    return jax.tree.map(lambda x: x if is_float(x) == floats else None, batch)


def _check_size(what: str, batch: Any, size: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        name = f"{what}(...){jax.tree_util.keystr(path)}"
        check(
            np.ndim(leaf) > 0 and leaf.shape[0] == size,
            f"{name} must have {size} examples, got shape {np.shape(leaf)}.",
        )
