"""What is computed of detected boxes, without any model."""
