"""What is predicted: MLM, TLM and their mixture."""
