"""The commands charrnn-train and charrnn-export."""
