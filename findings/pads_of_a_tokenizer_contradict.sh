#!/usr/bin/env bash
# A CLIP tokenizer's folder may name two pads; the map of special tokens wins over the tokenizer's config, and takes a letter along.
#
# Guessed: `tokenizer_config.json` is a tokenizer's config and has the last word; `special_tokens_map.json` is what older programs wrote
# beside it and says the same. That is wrong for published models: in Stable Diffusion 2.1's folder the config's pad is
# "<|endoftext|>" and the map's is "!". Seen with transformers 5.23.0 on a small folder of that form: the map's pad is taken without a
# word. And since "!" is a special token then, a "!" that somebody types is no longer the word "!" that the model was trained to read,
# but the pad, even in the middle of a text. Whoever reads the config alone pads with another id, and all positions behind a short
# prompt differ.
# jaxgen reads the map first (pretrained/pipelines.py); padding is a field of its tokenizers.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.23.0
cat > "$folder/pads.py" <<'PY'
import json
from pathlib import Path
from tempfile import mkdtemp

from transformers import CLIPTokenizer

folder = Path(mkdtemp())
letters = [chr(code) for code in range(33, 127)]
words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
(folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
(folder / "merges.txt").write_text("#version: 0.2\n")
special = {"bos_token": "<|startoftext|>", **dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")}
config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 6, **special}
(folder / "tokenizer_config.json").write_text(json.dumps(config))
for name, pad in (("config alone", None), ("with a map", "!")):
    if pad:
        (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": pad}))
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    ids = tokenizer("a!", padding="max_length").input_ids
    print(f"{name}:", *tokenizer.convert_ids_to_tokens(ids))
PY
found=$("$folder/venv/bin/python" "$folder/pads.py" 2> /dev/null)
echo "$found"
[ "$found" = "config alone: <|startoftext|> a</w> !</w> <|endoftext|> <|endoftext|> <|endoftext|>
with a map: <|startoftext|> a</w> ! <|endoftext|> ! !" ]
