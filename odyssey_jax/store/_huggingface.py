"""The usual layouts of Hugging Face's models, as those of JAX: pure functions of flat dicts.

Modules keep their names. What changes is what PyTorch has otherwise: a linear layer's `weight`
[out, in] is a `kernel` [in, out], a convolution's [out, in, *window] one of [*window, in, out], a
normalisation's a `scale`, an embedding's an `embedding`; the model's own prefix and what is no
parameter are left out; layers are apart, or stacked along a first axis for `lax.scan`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from odyssey_jax._checks import check_words

Arrays = Mapping[str, Any]


class _Family(NamedTuple):
    """How a family of models is laid out; patterns are found in a module's name.

    Attributes:
        prefix: What the names of the model without a head begin with.
        layers: Where the layers are, by their numbers.
        embeddings: The modules that are embeddings.
        norms: Those that are normalisations.
        plain: Linear layers whose weight is [in, out] already.
        dropped: Names that are buffers, and no parameters.
    """

    prefix: str
    layers: str
    embeddings: str = r"$^"  # nothing
    norms: str = r"$^"
    plain: str = r"$^"
    dropped: str = r"$^"


FAMILIES = {
    "gpt2": _Family(
        prefix=r"transformer/",
        layers="h",
        embeddings=r"^w[tp]e$",
        norms=r"(^|/)ln_\w+$",
        plain=r"/c_(attn|proj|fc)$",  # a Conv1D of its own
        dropped=r"/attn/(masked_)?bias$",
    ),
    # Mistral, Qwen and Gemma are laid out so too.
    "llama": _Family(
        prefix=r"model/",
        layers="layers",
        embeddings=r"^embed_tokens$",
        norms=r"norm$",
        dropped=r"/inv_freq$",
    ),
    # And RoBERTa.
    "bert": _Family(
        prefix=r"(bert|roberta)/",
        layers="encoder/layer",
        embeddings=r"^embeddings/\w+_embeddings$",
        norms=r"LayerNorm$",
        dropped=r"/position_ids$",
    ),
    "vit": _Family(
        prefix=r"vit/",
        layers="encoder/layer",
        norms=r"layernorm(_before|_after)?$",
    ),
}

# What older files of BERT call a normalisation's parameters.
_OLD = {"gamma": "weight", "beta": "bias"}


def from_huggingface(arrays: Arrays, family: str, *, stacked: bool = False) -> dict[str, Any]:
    """Return a model's arrays with the names and the axes that JAX's modules have.

    Args:
        arrays: Name -> array, the keys with ``/`` or ``.`` between them.
        family: "gpt2", "llama" (Mistral, Qwen and Gemma too), "bert" (RoBERTa too) or "vit".
        stacked: True for one array of all layers, with a first axis of theirs: ``layers/mlp/...``
            in place of ``layers/0/mlp/...``.

    Returns:
        Name -> array, the keys with ``/`` between them; transposed ones are views. Values are as
        they were: Gemma's scales are what is added to 1.

    Raises:
        ValueError: If the family is none of these, or layers that are stacked are not alike.

    Example:
        >>> linear = np.zeros((8, 3))  # [out, in]
        >>> found = from_huggingface({"model.layers.0.mlp.up_proj.weight": linear}, "llama")
        >>> {name: array.shape for name, array in found.items()}
        {'layers/0/mlp/up_proj/kernel': (3, 8)}

        A transfer takes it, here with the layers of a model of one's own:

        >>> import functools, odyssey_jax as ody
        >>> convert = functools.partial(from_huggingface, family="llama", stacked=True)
        >>> transfer = ody.Transfer(convert=convert, rename={"^layers/": "blocks/"})
    """
    check_words("family", family, tuple(FAMILIES))
    about = FAMILIES[family]
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        name = re.sub(f"^{about.prefix}", "", name.replace(".", "/"))
        if not re.search(about.dropped, name):
            name, array = _parameter(name, array, about)
            found[name] = array
    return stack_layers(found, about.layers) if stacked else found


def _parameter(name: str, array: Any, about: _Family) -> tuple[str, Any]:
    module, _, last = name.rpartition("/")
    last = _OLD.get(last, last)
    if last != "weight":
        return f"{module}/{last}".lstrip("/"), array
    if re.search(about.embeddings, module):
        return f"{module}/embedding", array
    if re.search(about.norms, module) or array.ndim < 2:
        return f"{module}/scale", array
    if re.search(about.plain, module):
        return f"{module}/kernel", array
    return f"{module}/kernel", np.transpose(array, (*range(2, array.ndim), 1, 0))


def stack_layers(arrays: Arrays, layers: str) -> dict[str, Any]:
    """Return arrays with those of all layers as one, with a first axis of theirs.

    Args:
        arrays: Name -> array, the keys with ``/`` between them.
        layers: Where the layers are by their numbers, such as ``"layers"``.

    Returns:
        Name -> array.

    Raises:
        ValueError: If the layers are not alike, or one is missing.

    Example:
        >>> found = stack_layers({"h/0/b": np.zeros(3), "h/1/b": np.ones(3)}, "h")
        >>> {name: array.shape for name, array in found.items()}
        {'h/b': (2, 3)}
    """
    found: dict[str, Any] = {}
    apart: dict[str, dict[int, Any]] = {}
    for name, array in arrays.items():
        if inside := re.fullmatch(rf"{re.escape(layers)}/(\d+)/(.*)", name):
            apart.setdefault(f"{layers}/{inside[2]}", {})[int(inside[1])] = array
        else:
            found[name] = array
    count = 1 + max((max(numbers) for numbers in apart.values()), default=-1)
    for name, by_number in apart.items():
        shapes = sorted({np.shape(array) for array in by_number.values()})
        if len(by_number) < count or len(shapes) > 1:
            raise ValueError(
                f"the layers cannot be stacked: {name} is in {len(by_number)} of {count}, of the "
                f"shapes {shapes}; take them apart, with stacked=False."
            )
        found[name] = np.stack([by_number[number] for number in range(count)])
    return found


def unstack_layers(arrays: Arrays, layers: str) -> dict[str, Any]:
    """Undo `stack_layers`.

    Args:
        arrays: Name -> array, the keys with ``/`` between them.
        layers: Where the layers are, such as ``"layers"``.

    Returns:
        Name -> array; those of the layers are views.

    Raises:
        ValueError: If the arrays there have first axes of several lengths.

    Example:
        >>> found = unstack_layers({"h/b": np.zeros((2, 3)), "scale": np.ones(3)}, "h")
        >>> {name: array.shape for name, array in found.items()}
        {'h/0/b': (3,), 'h/1/b': (3,), 'scale': (3,)}
    """
    stacked = {name: array for name, array in arrays.items() if name.startswith(f"{layers}/")}
    if len(lengths := {np.shape(array)[:1] for array in stacked.values()}) > 1:
        raise ValueError(
            f"the arrays in {layers} are of {sorted(lengths)} layers, which must be 1."
        )
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        if name in stacked:
            inside = name.removeprefix(f"{layers}/")
            found |= {f"{layers}/{number}/{inside}": layer for number, layer in enumerate(array)}
        else:
            found[name] = array
    return found
