"""Stage one: images and a model to predictions in Parquet. Knows nothing of TensorBoard."""
