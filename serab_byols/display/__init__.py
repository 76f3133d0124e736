"""How results and progress are shown, on terminals and in notebooks."""
