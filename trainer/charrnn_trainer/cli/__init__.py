"""The commands charrnn-train, charrnn-export and charrnn-compare."""
