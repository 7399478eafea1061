"""Reading a bounded range again: the same fold as live, over what the lake holds."""
