#!/bin/sh
# checkpoints/byols-audiontt-512-distilled.safetensors: run in a folder that holds
#   pretrain/             8.13 h of speech (see the card)
#   pretrain_nonspeech/   15 min of backgrounds and instruments, drawn from four times as often
#   made_up/              python recipes/make_sounds.py made_up
#   default512_BYOLAs64x96-2107281850-e100-bs256-lr0003-rs42.pth   the teacher
set -e
train() {
    serab-byols pretrain pretrain \
        pretrain_nonspeech pretrain_nonspeech pretrain_nonspeech pretrain_nonspeech made_up \
        --teacher default512_BYOLAs64x96-2107281850-e100-bs256-lr0003-rs42.pth \
        --dropout 0 --statistics=-6,5 --no-post-norm --batch-size 64 --lr-schedule cosine \
        --weight-decay 1e-4 --beta2 0.99 \
        --view-probability 0.6 --fader-gain 0.3 --equalizer-gain 0.15 --silence-probability 0.08 \
        "$@"
}
train -o first.safetensors --size 512 --steps 4000 --lr 2e-3 --warmup-steps 60
train -o byols-audiontt-512-distilled.safetensors --init first.safetensors \
    --steps 8000 --lr 1.2e-3 --warmup-steps 100 --precision bf16-mixed
