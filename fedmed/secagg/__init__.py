"""Secure aggregation: the coordinator learns the sum over a certified set of sites, and nothing else."""
