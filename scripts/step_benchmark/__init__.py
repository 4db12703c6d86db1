"""The benchmark of steps: who takes part, each in a process of its own, and what is told of it."""
