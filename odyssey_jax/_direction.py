"""Whether less or more of a metric is better, as far as its name says so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

Mode = Literal["min", "max"]

# The last word of a name that says something, and the ends of words written together ("valloss").
_LESS = (
    "loss|losses|error|err|nll|ce|bce|xent|crossentropy|perplexity|ppl|mse|rmse|mae|rmsle|mape"
    "|smape|wer|cer|fid|lpips|bpb|bpc|bpd|regret|cost|brier|crps"
)
_MORE = (
    "accuracy|acc|auc|auroc|auprc|f1|fbeta|precision|recall|sensitivity|specificity|bleu|rouge"
    "|rougel|meteor|chrf|iou|miou|dice|jaccard|ndcg|mrr|psnr|ssim|mcc|kappa|r2|elbo|likelihood"
    "|reward|return|success"
)
_LESS_WORDS, _MORE_WORDS = frozenset(_LESS.split("|")), frozenset(_MORE.split("|"))
_ENDS: tuple[tuple[str, Mode], ...] = (
    ("loss", "min"),
    ("error", "min"),
    ("perplexity", "min"),
    ("accuracy", "max"),
)
# What may follow that word: how it was averaged, or of which rank it is.
_ASIDE = re.compile(r"\d+|at|k|top\d*|mean|avg|average|median|sum|total|ema|macro|micro|weighted")
# Of "1 - accuracy", "inverse_loss" and the like a name says too little.
_UNCLEAR = frozenset({"minus", "inv", "inverse", "inverted", "non", "not", "no"})


def direction(metric: str) -> Mode | None:
    """Return whether "min" or "max" of a metric is better, by its name; None if it doesn't say.

    Example:
        >>> from odyssey_jax._direction import direction
        >>> [direction(name) for name in ("valid/loss", "valid/accuracy", "neg_mse", "grad_norm")]
        ['min', 'max', 'max', None]
    """
    path = [_words(part) for part in metric.split("/")]
    while path and all(map(_ASIDE.fullmatch, path[-1])):
        path.pop()  # "valid/f1/macro"
    if not path:
        return None
    words = path[-1]
    flipped = words[0] in ("neg", "negative") or re.match(r".*/-|-", metric) is not None
    words = words[1:] if words[0] in ("neg", "negative") else words
    if not words or words[0].isdigit() or _UNCLEAR & set(words):
        return None
    while len(words) > 1 and _ASIDE.fullmatch(words[-1]):
        words = words[:-1]
    known = _of_words(words)
    if known is None or not flipped:
        return known
    return "max" if known == "min" else "min"


def _words(part: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", part.lower())


def _of_words(words: list[str]) -> Mode | None:
    last = words[-1]
    if last in ("score", "rate") and len(words) > 1:  # "f1_score", "brier_score", "error_rate"
        before = _of_words(words[:-1])
        return before or ("max" if last == "score" else None)
    if last == "score":
        return "max"
    if last == "entropy":  # by itself it is neither
        return "min" if words[-2:-1] == ["cross"] else None
    if last in _LESS_WORDS:
        return "min"
    if last in _MORE_WORDS:
        return "max"
    return next((mode for end, mode in _ENDS if last.endswith(end)), None)


def better(metric: str, known: Mapping[str, Mode] | None = None) -> Mode:
    """Return whether "min" or "max" of a metric is better.

    Args:
        metric: The metric's name.
        known: Name to mode, of the metrics that say so themselves; the others go by their name.

    Returns:
        The mode.

    Raises:
        ValueError: If it is not known.
    """
    mode = (known or {}).get(metric) or direction(metric)
    if mode is None:
        raise ValueError(
            f"whether less or more of {metric!r} is better is not known: give mode='min' or "
            "mode='max'."
        )
    return mode
