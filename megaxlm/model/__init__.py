"""The packed encoder, its heads, and the two-way bridge to Hugging Face."""
