#!/usr/bin/env bash
# aMUSEd's transformer (diffusers' UVit2DModel): every norm is a root mean square, but for one in each layer, and no file tells.
#
# Guessed: one kind of norm all through, as in the paper's net: what precedes attention, what precedes the text and what precedes the
# feed-forward part are built by one class, and all three store a `weight` and no bias. That is wrong.
# Seen with diffusers 0.42.1 and torch 2.13.0: of a layer's three adaptive norms, the third takes the mean away as well (a layer norm
# without bias). Its tensors have the names and shapes of its neighbours, and the config has no field for it, so whoever rebuilds the
# net from config and weights loads everything without a complaint and gets other outputs: those of a fresh net of two layers move by 6 % of
# their standard deviation when the third norms are root mean squares too.
# jaxgen builds it so (nets/uvit.py), compared with the reference's outputs in a golden case.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet diffusers==0.42.1 torch==2.13.0 transformers numpy
cat > "$folder/norms.py" <<'PY'
import torch
from diffusers import UVit2DModel
from diffusers.models.normalization import RMSNorm

torch.manual_seed(0)
net = UVit2DModel(
    hidden_size=64, cond_embed_dim=24, micro_cond_encode_dim=8, micro_cond_embed_dim=40, encoder_hidden_size=24,
    vocab_size=20, codebook_size=16, in_channels=32, block_out_channels=32, num_res_blocks=1, num_hidden_layers=2,
    num_attention_heads=2, block_num_heads=2, intermediate_size=64, hidden_dropout=0.0, attention_dropout=0.0,
).eval()  # fmt: skip
layer = net.transformer_layers[0]
for name in ("norm1", "norm2", "norm3"):
    norm = getattr(layer, name).norm
    print(name, type(norm).__name__, *(f"{key}{list(value.shape)}" for key, value in norm.state_dict().items()))
given = dict(
    input_ids=torch.randint(0, 16, (2, 8, 8)), encoder_hidden_states=torch.randn(2, 5, 24),
    pooled_text_emb=torch.randn(2, 24), micro_conds=torch.randn(2, 5),
)  # fmt: skip
with torch.no_grad():
    before = net(**given)
    for layer in net.transformer_layers:
        norm = RMSNorm(64, eps=layer.norm3.norm.eps)
        print("loads without a complaint:", norm.load_state_dict(layer.norm3.norm.state_dict()))
        layer.norm3.norm = norm
    after = net(**given)
moved = float((after - before).std() / before.std())
print(f"outputs move by {100 * moved:.0f} % of their standard deviation")
assert moved > 0.03
PY
found=$("$folder/venv/bin/python" "$folder/norms.py" 2> /dev/null)
echo "$found"
[ "$(echo "$found" | head -3)" = "norm1 RMSNorm weight[64]
norm2 RMSNorm weight[64]
norm3 LayerNorm weight[64]" ]
