"""One file per layer, each with its forward pass above its backward pass."""
