"""All that speaks to Qdrant; nothing above it imports qdrant_client.

qdrant_client is loaded without FastEmbed, which it would load for `add` and `query`, methods that are not used here, together with ONNX Runtime
and an image library: every command, every worker and the first call of every host would wait for them. The embedders load FastEmbed when a
model of its is wanted.
"""

import sys
from contextlib import suppress

if "qdrant_client" not in sys.modules and "fastembed" not in sys.modules:
    # An import of None is an ImportError, which qdrant_client takes for "not installed".
    sys.modules["fastembed"] = None  # type: ignore[assignment]
    try:
        import qdrant_client as qdrant_client
    finally:
        del sys.modules["fastembed"]
    # A later version may ask elsewhere: then it loads FastEmbed, and nothing else changes.
    with suppress(ImportError):
        from qdrant_client.fastembed_common import FastEmbedMisc

        # Every client asks again, and would load it then.
        FastEmbedMisc.is_installed = classmethod(lambda cls: False)  # type: ignore[method-assign, assignment]
