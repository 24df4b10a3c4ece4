"""Differential privacy: plans and calibration, the training engine, noise and the budget ledger.

Why it exists: everything that touches the privacy guarantee stands in one room.

Rules:
    * `engine` is the only module that imports opacus or torch; `plan`, `noise` and `ledger`
      stay light, so a coordinator can plan and an administrator can read a budget without them.

What it does not do: choose models, aggregate, or talk to anyone.
"""
