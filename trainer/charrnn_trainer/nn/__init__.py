"""The network: cells, dropout, loss, and what its weights start from."""
