"""How the HEAR functions and the file commands run an encoder: fast, exact, and never stale."""
