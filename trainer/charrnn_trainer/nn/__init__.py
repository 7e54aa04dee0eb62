"""The network: cells, dropout, loss and weight initialization."""
