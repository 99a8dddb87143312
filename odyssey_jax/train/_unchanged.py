"""Which leaves of a run's carry no step changes: what a checkpoint need not hold anew."""

from __future__ import annotations

import collections
from typing import Any

import jax
import jax.numpy as jnp

from odyssey_jax._types import ModelState, PyTree
from odyssey_jax.callbacks import Tracked
from odyssey_jax.train._carry import Carry
from odyssey_jax.train._passed_on import origins
from odyssey_jax.transforms import frozen_names


def has_untrained(carry: Carry) -> bool:
    """Return whether a run has parameters that are not trained, by `trainable=` or `freeze`."""
    state = carry.state
    return isinstance(state.model_state, ModelState) or bool(frozen_names(state.opt_state))


class Unchanged:
    """The parameters and model states that the programs of a run hand on as they were.

    So are those in the best epoch's snapshot, as soon as there is one: they are what the state
    holds, and what another best would put in their place.
    """

    def __init__(self) -> None:
        self._state: set[int] = set()
        self._copies: dict[int, int] = {}
        self._noted = self._equal = False

    def note(self, jaxpr: Any, carry: Carry, bests: tuple[Tracked, ...]) -> None:
        """Take note of a program that is called.

        Args:
            jaxpr: What it was traced to; the carry is its first argument, and its first result.
            carry: Such a carry.
            bests: What its callbacks hold.
        """
        numbers = {id(leaf): number for number, leaf in enumerate(jax.tree.leaves(carry))}
        mine = [numbers[id(x)] for x in jax.tree.leaves(_kept(carry))]
        found = origins(jaxpr)
        same = {number for number in mine if found[number] == number}
        copies = {
            numbers[id(copy)]: number
            for tracked in bests
            if jax.tree.structure(tracked.best.snapshot) == jax.tree.structure(_kept(carry))
            for copy, number in zip(jax.tree.leaves(tracked.best.snapshot), mine, strict=True)
            if number in same
        }
        if copies:
            names = list(range(len(getattr(jaxpr, "jaxpr", jaxpr).invars)))
            for copy, number in copies.items():
                names[copy] = number
            found = origins(jaxpr, names)
            if any(found[copy] != number for copy, number in copies.items()):
                copies = {}  # one that changes may be what another is made of
        if self._noted:
            same &= self._state
            copies = copies if copies == self._copies else {}
        self._state, self._copies, self._noted = same, copies, True

    def names(self, carry: Carry, saved: PyTree) -> list[str]:
        """Return them by their names in a checkpoint.

        Args:
            carry: As it is now.
            saved: What of it is saved: its first leaves.
        """
        if not self._state:
            return []
        leaves = jax.tree.leaves(carry)
        if self._copies and not self._equal:  # once they are, they stay so
            pairs = [(leaves[copy], leaves[number]) for copy, number in self._copies.items()]
            self._equal = bool(_all_equal(pairs))
        found = self._state | (self._copies.keys() if self._equal else set())
        names = [
            jax.tree_util.keystr(path, simple=True, separator="/")
            for path, _ in jax.tree_util.tree_leaves_with_path(saved)
        ]
        # A key may have a slash in it, so that a name is of several nodes.
        times = collections.Counter(names)
        times.update({above for name in names for above in _above(name)})
        return [names[number] for number in sorted(found) if times[names[number]] == 1]


def _kept(carry: Carry) -> PyTree:
    return carry.state.params, carry.state.model_state


@jax.jit
def _all_equal(pairs: list[tuple[Any, Any]]) -> Any:
    bits = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    equal = [jnp.array_equal(bits(a), bits(b)) for a, b in pairs]
    return jnp.all(jnp.stack(equal))


def _above(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]
