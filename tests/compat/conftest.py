"""The recorders need the peers, which the tests do not."""

collect_ignore = ["peers.py", "record.py"]
