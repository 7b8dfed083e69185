"""Text -> numbers: the only file that knows the library `tokenizers`.

A tokenizer is a frozen dataclass of options. What it gives is always [start,] pieces, end, pad, ... of one length; the end stands
also where a text is cut. Ids and pieces are those of the published programs, whose files it reads.
"""

import gzip
import html
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np

from jaxgen.core.given import FilePath
from jaxgen.core.ranges import Count, Range
from jaxgen.core.spec import Field, weighed
from jaxgen.data.prompts import weights
from jaxgen.errors import UserError

BYTES = [
    *range(33, 127),
    *range(161, 173),
    *range(174, 256),
]  # that stand for themselves; the others are moved behind 255
ALPHABET = [chr(b) for b in BYTES] + [chr(256 + n) for n in range(256 - len(BYTES))]  # GPT-2's, in its order
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # CLIP's


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """What all of them are; `length` is the number of tokens of every text, shorter ones are padded and longer ones cut."""

    length: Annotated[int, Range(least=2)] = 77
    chunks: Count = 1  # rows of so many tokens, each with its start and end, for nets that attend to states

    @cached_property
    def library(self) -> Any:
        """The `tokenizers.Tokenizer`, without what it puts around a text."""
        raise TypeError(f"{type(self).__name__} must build its library")

    @property
    def values(self) -> int:
        """Numbers of a token."""
        return self.library.get_vocab_size()

    @property
    def around(self) -> tuple[tuple[int, ...], int, int]:
        """(tokens before a text, the one behind it, the pad)."""
        raise TypeError(f"{type(self).__name__} must say what stands around a text")

    def cleaned(self, text: str) -> str:
        """The text as the library is given it."""
        return text

    @property
    def open(self) -> bool:
        """Whether it must learn from texts before it can read any."""
        return False

    @property
    def found(self) -> dict[str, Any]:
        """The options that it has learned."""
        return {}

    def learned(self, texts: Sequence[str]) -> Self:
        """After it has looked at the texts at hand."""
        return self

    def kept_in(self, folder: Path) -> Self:
        """With its files in that folder, where that is there."""
        return self

    def sources(self) -> list[Path]:
        """The files that it reads, for a copy."""
        return []

    def pieces(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Of every text, the ids of its pieces and where in the (cleaned) text each begins and ends."""
        found = self.library.encode_batch([self.cleaned(text) for text in texts], add_special_tokens=False)
        return [(one.ids, one.offsets) for one in found]

    @property
    def row(self) -> int:
        """Pieces of one row."""
        return self.length - len(self.around[0]) - 1

    @property
    def room(self) -> int:
        """Pieces that a text can have before it is cut."""
        return self.chunks * self.row

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """int32 [N, length], or [N, chunks, length] of several chunks."""
        return self.encode_and_tell(texts)[0]

    def encode_and_tell(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(the same, bool [N]: which are longer and were cut)."""
        found = [ids for ids, _ in self.pieces(texts)]
        return self._rows(found), np.array([len(ids) > self.room for ids in found], bool)

    def encode_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """Texts in which (word:1.3) and [word] say how much words count: the same, as `jaxgen.core.spec.weighed` has it.

        A piece counts as its last character: the first may be the space before a word.
        """
        said = [weights(self.cleaned(prompt)) for prompt in prompts]
        pieces = self.pieces([text for text, _ in said])
        return self._rows([
            weighed(np.array(ids, int), np.array([counts[end - 1] if end else 1.0 for _, end in places]))
            for (ids, places), (_, counts) in zip(pieces, said, strict=True)
        ])  # fmt: skip

    def _rows(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Ids of pieces, with what stands around them."""
        before, end, pad = self.around
        out = np.full((len(texts), self.chunks, self.length), pad, np.int32)
        for rows, ids in zip(out, texts, strict=True):
            for i, row in enumerate(rows):
                whole = (*before, *ids[i * self.row : (i + 1) * self.row], end)
                row[: len(whole)] = whole
        return out if self.chunks > 1 else out[:, 0]

    def cut(self, text: str) -> str:
        """The end of a text that is cut off; "" where it fits."""
        ((ids, places),) = self.pieces([text])
        return self.cleaned(text)[places[self.room][0] :].strip() if len(ids) > self.room else ""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of such ids, up to the end."""
        before, end, pad = self.around
        ids = [int(i) for i in np.ravel(ids)][len(before) :]
        ids = ids[: next((at for at, i in enumerate(ids) if i in (end, pad)), len(ids))]
        return self.library.decode(ids).strip()

    def spelled(self, ids: Sequence[int]) -> list[str]:
        """What each of such ids says, up to the end; "" of the start."""
        before, end, _ = self.around
        ids = [int(i) for i in ids]
        last = ids.index(end) if end in ids else len(ids)
        return [""] * len(before) + [self.library.decode([i]).strip() for i in ids[len(before) : last]]

    def field(self, captions: int = 1) -> Field:
        """What the texts of an example are: [length], or [captions, length] where there are several."""
        shape = (captions,) * (captions > 1) + (self.chunks,) * (self.chunks > 1) + (self.length,)
        empty = tuple(int(i) for i in self._rows([[]]).reshape(-1)[: self.length])
        kind = "captions" if captions > 1 else "tokens"
        return Field(shape, "int32", kind, values=self.values, empty=empty, end=self.around[1])


@dataclass(frozen=True, kw_only=True)
class NoTokenizer(Tokenizer):
    """Captions stay on the host: nothing is told of them."""


@dataclass(frozen=True, kw_only=True)
class Bytes(Tokenizer):
    """Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; GPT-2's bytes) that is trained on the captions at hand.

    0 is the pad, 1 the start, 2 the end, then 256 bytes, so that every text can be written; then the `merges`, which are found
    out of the training captions once, on one thread or many, and kept in the run's config.
    """

    length: Annotated[int, Range(least=2)] = 32
    vocab: Annotated[int, Range(least=3 + 256)] = 512
    merges: tuple[str, ...] = ()  # "left right" each, in the order in which they are made; (): learn them

    @property
    def open(self) -> bool:
        """Before it has learned."""
        return not self.merges and self.vocab > 3 + 256

    @property
    def found(self) -> dict[str, Any]:
        """The merges."""
        return {"merges": self.merges}

    def learned(self, texts: Sequence[str]) -> Self:
        """With merges of the most frequent pairs."""
        from tokenizers import trainers

        library = self._library({}, [])
        trainer = trainers.BpeTrainer(vocab_size=self.vocab - 3, initial_alphabet=ALPHABET, show_progress=False)
        library.train_from_iterator(texts, trainer)
        merges = json.loads(library.to_str())["model"]["merges"]
        return replace(self, merges=tuple(one if isinstance(one, str) else " ".join(one) for one in merges))

    @cached_property
    def library(self) -> Any:
        """Bytes, then what the merges make."""
        merges = [tuple(one.split(" ")) for one in self.merges]
        known = ALPHABET + ["".join(pair) for pair in merges]
        return self._library({piece: 3 + i for i, piece in enumerate(known)}, merges)

    def _library(self, vocab: dict[str, int], merges: list[tuple[str, ...]]) -> Any:
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

        library = Tokenizer(models.BPE(vocab, merges))
        library.normalizer = normalizers.NFC()
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        return library

    @property
    def values(self) -> int:
        """With pad, start and end, which no text can spell; as many as asked for, also where the captions have fewer pairs."""
        return self.vocab

    @property
    def around(self) -> tuple[tuple[int, ...], int, int]:
        """Start, end, pad."""
        return (1,), 2, 0


@dataclass(frozen=True, kw_only=True)
class Published(Tokenizer):
    """What is read from files of others."""

    files: ClassVar[tuple[str, ...]]  # that it can be read from, the best first
    marks: ClassVar[tuple[str, ...]]  # pieces without which a file is of another kind

    path: FilePath = ""

    def read(self, file: Path) -> Any:
        """The `tokenizers.Tokenizer` of one of these files."""
        raise TypeError(f"{type(self).__name__} must read its files")

    @cached_property
    def library(self) -> Any:
        """What is read; a UserError for a file of another kind."""
        try:
            library = self.read(self.file)
            if missing := [mark for mark in self.marks if library.token_to_id(mark) is None]:
                raise ValueError(f"it has no {', '.join(missing)}")
        except Exception as error:  # the library raises nothing narrower
            if isinstance(error, UserError):
                raise
            why = str(error).splitlines()[0]
            raise UserError(
                f"config.data.tokenizer.path: {self.file} is no file of the tokenizer {self.kind} ({why}); name "
                f"{' or '.join(self.files)} of one, or set config.data.tokenizer to another"
            ) from error
        return library

    @property
    def kind(self) -> str:
        """As a config calls it."""
        return type(self).__name__.lower()

    def kept_in(self, folder: Path) -> Self:
        """With its files in that folder, where that is there."""
        return replace(self, path=str(folder)) if folder.is_dir() else self

    def sources(self) -> list[Path]:
        """The file that it reads."""
        return [self.file]

    @cached_property
    def file(self) -> Path:
        """The file that `path`, a file or a folder, says; a UserError if there is none that it can read."""
        key, kind = "config.data.tokenizer.path", self.kind
        known = [name + end for name in self.files for end in ("", ".gz")]
        if not self.path:
            raise UserError(f"{key} is empty: the tokenizer {kind} is read from a file; name {' or '.join(self.files)}")
        place = Path(self.path)
        found = [place] if place.is_file() else [place / name for name in known if (place / name).is_file()]
        if not found:
            raise UserError(
                f"{key}={self.path} holds no file of the tokenizer {kind}; name a folder with {' or '.join(self.files)}"
            )
        return found[0]


@dataclass(frozen=True, kw_only=True)
class Clip(Published):
    """CLIP's byte-level BPE (Radford et al. 2021, arXiv:2103.00020): lower case, 49,408 ids.

    clean: "openai" repairs broken encodings and HTML first, as OpenAI's own program does (ftfy, html.unescape); "none" does not,
    as transformers. pad: "end" (OpenAI's models in transformers, SD 1, Flux) or "zero" (OpenAI's program, OpenCLIP), or "!", which
    is id 0 as well, and so becomes every "!" of a text (SD 2, SDXL's second).
    """

    files: ClassVar[tuple[str, ...]] = ("merges.txt", "tokenizer.json", "bpe_simple_vocab_16e6.txt")
    marks: ClassVar[tuple[str, ...]] = ("<|startoftext|>", "<|endoftext|>")

    clean: Literal["openai", "none"] = "none"
    pad: Literal["end", "zero", "!"] = "end"

    def cleaned(self, text: str) -> str:
        """What OpenAI's program makes of it first."""
        if self.clean == "none":
            return text
        import ftfy

        return html.unescape(html.unescape(ftfy.fix_text(text))).strip()

    def read(self, file: Path) -> Any:
        """Its ids follow from the merges: bytes, bytes that end a word, merges, start and end."""
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

        text = _text(file)
        if ".json" in file.suffixes:
            pairs = [one.split(" ") if isinstance(one, str) else one for one in json.loads(text)["model"]["merges"]]
        else:
            pairs = [line.split(" ") for line in text.splitlines()[1 : 1 + 48_894] if line]
        known = ALPHABET + [f"{c}</w>" for c in ALPHABET] + ["".join(pair) for pair in pairs]
        vocab = {piece: i for i, piece in enumerate([*known, *self.marks])}
        library = Tokenizer(models.BPE(vocab, [tuple(p) for p in pairs], end_of_word_suffix="</w>", fuse_unk=False))
        library.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        library.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        library.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("</w>", " ")])
        marks = [*self.marks, *["!"] * (self.pad == "!")]
        library.add_special_tokens([AddedToken(mark, normalized=mark != "!", special=True) for mark in marks])
        return library

    @property
    def around(self) -> tuple[tuple[int, ...], int, int]:
        """Start, end, pad."""
        start, end = map(self.library.token_to_id, self.marks)
        return (start,), end, end if self.pad == "end" else 0


