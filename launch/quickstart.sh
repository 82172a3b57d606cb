#!/usr/bin/env bash
# The whole path on the embedded sample corpus, in minutes on two cores: text in, encoder out.
# usage: bash launch/quickstart.sh [RUN_DIR [KEY=VALUE ...]]
# RUN_DIR (runs/quickstart) is begun anew; KEY=VALUE changes a setting of the pretraining run.
set -euo pipefail
out="${1:+$(realpath -m "$1")}"  # as seen from the caller's folder
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/setup.sh

out="${out:-runs/quickstart}"
changes=("${@:2}")
languages=en,es,ru,hi,sw
started=$SECONDS
title() { printf '\n== %s (after %d s)\n' "$*" "$((SECONDS - started))"; }

# A folder that this script did not make is left alone.
if [ -e "$out" ] && [ ! -e "$out/.quickstart" ]; then
    echo "quickstart: $out exists and was not made by this script; give another folder" >&2
    exit 2
fi
rm -rf "$out"
mkdir -p "$out"
touch "$out/.quickstart"

title "1. Sample corpus in $languages"
megaxlm data sample "$out/corpus" --languages "$languages" --lexicon small \
    --documents 2000 --pairs 6000 --retrieval 200

title "2. Clean, deduplicate, train a tokenizer, encode to Arrow shards"
# The recipe names runs/quickstart; for another folder its paths are changed on the way.
escaped="$(printf '%s' "$out" | sed 's/[#&\\]/\\&/g')"
sed "s#runs/quickstart#$escaped#" configs/data/sample.yaml >"$out/recipe.yaml"
megaxlm data build "$out/recipe.yaml"
megaxlm data inspect "$out/data" --alpha 0.5

title "3. Pretrain with DeepSpeed: 2 processes, ZeRO-3"
# Two processes on the CPU, also where there is one GPU; each gets its share of the cores.
export DS_ACCELERATOR="${DS_ACCELERATOR:-cpu}"
cores=$(nproc)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > 2 ? cores / 2 : 1))}"
deepspeed --num_gpus 2 --log_level warning --module megaxlm pretrain configs/pretrain/quickstart.yaml \
    --set "run_dir=$out/run" "data.path=$out/data" "evaluation.retrieval=$out/corpus/retrieval" \
    "${changes[@]}"

title "4. Export, reload with Transformers, fill a mask in three languages"
megaxlm export "$out/run" "$out/export"
python - "$out/export" <<'PYTHON'
import sys

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import logging

logging.disable_progress_bar()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForMaskedLM.from_pretrained(sys.argv[1]).eval()
print(f"{type(model).__name__}, {model.num_parameters():,} parameters")
for text in (
    "The teacher saw three black <mask> at the school.",
    "La maestra vio tres gatos <mask> en la escuela.",
    "Учительница увидела в <mask> трёх чёрных кошек.",
):
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, inputs["input_ids"][0] == tokenizer.mask_token_id]
    best = logits.softmax(-1)[0].topk(3)
    words = (tokenizer.convert_ids_to_tokens(int(index)) for index in best.indices)
    print(text, "->", ", ".join(f"{w} {p:.2f}" for w, p in zip(words, best.values.tolist())))
PYTHON

title "Done"
echo "TensorBoard: tensorboard --logdir $out/run/tensorboard"
echo "Hugging Face folder: $out/export"
