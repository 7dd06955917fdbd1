"""The words of the tokenizer: assigned to patches, stored, ordered, followed over a training."""