@dataclass(frozen=True, kw_only=True)
class T5(Published):
    """SentencePiece's unigram model of T5 (Raffel et al. 2020, arXiv:1910.10683): 32,100 ids, end 1, pad 0, unknown 2.

    Accents and scripts that its 32,000 pieces lack become unknown; a typed "</s>" is a real end.
    """

    files: ClassVar[tuple[str, ...]] = ("tokenizer.json", "spiece.model")
    marks: ClassVar[tuple[str, ...]] = ("</s>", "<pad>")

    def read(self, file: Path) -> Any:
        """From either form."""
        return (_unigram if ".model" in file.suffixes else _stored)(file)

    @property
    def around(self) -> tuple[tuple[int, ...], int, int]:
        """No start."""
        return (), 1, 0


@dataclass(frozen=True, kw_only=True)
class Bert(Published):
    """WordPiece (Devlin et al. 2019, arXiv:1810.04805): [CLS] pieces [SEP], [PAD] is 0. `lower`: of a bare vocab.txt."""

    files: ClassVar[tuple[str, ...]] = ("tokenizer.json", "vocab.txt")
    marks: ClassVar[tuple[str, ...]] = ("[CLS]", "[SEP]", "[PAD]")

    lower: bool = True

    def read(self, file: Path) -> Any:
        """From either form."""
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

        if ".json" in file.suffixes:
            return _stored(file)
        vocab = {piece: i for i, piece in enumerate(_text(file).splitlines())}
        library = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
        library.normalizer = normalizers.BertNormalizer(lowercase=self.lower)
        library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        library.decoder = decoders.WordPiece()
        library.add_special_tokens([mark for mark in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if mark in vocab])
        return library

    @property
    def around(self) -> tuple[tuple[int, ...], int, int]:
        """[CLS], [SEP], [PAD]."""
        start, end, pad = map(self.library.token_to_id, self.marks)
        return (start,), end, pad


