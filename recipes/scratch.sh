#!/bin/sh
# checkpoints/byols-audiontt-512-scratch.safetensors and byols-audiontt-2048-scratch.safetensors: run in a clone's folder
# that also holds pretrain/, pretrain_nonspeech/ and made_up/ (see the card).
set -e
serab-byols pretrain pretrain \
    pretrain_nonspeech pretrain_nonspeech pretrain_nonspeech pretrain_nonspeech made_up \
    -o byols-audiontt-512-scratch.safetensors --size 512 --no-post-norm \
    --byol-weight 0 --contrastive-weight 1 --hybrid log-mel-statistics \
    --steps 1500 --batch-size 128 --lr 1.5e-3 --lr-schedule cosine --warmup-steps 30 \
    --fader-gain 0.2 --equalizer-gain 0.15 --silence-probability 0.08 --precision bf16-mixed \
    "$@"
python recipes/widen.py byols-audiontt-512-scratch.safetensors byols-audiontt-2048-scratch.safetensors 2048
