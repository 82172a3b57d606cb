"""Public ops of megaxlm: one op a module, its reference beside it. Imports torch alone."""
