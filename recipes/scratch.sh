#!/bin/sh
# checkpoints/byols-audiontt-512-scratch.safetensors: run in a folder that holds pretrain/ and
# pretrain_nonspeech/ (see the card).
set -e
serab-byols pretrain pretrain pretrain_nonspeech \
    -o byols-audiontt-512-scratch.safetensors --size 512 --no-post-norm \
    --steps 1500 --batch-size 64 --lr 7e-4 --lr-schedule cosine --warmup-steps 60 \
    --ema-schedule cosine --fader-gain 0.5 --equalizer-gain 0.15 --silence-probability 0.05 \
    "$@"
