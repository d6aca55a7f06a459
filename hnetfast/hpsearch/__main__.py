"""``python -m hnetfast.hpsearch`` is ``python -m hnetfast.hpsearch.hpsearch``."""

from hnetfast.hpsearch.hpsearch import _main

_main()
