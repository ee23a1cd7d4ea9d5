"""Small tokenizers in the forms of the families' real ones."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

PRINTABLE = [chr(code) for code in range(33, 127)]
PAIRS = ["th", "he", "in", "an", "er", "sh", "wh", "al", "so", "me"]
SENTENCEPIECE_SIZE = 384
GEMMA_SIZE = 128


def byte_level():
    """Byte-level BPE of 128 tokens as of Qwen and GPT-NeoX, for printable text: <|endoftext|> ends a text, <|im_end|> a
    turn."""
    tokens = ["<|endoftext|>", "<|im_end|>", *PRINTABLE, "Ġ", "Ċ"]
    merges = [(pair[0], pair[1]) for pair in PAIRS] + [("Ġ", "th"), ("Ġ", "a"), ("Ġ", "wh"), ("Ġth", "e")]
    tokens += [left + right for left, right in merges]
    assert len(tokens) <= 128
    model = models.BPE(vocab={token: id for id, token in enumerate(tokens)}, merges=merges)
    tokenizer = Tokenizer(model)
    split = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in tokens[:2]])
    return tokenizer, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


def sentencepiece(tokens, bos, **more):
    tokens = tokens + ["▁", *PRINTABLE]
    tokens += [piece for piece in PAIRS + ["▁th", "▁a", "▁wh", "▁the"] if piece not in tokens]
    merges = [(piece[0], piece[1]) for piece in PAIRS] + [("▁", "th"), ("▁", "a"), ("▁", "wh"), ("▁th", "e")]
    model = models.BPE(
        vocab={token: id for id, token in enumerate(tokens)}, merges=merges, unk_token="<unk>", fuse_unk=True, **more
    )
    tokenizer = Tokenizer(model)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokens.index(bos))]
    )
    return tokenizer


def llama():
    """SentencePiece with a token for each byte, as of LLaMA-2 and 1bitLLM: a space before the text."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = sentencepiece(tokens, "<s>", byte_fallback=True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in tokens[:3]])
    return tokenizer, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def gemma():
    """SentencePiece as of Gemma: no space before the text."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokenizer = sentencepiece(tokens, "<bos>")
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in tokens])
    return tokenizer, {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
