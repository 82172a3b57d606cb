"""Readers: files as users have them, to lines and documents, in bounded memory."""
