"""Video and images in, labels in, clips out."""
