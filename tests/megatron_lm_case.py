"""A case file as Megatron-LM has them."""

from __future__ import annotations

CASE = """
ENV_VARS:
  NVTE_FUSED_ATTN: 0
  SWITCHED: true
MODEL_ARGS:
  --num-layers: 12
  --hidden-size: 512
  --num-attention-heads: 8
  --seq-length: 1024
  --max-position-embeddings: 1024
  --micro-batch-size: 4
  --global-batch-size: 32
  --train-iters: 50
  --lr: 0.00015
  --pipeline-model-parallel-size: 4
  --transformer-impl: transformer_engine
  --dist-ckpt-strictness: log_all
  --vocab-file: ${DATA_PATH}/vocab.json
  --merge-file: ${DATA_PATH}/merges.txt
  --data-path: ${DATA_PATH}/my_text_document
TEST_TYPE: frozen-start
LAUNCHER: ft_launcher
AFTER_SCRIPT: echo done
METRICS: [lm loss, never heard of]
"""
