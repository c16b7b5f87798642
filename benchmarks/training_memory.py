"""Estimate what an update takes on a GPU, without one and without computing anything.

    python benchmarks/training_memory.py                        # the table of docs/training.md
    python benchmarks/training_memory.py --frames 5 --clips 1 --side 384 640

The network runs forward and backward on tensors without numbers (torch's fake tensors), and the
bytes alive are counted: weights, gradients and AdamW's two states in float32, activations in the
type that autocast gives them. Kernels' scratch space, fragmentation, DALI and CUDA itself (about
1 GiB) are not in it: it is an estimate, to be checked by what `train.py` prints of its first step.
The last line is JSON.
"""

ROBERTA = {
    "model_type": "roberta", "vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 514,
    "type_vocab_size": 1, "pad_token_id": 1,
}  # fmt: skip
GIB = 2**30
