"""Several overrides in one text, as in "attention=lsh,model.sizes=[1,2]"."""

from __future__ import annotations

import re

# A comma before a key; others belong to a value.
BETWEEN_OVERRIDES = re.compile(r",\s*(?=[\w./@+~-]+=)")
