#!/usr/bin/env python3
"""Writes which tokens of a chat an assistant's loss is taken over, as transformers' chat templates tell it.

    python3 training/oracle/chat_masks.py crates/fixtures/data/training

The tokenizer has one token a byte and ChatML's two markers. The template marks what the assistant says, its closing
marker included.
"""

import argparse
import json
import pathlib
import sys

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

import reference

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

CONVERSATIONS = [
    [("user", "Who was Ishmael?"), ("assistant", "A sailor.")],
    [
        ("system", "Answer in one word."),
        ("user", "Capital of Perú?"),
        ("assistant", "Lima."),
        ("user", "And of Japan? 日本"),
        ("assistant", "東京"),
    ],
    [("user", "assistant"), ("assistant", "user\nassistant"), ("user", "  Bye. ")],
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path, help="folder to write to")
    out = parser.parse_args().out
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(out / "sft-tokenizer")
    conversations = []
    for turns in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in turns]
        encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        ids, mask = encoded["input_ids"], encoded["assistant_masks"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
        conversations.append({"messages": messages, "text": text, "ids": ids, "mask": mask})
    document = {"conversations": conversations} | losses(conversations, len(tokenizer))
    path = out / "sft.json"
    path.write_text(json.dumps(document, ensure_ascii=False) + "\n")
    print(f"{path}: {path.stat().st_size} bytes", file=sys.stderr)


def byte_tokenizer():
    """A BPE tokenizer without merges over the 256 bytes, in the order of GPT-2's alphabet, and the two markers."""
    alphabet = {character: index for index, character in enumerate(bytes_to_unicode().values())}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(marker, special=True) for marker in ("<|im_start|>", "<|im_end|>")])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.chat_template = TEMPLATE
    return fast


def losses(conversations, vocab):
    """Losses of the conversations, one after the other, under logits that a formula gives exactly in f32.

    `logits[t][v] = ((37 t + 101 v) mod 1021) / 128 - 4`, where `t` counts the tokens of all conversations. The logits
    at a token are for the next token of the same conversation, and count where that one's mask is 1.
    """
    total, count, means, start = 0.0, 0, [], 0
    for conversation in conversations:
        ids, mask = torch.tensor(conversation["ids"]), torch.tensor(conversation["mask"])
        t, v = torch.arange(start, start + len(ids))[:, None], torch.arange(vocab)[None]
        logits = ((37 * t + 101 * v) % 1021).float() / 128 - 4
        mean = reference.masked_mean_loss(logits[:-1].double(), ids[1:], mask[1:]).item()
        means.append(mean)
        total += mean * mask[1:].sum().item()
        count += mask[1:].sum().item()
        start += len(ids)
    return {
        "logits": "((37 t + 101 v) mod 1021) / 128 - 4",
        "vocab": vocab,
        "mean_losses": means,
        "targets": count,
        "mean_loss": total / count,
    }


if __name__ == "__main__":
    main()
