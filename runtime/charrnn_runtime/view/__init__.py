"""What the network does at each character of a text: its states and gates, as numbers and as a page."""
