"""Shows what the network does at each character of a text: states and gates, as numbers and as a page."""
