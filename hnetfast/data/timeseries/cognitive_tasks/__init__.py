"""Cognitive tasks: trials in which a network sees stimuli, waits and answers."""
