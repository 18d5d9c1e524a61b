"""The tab Predictions of TensorBoard, and the same queries on the command line."""
