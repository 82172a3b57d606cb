#!/usr/bin/env bash
# The whole path on the embedded sample corpus, in minutes on two cores: text in, encoder out.
# usage: bash launch/quickstart.sh [RUN_DIR]      (default runs/quickstart; it is begun anew)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/setup.sh

out="${1:-runs/quickstart}"
languages=en,fr,es,ru,zh
started=$SECONDS
title() { printf '\n== %s (%d s)\n' "$*" "$((SECONDS - started))"; }

# A folder that this script did not make is left alone.
if [ -e "$out" ] && [ ! -e "$out/corpus" ]; then
    echo "quickstart: $out exists and is not a quickstart folder; give another one" >&2
    exit 2
fi
rm -rf "$out"
mkdir -p "$out"

title "1. Sample corpus: $languages"
megaxlm data sample "$out/corpus" --languages "$languages" --lexicon small \
    --documents 3000 --pairs 6000 --retrieval 200

title "2. Clean, deduplicate, train the tokenizer, encode to Arrow shards"
sources=()
megaxlm data build configs/data/sample.yaml --set "output=$out/data"
megaxlm data inspect "$out/data" --alpha 0.5

title "3. Pretrain with DeepSpeed: 2 processes, ZeRO-3"
# On the CPU each process gets its share of the cores.
cores=$(nproc)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > 2 ? cores / 2 : 1))}"
deepspeed --num_gpus 2 --log_level warning --module megaxlm pretrain configs/pretrain/quickstart.yaml \
    --set "run_dir=$out/run" "data.path=$out/data" "evaluation.retrieval=$out/corpus/retrieval"

title "4. Export and reload with Transformers"
megaxlm export "$out/run" "$out/export"
