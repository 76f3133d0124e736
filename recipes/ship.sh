#!/bin/sh
# What a shipped file says of itself beside its recipe: recipes/ship.sh TRAINED.safetensors NAME COMMIT [FACTS ...]
set -e
trained=$1 name=$2 commit=$3
shift 3
serab-byols convert "$trained" "checkpoints/$name.safetensors" --fact licence=MIT \
    --fact "citation=BYOL-S, Elbanna et al. 2022, https://arxiv.org/abs/2206.12038" \
    --fact "card=checkpoints/$name.md" --fact "commit=$commit" "$@"
