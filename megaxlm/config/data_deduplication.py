"""Which copies of a text go."""

from __future__ import annotations

from megaxlm.config.base import Section


class DeduplicationConfig(Section):
    """Within one language, or one pair, the first of what is the same stays."""

    documents: bool = True  # exact copies of a document, or of a pair in either direction
