"""What texts in an author's style are worth: two judges, swapped authors, copying, drift, and over-used words."""
