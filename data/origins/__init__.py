"""What an LMDB can be built from: one file a kind of data set, `table.py` for the list of them."""
