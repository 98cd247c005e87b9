"""HTTP service: its map (`app`), its processes (`supervisor`, `worker`), and what every route shares."""
