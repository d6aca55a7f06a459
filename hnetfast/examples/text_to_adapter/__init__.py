"""Adapters from descriptions: a hypernetwork reads what is to be done and makes a language model do it.

Charakorn et al., "Text-to-LoRA: instant transformer adaption", 2025, https://arxiv.org/abs/2506.06105, in
small: ``python -m hnetfast.examples.text_to_adapter``.
"""
