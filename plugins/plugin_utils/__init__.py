"""Code of the plugins that run on the control node.

Each package's docstring says what it may touch. docs/architecture.md lists which package may import which.
"""
