"""Every compressor, by what it looks at: position, words, the answer's likelihood, or the reader's own distributions.

Importing this package registers them in `COMPRESSORS`; a new one is one function under `@compressor`.
"""

from anchors.compressors import information, lexical, likelihood, positional
from anchors.compressors.base import COMPRESSORS, Compressor, Context, compressor

__all__ = ["COMPRESSORS", "Compressor", "Context", "compressor", "information", "lexical", "likelihood", "positional"]
