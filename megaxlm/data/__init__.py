"""What comes next, and in what shape: shards, order, packing, masking, micro-batches."""