def _text(file: Path) -> str:
    """A text file, packed or not."""
    data = file.read_bytes()
    return (gzip.decompress(data) if file.suffix == ".gz" else data).decode()


def _stored(file: Path) -> Any:
    """A tokenizer.json; what it says of padding and truncation is not its part here."""
    from tokenizers import Tokenizer

    library = Tokenizer.from_str(_text(file))
    library.no_padding()
    library.no_truncation()
    return library


def _wire(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of the fields of a protobuf message: int, 4 or 8 bytes, or bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}.get(kind) or varint()
        yield number, data[at : at + size]
        at += size


def _unigram(file: Path) -> Any:
    """A bare SentencePiece model, as T5's converted form has it; its 100 further marks stand behind the pieces."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    data = file.read_bytes()
    data = gzip.decompress(data) if file.suffix == ".gz" else data
    pieces, charsmap = [], b""
    for number, value in _wire(data):
        if number == 1:  # a piece: text, score, type
            piece = dict(_wire(value))
            pieces.append((piece[1].decode(), struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0, piece.get(3, 1)))
        elif number == 3:  # how texts are normalised
            charsmap = dict(_wire(value)).get(2, b"")
    marks = [f"<extra_id_{n}>" for n in reversed(range(100))]
    unknown = next(i for i, (_, _, kind) in enumerate(pieces) if kind == 2)
    vocab = [(text, score) for text, score, _ in pieces] + [(mark, 0.0) for mark in marks]
    library = Tokenizer(models.Unigram(vocab, unk_id=unknown, byte_fallback=False))
    parts = [normalizers.Precompiled(charsmap)] if charsmap else []
    parts += [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")]
    library.normalizer = normalizers.Sequence(parts)
    library.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    library.add_special_tokens([text for text, _, kind in pieces if kind in (2, 3)] + marks)
    return library
