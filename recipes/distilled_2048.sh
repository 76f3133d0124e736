#!/bin/sh
# checkpoints/byols-audiontt-2048-distilled.safetensors: run in a clone's folder that also holds what recipes/distilled.sh
# needs (see the card).
set -e
python recipes/widen.py byols-audiontt-512-distilled wide.safetensors 2048
serab-byols pretrain pretrain \
    pretrain_nonspeech pretrain_nonspeech pretrain_nonspeech pretrain_nonspeech made_up \
    -o trained.safetensors --init wide.safetensors \
    --teacher default512_BYOLAs64x96-2107281850-e100-bs256-lr0003-rs42.pth --byol-weight 0 \
    --hybrid log-mel-statistics \
    --dropout 0 --statistics=-6,5 --no-post-norm --batch-size 64 --lr-schedule cosine \
    --weight-decay 1e-4 --beta2 0.99 \
    --view-probability 0.6 --fader-gain 0.3 --equalizer-gain 0.15 --silence-probability 0.08 \
    --steps 4000 --lr 5e-4 --warmup-steps 200 --precision bf16-mixed "$@"
python recipes/average.py wide.safetensors trained.safetensors byols-audiontt-2048-distilled.safetensors
