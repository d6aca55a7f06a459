"""Toy problems, and data sets split or permuted into several tasks."""
