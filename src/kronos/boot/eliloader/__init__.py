"""eliloader: what a paravirtual guest boots while it is being installed, and the step from there to its own disk."""
