"""The names of the shipped policies, apart from what they mean: a command's help names them without their engines.

What it does not do: say what a name promises (see `presets`).
"""

PRESETS = ("hipaa-safe-harbor", "pipl-strict", "research-longitudinal")
"""The names of the shipped policies, each a file of conf/deid."""
