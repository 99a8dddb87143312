"""The programs are for type checkers, and not to be imported."""

collect_ignore = ["program.py", "wrong.py"]
