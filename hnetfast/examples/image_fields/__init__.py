"""Images as functions of coordinates: a hypernetwork generates a small network with sines for every image.

Sitzmann et al., "Implicit Neural Representations with Periodic Activation Functions", 2020,
https://arxiv.org/abs/2006.09661. Run it with ``python -m hnetfast.examples.image_fields``.
"""
