"""Secure aggregation: the coordinator learns the sum over a certified set of sites, and nothing else.

A site drives `client.step` with what comes from the coordinator and keeps its `state` in a `store`;
the coordinator drives `server.begin`, `server.step` and `server.result`. `roster` says who may take
part and under which policy, `messages` and `wire` what travels, `masking` what an update becomes.
All of it is pure but for `store`.

The protocol is the active-server variant of Bonawitz et al., Practical Secure Aggregation for
Privacy-Preserving Machine Learning, CCS 2017, over Z_2^k.
"""
