"""Continual learning by replaying posteriors.

Henning, Cervera et al., "Posterior Meta-Replay for Continual Learning", 2021,
https://arxiv.org/abs/2103.01133: a hypernetwork keeps the approximate posterior of every task.
"""
