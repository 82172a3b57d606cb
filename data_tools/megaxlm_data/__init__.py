"""Data preparation: corpora in, tokenised shards out; and the sample corpus."""
