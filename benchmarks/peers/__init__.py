"""Comparisons with the peers that do the same work: ``python -m benchmarks.peers <topic>``.

A topic is a module in this folder; nothing has to be registered. It has a docstring, whose first line says in
``--list`` what is compared, and one function, which sets everything up and measures nothing::

    def prepare(options: Options) -> Comparison: ...

What a `Comparison` holds is described there. The harness warms every contender up, picks the fastest of its variants,
checks its output against the reference, and then measures all of them in interleaved rounds, each round beginning with
another contender, so that a disturbance of the machine falls on all alike; a measurement during which other processes
were busy is repeated a few times. Values are medians over the rounds.
"""

from __future__ import annotations

from benchmarks.peers._harness import Absent, Comparison, Contender, Options

__all__ = ["Absent", "Comparison", "Contender", "Options"]
