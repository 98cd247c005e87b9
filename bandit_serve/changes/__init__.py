"""Changes of experiments and models, the same over HTTP, on the command line and by the lease holder."""
