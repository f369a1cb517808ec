"""Collections: blocks, random access, and what can be saved of a damaged one."""
