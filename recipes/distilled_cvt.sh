#!/bin/sh
# checkpoints/byols-cvt-2048-distilled.safetensors: run in a clone's folder that also holds what recipes/distilled.sh needs,
# except for its teacher (see the card). The teacher is the default weights, widened.
set -e
train() {
    serab-byols pretrain pretrain \
        pretrain_nonspeech pretrain_nonspeech pretrain_nonspeech pretrain_nonspeech made_up \
        --teacher teacher.safetensors \
        --statistics=-6,5 --no-post-norm --batch-size 64 --lr-schedule cosine --warmup-steps 200 \
        --weight-decay 1e-4 --beta2 0.99 \
        --view-probability 0.6 --fader-gain 0.3 --equalizer-gain 0.15 --silence-probability 0.08 \
        --precision bf16-mixed "$@"
}
python recipes/widen.py byols-audiontt-512-distilled teacher.safetensors 1536
# Ours was interrupted at step 1183 of 5000. This runs all of them, so its result will differ.
train -o first.safetensors --encoder cvt --steps 5000 --lr 1e-3
train -o second.safetensors --init first.safetensors --steps 4000 --lr 5e-4
train -o byols-cvt-2048-distilled.safetensors --init second.safetensors --hybrid log-mel-statistics \
    --steps 6000 --lr 5e-4
