"""The saliency map. Reads run directories; imports no torch."""
