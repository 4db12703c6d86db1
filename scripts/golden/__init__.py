"""Golden numbers: what the ancestors' own code computed, and how ours is held against it."""
