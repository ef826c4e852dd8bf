"""Examples: file formats, graders, generated problems, and the choice of a dataset."""
