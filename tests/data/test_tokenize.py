"""Text as tokens: the ids, what is cut, what the captions at hand teach, several captions of a picture."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from jaxgen.config.files import load, override
from jaxgen.core.conditions import one_caption, with_one_caption
from jaxgen.core.spec import Field, Spec
from jaxgen.data.sources import Shapes, Tokenized
from jaxgen.data.sources.source import Source
from jaxgen.data.tokenize import T5, Bert, Bytes, Clip
from jaxgen.errors import UserError


@pytest.fixture(scope="module")
def captions():
    return [text for (text,) in Shapes(num=400).open("train").captions]


def test_bytes_learn_what_the_captions_repeat_and_can_write_everything(captions):
    plain = Bytes(vocab=259, length=99)
    assert plain.open is False and plain.values == 259
    assert len(plain.pieces(["aé"])[0][0]) == 3  # of one byte each, é is two
    learned = Bytes(vocab=300).learned(captions)
    assert Bytes(vocab=300).open and not learned.open and len(learned.merges) == 41
    again = Bytes(**{"vocab": 300, **learned.found})  # as a run's config keeps it
    strange = "naïve 東京 🙂 <end> \x00"
    for text in (captions[0], strange, ""):
        ids = Bytes(length=99, vocab=300, merges=learned.merges).encode([text])[0]
        assert again.decode(ids) == text.strip() and ids[0] == 1 and (ids == 2).sum() == 1
    assert learned.encode(captions).max() < learned.values == 300
    assert tuple(learned.encode([""])[0][:3]) == (1, 2, 0) == learned.field().empty[:3]


def test_what_each_token_says(captions):
    tokenizer = Bytes(length=9).learned(captions)
    (ids,) = tokenizer.encode(["a red ring"])
    assert tokenizer.spelled(ids) == ["", "a", "red", "ring"]


def test_what_is_cut_off_is_told_with_its_words(captions):
    tokenizer = Bytes(length=8).learned(captions)
    assert tokenizer.cut("a red ring") == ""
    text = "a small red circle at the top left, on grey"
    kept, cut = tokenizer.decode(tokenizer.encode([text])[0]), tokenizer.cut(text)
    assert kept and cut and f"{kept} {cut}" in (text, text.replace(",", " ,")) and tokenizer.encode([text])[0][-1] == 2


@pytest.mark.parametrize("kind", [Clip, T5, Bert])
@pytest.mark.parametrize("text", ["", "{}", '{"model": {"type": "Unigram", "vocab": []}}', "[a]\nb = c d e\n"])
def test_a_file_of_another_kind_is_named(kind, text, tmp_path):
    (tmp_path / "tokenizer.json").write_text(text)
    words = f"tokenizer.json is no file of the tokenizer {kind.__name__.lower()} .*; name"
    with pytest.raises(UserError, match=words) as error:
        kind(path=str(tmp_path)).encode(["a red ring"])
    assert "\n" not in str(error.value)


def test_captions_become_a_condition(captions):
    source = Shapes(size=8, num=400).open("train")
    told = Tokenized(source, (Bytes().learned(captions),))
    assert told.spec["caption"] == told.tokenizers[0].field() and told.spec["caption"].shape == (32,)
    assert told.tokenizers[0].decode(told[3]["caption"]) == source[3]["caption"]
    assert told.fingerprint() == source.fingerprint()


class Several(Source):
    """Examples with one to three captions."""

    spec = Spec(image=Field((1, 1, 1), "uint8", "image", "target"), caption=Field((), "str", "text"))
    captions = [("one",), ("one", "two"), ("one", "two", "three")] * 2

    def __len__(self):
        return 6

    def __getitem__(self, i):
        return {"image": np.full((1, 1, 1), i, np.uint8), "caption": self.captions[i][0]}


def test_one_of_several_captions_is_drawn_evenly_by_the_key():
    import jax

    told = Tokenized(Several(), (Bytes(length=8, vocab=259),))
    assert told.spec["caption"].kind == "captions" and told.spec["caption"].shape == (3, 8)
    seen = with_one_caption(told.spec)
    assert seen["caption"].kind == "tokens" and seen["caption"].shape == (8,)
    batch = {"caption": np.stack([told[i]["caption"] for i in (0, 1, 2)]).repeat(300, 0)}
    first, again, other = (one_caption(told.spec, batch, jax.random.key(k))["caption"] for k in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
    words = [told.tokenizers[0].decode(row) for row in np.asarray(first)]
    assert set(words[:300]) == {"one"} and set(words[300:600]) == {"one", "two"}
    counts = [words[600:].count(word) for word in ("one", "two", "three")]
    assert sum(counts) == 300 and min(counts) > 60


def test_another_tokenizer_begins_with_its_own_length():
    config = override(load("text_shapes"), {"data.tokenizer": "none"})
    assert override(config, {"data.tokenizer": "bytes"}).data.tokenizer.length == Bytes().length
    assert override(config, {"data.tokenizer": "bytes", "data.tokenizer.length": 9}).data.tokenizer.length == 9


@pytest.mark.parametrize("kind", [T5, Bert])
def test_a_stored_tokenizer_does_not_pad_or_cut_by_itself(kind, tmp_path):
    pieces = {piece: i for i, piece in enumerate([*kind.marks, "[UNK]", "a", "red"])}
    library = Tokenizer(models.WordLevel(pieces, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.enable_padding(length=5)
    library.enable_truncation(1)
    library.save(str(tmp_path / "tokenizer.json"))
    assert [ids for ids, _ in kind(path=str(tmp_path)).pieces(["a red", "a"])] == [
        [pieces["a"], pieces["red"]],
        [pieces["a"]],
    ]


@pytest.mark.parametrize("kind", [Clip, T5, Bert])
def test_a_tokenizer_without_its_file_says_which(kind, tmp_path):
    for path in ("", str(tmp_path)):
        with pytest.raises(UserError, match=r"config\.data\.tokenizer\.path.*name"):
            kind(path=path).encode(["a"])


def test_bert_reads_a_bare_vocabulary(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "ring", "##s", "a"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    tokenizer = Bert(path=str(tmp_path), length=8)
    assert tokenizer.encode(["A red RINGS zebra"])[0].tolist() == [2, 7, 4, 5, 6, 1, 3, 0]
    assert tokenizer.decode([2, 7, 4, 5, 6, 3, 0]) == "a red rings"
