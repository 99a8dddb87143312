"""Record the curves of the real peers that the tests compare with: `python tests/compat/record.py`.

Needs what the tests don't: torch 2.13, transformers 5.23, timm 1.0.31, keras 3.15 (the versions
used are written down with the curves); torchvision is not needed. The form of a curve is in
`curves.json` under "conventions"; the arguments are drawn here from a seeded generator, `--seed`
and `--each` give other ones, and `--out` another file.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers

Curve = dict[str, Any]
TORCH = "torch.optim.lr_scheduler."
HF = "transformers.optimization."
TIMM = "timm.scheduler."
KERAS = "keras.optimizers.schedules."

CONVENTIONS = (
    "A curve: id; peer (dotted name of the class or function); kwargs as the peer was called "
    '({"__lambda__": expr} is lambda t: expr; {"__peer__", "kwargs"} a nested scheduler); base_lr '
    "of the optimizer (a list: one per parameter group); drive: step (lr[i] is in force for update "
    "i), at (for update steps[i]), metric (after metrics[i] was given); momentum where it is "
    "cycled; raises: the peer refused, with this error."
)


def rate(r: random.Random) -> float:
    return r.choice([1.0, 0.1, 0.05, 3e-4, 5e-5, round(10 ** r.uniform(-5, 0.5), 7)])


def factor(r: random.Random, low: float = 0.05, high: float = 1.0) -> float:
    return r.choice([0.1, 0.5, 0.9, 1 / 3, round(r.uniform(low, high), 4)])


def some(r: random.Random, **options: Callable[[], Any]) -> dict[str, Any]:
    """Some of the optional arguments."""
    return {name: draw() for name, draw in options.items() if r.random() < 0.6}


# torch


def step_lr(r):
    return {"step_size": r.choice([1, 2, 7, 30, r.randint(1, 50)]), **some(r, gamma=lambda: g(r))}


def g(r):
    return r.choice([0.1, 0.5, 0.9, 0.97, 1.0, 1.05, round(r.uniform(0.05, 1.1), 4)])


def multistep_lr(r):
    many = r.randint(0, 5)
    return {
        "milestones": [r.randint(0, 60) for _ in range(many)],
        **some(r, gamma=lambda: g(r)),
    }


def constant_lr(r):
    return some(r, factor=lambda: factor(r), total_iters=lambda: r.randint(0, 20))


def linear_lr(r):
    return some(
        r,
        start_factor=lambda: factor(r),
        end_factor=lambda: r.choice([0.0, 1.0, factor(r)]),
        total_iters=lambda: r.randint(0, 30),
    )


def exponential_lr(r):
    return {
        "gamma": r.choice([0.5, 0.9, 0.95, 0.99, 0.999, 1.0, 1.01, round(r.random(), 5) + 0.01])
    }


def polynomial_lr(r):
    return some(
        r,
        total_iters=lambda: r.randint(1, 60),
        power=lambda: r.choice([1.0, 2.0, 0.5, 0.9, 3, round(r.uniform(0.1, 4), 3)]),
    )


def cosine_lr(r):
    return {
        "T_max": r.choice([1, 2, 10, r.randint(1, 60)]),
        **some(r, eta_min=lambda: r.choice([0.0, 1e-5, 1e-3, 0.5])),
    }


def sgdr(r):
    return {
        "T_0": r.randint(1, 20),
        **some(
            r, T_mult=lambda: r.choice([1, 2, 3]), eta_min=lambda: r.choice([0, 1e-5, 1e-3, 0.5])
        ),
    }


def one_cycle_lr(r, groups=0):
    total = (
        {"total_steps": r.randint(3, 100)}
        if r.random() < 0.6
        else {"epochs": r.randint(2, 6), "steps_per_epoch": r.randint(3, 12)}
    )
    top = [rate(r) for _ in range(groups)] if groups and r.random() < 0.7 else rate(r)
    return {
        "max_lr": top,
        **total,
        **some(
            r,
            pct_start=lambda: r.choice([0.1, 0.3, 0.25, 0.5, 0.4, round(r.random(), 3)]),
            anneal_strategy=lambda: r.choice(["cos", "linear"]),
            div_factor=lambda: r.choice([10.0, 2.0, 25]),
            final_div_factor=lambda: r.choice([1.0, 100.0, 1e3]),
            three_phase=lambda: r.choice([True, False]),
            base_momentum=lambda: r.choice([0.8, 0.85, 0.5]),
            max_momentum=lambda: r.choice([0.95, 0.9]),
            cycle_momentum=lambda: r.choice([True, False]),
        ),
    }


def cyclic_lr(r, groups=0):
    wide = groups and r.random() < 0.7
    base = [rate(r) for _ in range(groups)] if wide else rate(r)
    up = r.choice([3, 5, 10, r.randint(1, 30)])
    scale = r.choice(["1.0/(1.0+t)", "0.5**t", "0.9**t", "1/(2.**(t-1))", "max(0.1, 1-t/50)"])
    scaled = {"scale_fn": {"__lambda__": scale}, "scale_mode": r.choice(["cycle", "iterations"])}
    mode = r.choice(["triangular", "triangular2", "exp_range"])
    return {
        "base_lr": base,
        "max_lr": [10 * b for b in base] if wide else r.choice([10 * base, 2 * base, 0.5 * base]),
        **({"step_size_up": up} if r.random() < 0.95 else {}),
        **some(r, step_size_down=lambda: r.choice([up, r.randint(1, 30)])),
        **(scaled if r.random() < 0.25 else {"mode": mode, "gamma": r.choice([0.99, 0.999, 0.9])}),
        **some(
            r,
            cycle_momentum=lambda: r.choice([True, False]),
            base_momentum=lambda: r.choice([0.8, 0.5]),
            max_momentum=lambda: r.choice([0.9, 0.95]),
        ),
    }


def swalr(r, groups=0):
    wide = groups and r.random() < 0.7
    return {
        "swa_lr": [rate(r) for _ in range(groups)] if wide else rate(r),
        **some(
            r,
            anneal_epochs=lambda: r.choice([0, 1, 5, 10, r.randint(0, 40)]),
            anneal_strategy=lambda: r.choice(["cos", "linear"]),
        ),
    }


LAMBDAS = [
    "t // 30", "0.95**t", "1.0/(1.0+t)", "1 / (1 + t)", "min(1.0, (t + 1) / 10)", "math.cos(t / 9)",
    "1.0 if t < 7 else 0.3", "float(t) / 10", "max(0.0, 1 - t / 40)", "t ** 4 / 1e6", "2",
    "math.exp(-t / 20) if t > 3 else t / 3", "0.65 ** (t // 3)", "(t + 1) ** -0.5", "2 ** -t",
]  # fmt: skip
FACTORS = ["0.95", "0.9 if t < 10 else 1.0", "1 - 1 / (t + 2)", "0.5 if t % 7 == 0 else 1", "1.01"]


def lambda_lr(r, groups=0):
    return {"lr_lambda": functions(r, LAMBDAS, groups)}


def multiplicative_lr(r, groups=0):
    return {"lr_lambda": functions(r, FACTORS, groups)}


def functions(r, choices, groups):
    pick = lambda: {"__lambda__": r.choice(choices)}
    return [pick() for _ in range(groups)] if groups and r.random() < 0.7 else pick()


def nested(r, kinds):
    name, draw = r.choice(kinds)
    return {"__peer__": TORCH + name, "kwargs": draw(r)}


PIECES = [
    ("StepLR", step_lr), ("MultiStepLR", multistep_lr), ("ExponentialLR", exponential_lr),
    ("ConstantLR", lambda r: {"factor": factor(r), "total_iters": r.randint(1, 20)}),
    ("LinearLR", lambda r: {"start_factor": factor(r), "total_iters": r.randint(1, 20)}),
    ("PolynomialLR", polynomial_lr), ("LambdaLR", lambda_lr),
    ("CosineAnnealingLR", cosine_lr), ("CosineAnnealingWarmRestarts", sgdr),
    ("MultiplicativeLR", multiplicative_lr),
]  # fmt: skip


def sequential_lr(r, groups=0):
    many = r.randint(1, 4)
    return {
        "schedulers": [nested(r, PIECES) for _ in range(many)],
        "milestones": sorted(r.randint(0, 50) for _ in range(many - 1)),
    }


def chained(r, groups=0):
    """Those that multiply the rate, and now and then one at the end that sets it."""
    multiply, others = [*PIECES[:6], PIECES[9]], [PIECES[6], PIECES[8]]
    pieces = [nested(r, multiply) for _ in range(r.randint(1, 3))]
    if r.random() < 0.3:
        cosine = {"__peer__": TORCH + "CosineAnnealingLR", "kwargs": {"T_max": r.randint(1, 50)}}
        return {"schedulers": r.sample([*pieces, cosine], len(pieces) + 1)}
    return {"schedulers": [*pieces, *([nested(r, others)] if r.random() < 0.2 else [])]}


def plateau(r, groups=0):
    floor = [1e-4 * (i + 1) for i in range(groups)]
    return some(
        r,
        mode=lambda: r.choice(["min", "max"]),
        factor=lambda: r.choice([0.1, 0.5, 0.3, 0.9]),
        patience=lambda: r.randint(0, 4),
        threshold=lambda: r.choice([1e-4, 1e-2, 0.0, 0.1]),
        threshold_mode=lambda: r.choice(["rel", "abs"]),
        cooldown=lambda: r.randint(0, 3),
        min_lr=lambda: floor if groups and r.random() < 0.5 else r.choice([0, 1e-3, 1e-5]),
        eps=lambda: r.choice([1e-8, 1e-3, 0.0]),
    )


# transformers


def warmup_and_total(r):
    warmup = r.choice([0, 1, 2, 10, r.randint(0, 30)])
    return {
        "num_warmup_steps": warmup,
        "num_training_steps": warmup + r.choice([1, 10, 50, r.randint(1, 80)]),
    }


def hf_linear(r):
    drawn = warmup_and_total(r)
    return {**drawn, "num_training_steps": r.choice([drawn["num_training_steps"], 5, 10])}


def hf_cosine(r):
    cycles = lambda: r.choice([0.5, 0.25, 1.0, 1.5, 2, 0.75, 3.7, round(r.uniform(0.1, 4), 3)])
    return {**warmup_and_total(r), **some(r, num_cycles=cycles)}


def hf_restarts(r):
    return {**warmup_and_total(r), **some(r, num_cycles=lambda: r.choice([1, 2, 3, 4, 5, 1.5]))}


def hf_polynomial(r):
    return {
        **warmup_and_total(r),
        **some(
            r,
            lr_end=lambda: r.choice([1e-7, 0.0, 1e-6, 1e-5]),
            power=lambda: r.choice([1.0, 2.0, 0.5, 3, 1.7]),
        ),
    }


def hf_inverse_sqrt(r):
    return {
        "num_warmup_steps": r.choice([0, 1, 10, r.randint(0, 40)]),
        **some(r, timescale=lambda: r.choice([1, 10, 100, 10_000, r.randint(1, 100)])),
    }


def floor_of(r):
    return r.choice(
        [{"min_lr": r.choice([0.0, 1e-5, 1e-6])}, {"min_lr_rate": r.choice([0.0, 0.1, 0.5])}]
    )


def hf_cosine_min_lr(r):
    return {**hf_cosine(r), **floor_of(r)}


def hf_cosine_warmup_min_lr(r):
    return {
        **hf_cosine_min_lr(r),
        **some(r, warmup_lr_rate=lambda: r.choice([0.0, 0.1, 0.5])),
    }


def hf_wsd(r):
    warmup, decay = r.randint(0, 15), r.randint(0, 20)
    stable = r.randint(0, 25)
    length = r.choice(
        [
            {"num_stable_steps": stable},
            {"num_training_steps": warmup + decay + stable - r.choice([0, 0, 0, stable // 2, 8])},
        ]
    )
    shapes = ["linear", "cosine", "1-sqrt"]
    return {
        "num_warmup_steps": warmup,
        "num_decay_steps": decay,
        **length,
        **some(
            r,
            warmup_type=lambda: r.choice(shapes),
            decay_type=lambda: r.choice(shapes),
            min_lr_ratio=lambda: r.choice([0.0, 0.1, 0.5]),
            num_cycles=lambda: r.choice([0.5, 1.0, 0.25, 1.5]),
        ),
    }


def greedy(r, groups=0):
    low = [1e-4 * (i + 1) for i in range(groups)]
    return some(
        r,
        mode=lambda: r.choice(["min", "max"]),
        factor=lambda: r.choice([0.5, 0.9, 0.95, 0.8]),
        patience=lambda: r.randint(0, 4),
        threshold=lambda: r.choice([1e-6, 1e-2, 0.0, 0.1]),
        threshold_mode=lambda: r.choice(["rel", "abs"]),
        cooldown=lambda: r.randint(0, 3),
        warmup=lambda: r.randint(0, 3),
        min_lr=lambda: low if groups and r.random() < 0.5 else r.choice([1e-3, 1e-5, 0.01]),
        max_lr=lambda: r.choice([1.0, 0.5, 0.1]),
        eps=lambda: r.choice([1e-8, 1e-3, 0.0]),
        smooth=lambda: r.choice([True, False]),
        window_size=lambda: r.choice([2, 5, 50]),
        reset_start=lambda: r.choice([0, 1, 2, 5, 500]),
    )


# timm


def timm_common(r, prefix=True):
    return some(
        r,
        warmup_t=lambda: r.choice([0, 3, 5, r.randint(0, 12)]),
        warmup_lr_init=lambda: r.choice([0.0, 1e-5, 1e-3]),
        t_in_epochs=lambda: r.choice([True, False]),
        **({"warmup_prefix": lambda: r.choice([True, False])} if prefix else {}),
        **(
            {
                "noise_range_t": lambda: r.choice([5, [4, 30], None]),
                "noise_pct": lambda: r.choice([0.67, 0.3, 1.5]),
                "noise_std": lambda: r.choice([1.0, 0.5]),
                "noise_seed": lambda: r.choice([42, 0, 123]),
            }
            if r.random() < 0.25
            else {}
        ),
    )


def timm_cycles(r, k_decay=True):
    return {
        "t_initial": r.choice([1, 5, 10, 30, r.randint(1, 40)]),
        **timm_common(r),
        **some(
            r,
            lr_min=lambda: r.choice([0.0, 1e-5, 1e-3]),
            cycle_mul=lambda: r.choice([1.0, 2.0, 1.5, 3.0]),
            cycle_decay=lambda: r.choice([1.0, 0.5, 0.1, 0.9]),
            cycle_limit=lambda: r.choice([1, 2, 3, 5]),
            **({"k_decay": lambda: r.choice([1.0, 0.5, 2.0, 1.5])} if k_decay else {}),
        ),
    }


def timm_tanh(r):
    bounds = some(r, lb=lambda: r.choice([-7.0, -6.0, -2.0]), ub=lambda: r.choice([3.0, 4.0, 1.0]))
    return {**timm_cycles(r, k_decay=False), **bounds}


def timm_poly(r):
    power = lambda: r.choice([0.5, 1.0, 2.0, 0.9, 3])
    return {**timm_cycles(r), **some(r, power=power)}


def timm_step(r):
    return {
        "decay_t": r.choice([1, 4, 10, 2.5, r.randint(1, 20)]),
        **timm_common(r),
        **some(r, decay_rate=lambda: r.choice([1.0, 0.5, 0.1, 0.97])),
    }


def timm_multistep(r):
    return {
        "decay_t": sorted(r.randint(0, 50) for _ in range(r.randint(0, 4))),
        **timm_common(r),
        **some(r, decay_rate=lambda: r.choice([1.0, 0.5, 0.1, 0.97])),
    }


def timm_wsd(r):
    total = r.randint(2, 50)
    return {
        "t_initial": total,
        "decay_t": r.randint(1, total),
        **timm_common(r, prefix=False),
        **some(
            r,
            lr_min=lambda: r.choice([0.0, 1e-5, 1e-3]),
            stable_fn=lambda: r.choice(["constant", "rsqrt", "power"]),
            stable_timescale=lambda: r.choice([1.0, 10, 2.5]),
            stable_power=lambda: r.choice([0.5, 0.3, 1.0]),
            decay_fn=lambda: r.choice(
                ["linear", "1-sqrt", "cosine", "power", "exp", {"__lambda__": "(1 - t) ** 3"}]
            ),
            decay_power=lambda: r.choice([0.5, 1.0, 2.0]),
            decay_ratio=lambda: r.choice([0.1, 0.01, 0.5]),
        ),
    }


def timm_plateau(r, groups=0):
    return {
        **{k: v for k, v in timm_common(r, prefix=False).items() if k != "t_in_epochs"},
        **some(
            r,
            decay_rate=lambda: r.choice([0.1, 0.5, 0.9]),
            patience_t=lambda: r.randint(0, 4),
            threshold=lambda: r.choice([1e-4, 1e-2, 0.0]),
            cooldown_t=lambda: r.randint(0, 3),
            lr_min=lambda: r.choice([0.0, 1e-3]),
            mode=lambda: r.choice(["min", "max"]),
            noise_type=lambda: r.choice(["normal", "uniform"]),
        ),
    }


# keras


def keras_exponential(r):
    return {
        "initial_learning_rate": rate(r),
        "decay_steps": r.choice([1, 5, 10, r.randint(1, 40)]),
        "decay_rate": r.choice([0.96, 0.5, 1.0, 1.2, 0.1]),
        **some(r, staircase=lambda: r.choice([True, False])),
    }


def keras_piecewise(r):
    many = r.randint(1, 5)
    return {
        "boundaries": sorted(r.randint(0, 50) for _ in range(many)),
        "values": [rate(r) for _ in range(many + 1)],
    }


def keras_polynomial(r):
    return {
        "initial_learning_rate": rate(r),
        "decay_steps": r.randint(1, 40),
        **some(
            r,
            end_learning_rate=lambda: r.choice([0.0, 1e-4, 0.01]),
            power=lambda: r.choice([1.0, 2.0, 0.5, 3.0]),
            cycle=lambda: r.choice([True, False]),
        ),
    }


def keras_cosine(r):
    warmup = {"warmup_target": rate(r), "warmup_steps": r.randint(0, 20)}
    return {
        "initial_learning_rate": r.choice([0.0, rate(r)]),
        "decay_steps": r.randint(1, 50),
        **some(r, alpha=lambda: r.choice([0.0, 0.1, 0.5])),
        **(warmup if r.random() < 0.6 else {}),
    }


def keras_restarts(r):
    return {
        "initial_learning_rate": rate(r),
        "first_decay_steps": r.randint(1, 30),
        **some(
            r,
            t_mul=lambda: r.choice([1.0, 2.0, 1.5, 3.0]),
            m_mul=lambda: r.choice([1.0, 0.5, 0.9]),
            alpha=lambda: r.choice([0.0, 0.1, 0.5]),
        ),
    }


def keras_plateau(r):
    return some(
        r,
        factor=lambda: r.choice([0.1, 0.5, 0.9]),
        patience=lambda: r.randint(0, 4),
        mode=lambda: r.choice(["min", "max", "auto"]),
        min_delta=lambda: r.choice([1e-4, 0.01, 0.0]),
        cooldown=lambda: r.randint(0, 3),
        min_lr=lambda: r.choice([0.0, 1e-3]),
    )


STEPS: list[tuple[str, Callable[[random.Random], dict[str, Any]]]] = [
    (TORCH + "StepLR", step_lr),
    (TORCH + "MultiStepLR", multistep_lr),
    (TORCH + "ConstantLR", constant_lr),
    (TORCH + "LinearLR", linear_lr),
    (TORCH + "ExponentialLR", exponential_lr),
    (TORCH + "PolynomialLR", polynomial_lr),
    (TORCH + "CosineAnnealingLR", cosine_lr),
    (TORCH + "CosineAnnealingWarmRestarts", sgdr),
    (TORCH + "OneCycleLR", one_cycle_lr),
    (TORCH + "CyclicLR", cyclic_lr),
    (TORCH + "LambdaLR", lambda_lr),
    (TORCH + "MultiplicativeLR", multiplicative_lr),
    (TORCH + "SequentialLR", sequential_lr),
    (TORCH + "ChainedScheduler", chained),
    ("torch.optim.swa_utils.SWALR", swalr),
    (HF + "get_constant_schedule", lambda r: {}),
    (HF + "get_constant_schedule_with_warmup", lambda r: {"num_warmup_steps": r.randint(0, 30)}),
    (HF + "get_linear_schedule_with_warmup", hf_linear),
    (HF + "get_cosine_schedule_with_warmup", hf_cosine),
    (HF + "get_cosine_with_hard_restarts_schedule_with_warmup", hf_restarts),
    (HF + "get_polynomial_decay_schedule_with_warmup", hf_polynomial),
    (HF + "get_inverse_sqrt_schedule", hf_inverse_sqrt),
    (HF + "get_cosine_with_min_lr_schedule_with_warmup", hf_cosine_min_lr),
    (HF + "get_cosine_with_min_lr_schedule_with_warmup_lr_rate", hf_cosine_warmup_min_lr),
    (HF + "get_wsd_schedule", hf_wsd),
    (TIMM + "CosineLRScheduler", timm_cycles),
    (TIMM + "TanhLRScheduler", timm_tanh),
    (TIMM + "PolyLRScheduler", timm_poly),
    (TIMM + "StepLRScheduler", timm_step),
    (TIMM + "MultiStepLRScheduler", timm_multistep),
    (TIMM + "WSDLRScheduler", timm_wsd),
    (KERAS + "ExponentialDecay", keras_exponential),
    (KERAS + "InverseTimeDecay", keras_exponential),
    (KERAS + "PiecewiseConstantDecay", keras_piecewise),
    (KERAS + "PolynomialDecay", keras_polynomial),
    (KERAS + "CosineDecay", keras_cosine),
    (KERAS + "CosineDecayRestarts", keras_restarts),
]
METRICS = [
    (TORCH + "ReduceLROnPlateau", plateau),
    (HF + "GreedyLR", greedy),
    (TIMM + "PlateauLRScheduler", timm_plateau),
    ("keras.callbacks.ReduceLROnPlateau", keras_plateau),
]
GROUPED = {"OneCycleLR", "CyclicLR", "SWALR", "LambdaLR", "MultiplicativeLR"}


def stepped(r: random.Random, name: str, draw: Callable[..., Any]) -> Curve:
    short = name.rpartition(".")[2]
    n = r.choice([12, 40, 70, 90])
    if name.startswith(KERAS):
        return {"peer": name, "kwargs": draw(r), "base_lr": None, "drive": "step", "n": n}
    groups = r.choice([0, 0, 0, 2, 3])
    kwargs = draw(r, groups) if short in GROUPED else draw(r)
    base = [rate(r) for _ in range(groups)] if groups else rate(r)
    curve = {"peer": name, "kwargs": kwargs, "base_lr": base, "drive": "step", "n": n}
    if short == "OneCycleLR":
        curve["n"] = kwargs.get("total_steps") or kwargs["epochs"] * kwargs["steps_per_epoch"]
    if short in ("OneCycleLR", "CyclicLR") and kwargs.get("cycle_momentum", True):
        curve["optimizer_momentum"] = 0.9
    return curve


def measured(r: random.Random, name: str, draw: Callable[..., Any]) -> Curve:
    grouped = name.startswith((TORCH, HF))
    groups = r.choice([0, 0, 2]) if grouped else 0
    kwargs = draw(r, groups) if grouped else draw(r)
    base = [rate(r) for _ in range(groups)] if groups else rate(r)
    return {"peer": name, "kwargs": kwargs, "base_lr": base, "drive": "metric",
            "metrics": metrics(r)}  # fmt: skip


def metrics(r: random.Random) -> list[float]:
    """A metric that improves, stalls and jumps; negative now and then."""
    value, sign = r.choice([1.0, 10.0, 0.5]), r.choice([1, 1, -1])
    result = []
    for _ in range(r.choice([15, 40])):
        value *= r.choice([1.0, 1.0, 0.9, 0.99, 0.9999, 1.02, 1.1])
        result.append(sign * round(value, 6))
    return result


def long_curves() -> list[Curve]:
    """Far out, where float32 and int32 give up; by the peers' closed forms."""
    top = 2**26
    steps = [0, 1, 1000, 2**24, 2**24 + 1, 2**25, top - 1000, top - 2, top - 1, top, top + 5]
    rows = [
        # The tail is left out where the peer's own 1 + cos has lost its digits.
        (TORCH + "CosineAnnealingLR", {"T_max": top}, steps[:7]),
        (TORCH + "PolynomialLR", {"total_iters": top, "power": 0.5}, steps),
        (TORCH + "LinearLR", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": top}, steps),
        (TORCH + "StepLR", {"step_size": 1_000_003, "gamma": 0.9}, steps),
        (TORCH + "ExponentialLR", {"gamma": 0.999999}, [0, 1, 10**3, 10**6, 10**7]),
        (HF + "get_linear_schedule_with_warmup",
         {"num_warmup_steps": 1000, "num_training_steps": top}, steps),
        (HF + "get_cosine_schedule_with_warmup",
         {"num_warmup_steps": 1000, "num_training_steps": top}, steps[:7]),
        (HF + "get_inverse_sqrt_schedule", {"num_warmup_steps": 4000}, steps),
    ]  # fmt: skip
    return [
        {"peer": name, "kwargs": kwargs, "base_lr": 1.0, "drive": "at", "steps": at, "tier": "long"}
        for name, kwargs, at in rows
    ]


def recorded(curve: Curve) -> Curve:
    try:
        return peers.drive(curve)
    except Exception as error:
        return {**curve, "raises": f"{type(error).__name__}: {error}"}


def by_name(r: random.Random) -> Curve:
    """timm's schedules by name, with the number of epochs that it gives."""
    names = ["cosine", "tanh", "poly", "step", "constant", "multistep", "wsd", "rsqrt", "none"]
    kwargs = {
        "sched": r.choice([*names, "bad"]),
        "num_epochs": r.choice([10, 20, 30]),
        "warmup_epochs": r.choice([0, 3, 5]),
        "warmup_prefix": r.choice([True, False]),
        "cooldown_epochs": r.choice([0, 4]),
        **some(
            r,
            decay_epochs=lambda: r.choice([5, None, 8]),
            decay_milestones=lambda: r.choice([[4, 8], [3, 15]]),
            decay_rate=lambda: r.choice([0.5, 0.1]),
            min_lr=lambda: r.choice([0.0, 1e-4]),
            noise=lambda: r.choice([[0.2, 0.8], 0.5, None]),
            cycle_mul=lambda: r.choice([1.0, 2.0]),
            cycle_limit=lambda: r.choice([1, 2]),
            decay_fn=lambda: r.choice(["linear", "cosine"]),
        ),
        **({"step_on_epochs": False, "updates_per_epoch": 2} if r.random() < 0.4 else {}),
    }
    return peers.drive_by_name({"kwargs": kwargs, "base_lr": 0.1, "n": 45})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--each", type=int, default=7, help="curves of each kind")
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("recorded.json"))
    options = parser.parse_args()
    r = random.Random(options.seed)
    curves = [] if options.only else long_curves()
    for kinds, build in ((STEPS, stepped), (METRICS, measured)):
        for name, draw in kinds:
            if options.only in name:
                curves += [build(r, name, draw) for _ in range(options.each)]
    rows = []
    for index, curve in enumerate(curves):
        rows.append({"id": f"{curve['peer']}/{index}", **recorded(curve)})
    text = ",\n".join(json.dumps(row) for row in rows)
    head = json.dumps({"made_with": peers.VERSIONS, "conventions": CONVENTIONS})[:-1]
    options.out.write_text(f'{head}, "curves": [\n{text}\n]}}\n')
    if not options.only:
        named = ",\n".join(json.dumps(by_name(r)) for _ in range(30))
        options.out.with_name("by_name.json").write_text(f"[\n{named}\n]\n")


if __name__ == "__main__":
    main()
