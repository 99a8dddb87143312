"""The same jobs as others' libraries have them written, each in an environment of its own."""
