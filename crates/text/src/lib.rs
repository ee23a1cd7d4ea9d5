//! Words and token ids: tokenizers, chat templates, streaming detokenizer, stop strings.
