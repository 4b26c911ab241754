"""How many runs share a GPU: by what they take of its memory, and by how much faster they are together."""
