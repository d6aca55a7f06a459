"""``python -m hnetfast.examples.image_fields`` is ``python -m hnetfast.examples.image_fields.run``."""

from hnetfast.examples.image_fields.run import main

raise SystemExit(main())
