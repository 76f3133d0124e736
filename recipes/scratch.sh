#!/bin/sh
# checkpoints/byols-audiontt-512-scratch.safetensors: run in a folder that holds pretrain/ and
# pretrain_nonspeech/ (see the card).
set -e
serab-byols pretrain pretrain pretrain_nonspeech \
    -o byols-audiontt-512-scratch.safetensors --size 512 --no-post-norm \
    --hybrid log-mel-statistics --hybrid-weight 4 \
    --steps 3000 --batch-size 128 --lr 7e-4 --lr-schedule cosine --warmup-steps 30 \
    --ema-schedule cosine --fader-gain 0.2 --precision bf16-mixed \
    "$@"
