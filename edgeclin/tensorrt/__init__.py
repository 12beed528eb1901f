"""What builds TensorRT engines on the device that runs them, and keeps them there."""
