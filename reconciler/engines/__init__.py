"""The engines of ours, each a program of its own: ``python -m reconciler.engines.X``.

The local target starts them as processes and knows their command lines only; no
other module of the reconciler imports them, and they import nothing of it.
"""
