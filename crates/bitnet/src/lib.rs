//! Run and embed 1.58-bit (ternary) language models.
