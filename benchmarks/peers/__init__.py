"""What others do with the same weights, each as they themselves would."""
