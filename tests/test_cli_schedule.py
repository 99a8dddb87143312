"""`odyssey-jax schedule`: it shows what it is given, and evaluates nothing."""

import pytest

import odyssey_jax.schedules as ody_s
from odyssey_jax.cli import main
from odyssey_jax.cli._expression import names, parse


def show(*arguments):
    return main(["schedule", *arguments])


def test_it_shows_words_a_chart_and_saves_a_picture(tmp_path, capsys):
    path = tmp_path / "lr.png"
    arguments = ("--steps", "10_000", "--width", "60", "--save", str(path))
    assert show("warmup_cosine(0.1, 1000, 10_000)", *arguments) == 0
    out = capsys.readouterr().out
    assert "steps 1,000 to 9,999  cosine_decay, 0.1 to" in out
    assert "peak 0.1 at step 1,000" in out
    assert "⠉" in out
    assert f"in {path}: the picture" in out
    assert "?" not in out
    assert path.read_bytes().startswith(b"\x89PNG")
    assert all(len(line) <= 60 for line in out.splitlines()[:13])


def test_it_warns_and_compares_and_resolves(capsys):
    assert show("cosine_decay(0.1, epochs(5))", "constant(0.05)", "--steps", "2000",
                "--steps-per-epoch", "100", "--log") == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "? step 500: the rate is 0 from here on: 1,500 of 2,000 steps" in out
    assert out.count("constant(0.05)\n") == 2
    assert show("warmup_cosine(0.1, 10, 90)", "--steps", "45000", "--steps-per-epoch", "500") == 0
    assert "write epochs(n) for each" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("__import__('os').system('true')", "can't be called: only a schedule's name can"),
        ("constant(0.1).__class__", "is not allowed: a schedule is written with"),
        ("eval('1')", "there is no schedule named 'eval'; there are: "),
        ("cosin_decay(1.0, 9)", "no schedule named 'cosin_decay'; did you mean 'cosine_decay'?"),
        ("from_callable(constant(0.1))", "no schedule named 'from_callable'"),
        ("from_python('x')", "no schedule named 'from_python'"),
        ("lint(constant(0.1), 5)", "no schedule named 'lint'"),
        ("[constant(x) for x in [1]]", "is not allowed"),
        ("(lambda: constant(0.1))()", "can't be called"),
        ("constant(*[0.1])", "* and ** are not allowed"),
        ("constant(**{'value': 0.1})", "* and ** are not allowed"),
        ("constant", "'constant' is not called: write constant(...)"),
        ("constant(open)", "'open' is not called"),
        ("constant(0.1", "cannot read 'constant(0.1' as an expression"),
        ("", "cannot read '' as an expression"),
        ("(" * 5000, "cannot read"),
        ("+" * 3000 + "1", "'+++"),
        ("3 + 4", "is 7 and not a schedule"),
        ("constant(10 ** 10 ** 10)", "too great a power"),
        ("constant('a' * 3)", "is no arithmetic"),
        ("constant(1 / 0)", "fails: division by zero"),
        ("constant(0.1) / constant(0.1)", "fails: unsupported operand"),
        ("cosine_decay(0.1)", "cosine_decay does not take these arguments: missing a required"),
        ("cosine_decay(0.1, 5, end=3)", "got an unexpected keyword argument 'end'"),
        ("cosine_decay(0.1, -5)", "decay_steps must be in the range [0, 2**31 - 1] steps"),
        ("cosine_decay('x', 5)", "init_value must be"),
        ("join(3, 4)", "schedules must be a sequence"),
        ("join([constant(1), constant(2)], 4)", "boundaries"),
        ("product(1, 2, 3)", "product does not take these arguments"),
        ("cosine_decay(0.1, epochs(3))", "written in epochs"),
        ("cosine_decay(0.1, epochs(3))", "before they are steps: use --steps-per-epoch N; got"),
        ("linear_warmup(0.1, tokens(9))", "before they are steps: use --tokens-per-step N; got"),
        (
            "warmup_cosine(0.1, epochs(3), fraction(1))",
            "use --steps-per-epoch N and --steps N; got warmup_cosine(peak_value=0.1",
        ),
        ("constant(0.1)", "odyssey-jax: --steps must be given for a schedule without an end"),
        ("one_cycle(0.1, -5)", "odyssey-jax: total_steps must be in the range"),
        ("f'{1}'", "is not allowed"),
        ("b'1'", "is not allowed"),
        ("1j", "is not allowed"),
    ],
)
def test_bad_expressions_are_one_line(expression, message, capsys):
    assert show(expression) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.err.startswith("odyssey-jax: ")


@pytest.mark.parametrize(
    "arguments",
    [[], ["constant(1)", "--steps", "x"], ["constant(1)", "--nonsense"]],
)
def test_usage_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as done:
        show(*arguments)
    assert done.value.code == 2
    assert "usage: odyssey-jax" in capsys.readouterr().err


def test_bad_options_are_one_line(tmp_path, capsys):
    for options, message in (
        (["--steps", "0"], "total_steps must be in the range"),
        (["--steps", "9", "--width", "5"], "width must be an integer of at least 20, got 5"),
        (["--steps", "9", "--steps-per-epoch", "0"], "steps_per_epoch must be"),
        (["--steps", "9", "--save", str(tmp_path / "lr.txt")], "must end in one of"),
        (["--steps", "9", "--save", str(tmp_path / "no" / "lr.png")], "No such file"),
    ):
        assert show("constant(0.1)", *options) == 1
        captured = capsys.readouterr()
        assert (captured.out, captured.err.count("\n")) == ("", 1)
        assert message in captured.err


def test_what_a_schedule_prints_is_read(all_prints):
    for schedule in all_prints:
        assert parse(repr(schedule)) == schedule


@pytest.fixture
def all_prints():
    return [
        ody_s.warmup_cosine(0.1, 10, 100).stretch(1.5).clip(max_value=0.05),
        2 * ody_s.cosine_decay(1e-3, 10, past_end="mirror") + 1,
        ody_s.multistep_decay(0.1, [3, 4]),
        ody_s.warmup_cosine(0.1, ody_s.epochs(1), ody_s.fraction(1) - ody_s.tokens(5)),
    ]


def test_every_schedule_can_be_written():
    assert {"warmup_cosine", "join", "sum", "then", "epochs", "constant"} <= set(names())
    assert parse("0.5 * then(linear_warmup(1e-1, 2**3), constant(0.1), 8) - 1") == (
        0.5 * ody_s.linear_warmup(0.1, 8).then(ody_s.constant(0.1), 8) - 1
    )
    with pytest.raises(ValueError, match="nested too deeply|cannot read"):
        parse("+" * 900 + "constant(1)" + "+1" * 900)
