"""What a training image goes through after crop and flip: one file a kind, `chain.py` for their order."""
